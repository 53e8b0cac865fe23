// The promises that every answer must keep, whatever the request.
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import ajvFormats from 'ajv-formats';
import type { Operation, Schema } from './document.js';

/** A received answer. */
export interface Received {
  readonly status: number;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly text: string;
  /** The text as JSON; undefined if it is not JSON. */
  readonly body: unknown;
}

/** Returns the promises that an answer to an operation breaks; empty if it keeps all. */
export type Check = (operation: Operation, answer: Received) => readonly string[];

/** The headers that helmet sets on every answer of an API. */
const SECURITY_HEADERS: Readonly<Record<string, RegExp>> = {
  'content-security-policy': /^default-src 'none';\s*frame-ancestors 'none'$/,
  'cross-origin-resource-policy': /^same-origin$/,
  'referrer-policy': /^no-referrer$/,
  'strict-transport-security': /^max-age=\d+/,
  'x-content-type-options': /^nosniff$/,
};

/** Words of the driver, the server and the engine that must not be in an answer. No request contains any of them. */
const INSIDES =
  /node_modules|\bat \S+ \(|\.[jt]s:\d+|SQLSTATE|violates|syntax error at|invalid (?:input|byte)|relation "|FST_|ECONN|postgres(?:ql)?:\/\/|\$argon2|password authentication|ZodError|TypeError/;

/** @param secrets texts that no answer may contain */
export function createCheck(secrets: readonly string[]): Check {
  const matches = createMatcher();
  return (operation, answer) => {
    const { status, headers, text, body } = answer;
    const problems: string[] = [];
    const demand = (holds: boolean, otherwise: string): void => {
      if (!holds) problems.push(otherwise);
    };
    demand(status < 500, `${status} is a failure of the service`);
    if (!operation.answers.has(status)) problems.push(`${status} is not declared`);
    else {
      const declared = operation.answers.get(status);
      const [type, content] = Object.entries(declared ?? {})[0] ?? [];
      if (!content) demand(text === '', `${status} has a body and declares none`);
      else {
        demand(String(headers['content-type']).split(';')[0] === type, `the content type is not ${String(type)}`);
        problems.push(...matches(content.schema, body).map((problem) => `the body is not as declared: ${problem}`));
      }
    }
    demand(typeof headers['x-request-id'] === 'string', 'there is no X-Request-Id');
    if (status >= 400) {
      const problem = (body ?? {}) as Readonly<Record<string, unknown>>;
      demand(String(headers['content-type']).startsWith('application/problem+json'), 'an error is no problem document');
      demand(problem['requestId'] === headers['x-request-id'], 'requestId and X-Request-Id are not the same');
      demand(problem['status'] === status, 'the status of the document is not that of the answer');
    }
    if (status === 401) demand(headers['www-authenticate'] === 'Bearer', 'a 401 has no WWW-Authenticate');
    for (const [name, expected] of Object.entries(SECURITY_HEADERS))
      demand(expected.test(String(headers[name])), `${name} is ${String(headers[name])}`);
    const everything = `${JSON.stringify(headers)}\n${text}`;
    demand(!secrets.some((secret) => everything.includes(secret)), 'it holds a secret');
    // The only text of the driver that an answer may contain, because it helps whoever registers a server.
    const inside = INSIDES.exec(everything.replaceAll(/The service cannot connect to the server \(\w+\)\./g, ''))?.[0];
    demand(inside === undefined, `it tells of what is inside: ${String(inside)}`);
    return problems;
  };
}

/** Strict: a keyword that JSON Schema does not have is an error in the document. @throws Error */
export function createMatcher(): (schema: Schema, value: unknown) => string[] {
  const ajv = new Ajv2020({ strict: true, allowUnionTypes: true, allErrors: true });
  ajvFormats.default(ajv);
  const compiled = new Map<Schema, ValidateFunction>();
  return (schema, value) => {
    let validate = compiled.get(schema);
    if (!validate) {
      validate = ajv.compile(schema);
      compiled.set(schema, validate);
    }
    if (validate(value)) return [];
    return (validate.errors ?? []).map(({ instancePath, message }) => `${instancePath} ${message ?? ''}`);
  };
}
