// The generated references: docs/reference/openapi.json from the routes, docs/reference/errors.md from the catalogue of coded
// errors, docs/reference/metrics.md from the definitions of the metrics, and docs/reference/doctor.md from the codes of the doctor. `npm run docs:reference` writes them, and tests compare. No database is needed.
import { randomBytes } from 'node:crypto';
import path from 'node:path';
import { format, resolveConfig } from 'prettier';
import { makeTokenKey, parseTokenKeys } from '../../src/auth/keyring.js';
import { completeConfig, parseKeyring, readSettings } from '../../src/config/index.js';
import { metricDefinitions } from '../../src/engine/metrics/index.js';
import type { MetricDefinition } from '../../src/observability/metrics.js';
import { errorGuide, type ErrorGuide } from '../../src/http/error-guide.js';
import { doctorCodes } from '../../src/doctor/doctor-codes.js';
import { AppError, catalogue, statusesOf, type ErrorCode } from '../../src/errors.js';
import { PROBLEM_TYPE, toProblem } from '../../src/http/problem.js';
import type { ComparedDocument } from './openapi-changes.js';
import { openApp } from './service.js';

const GENERATOR = 'scripts/docs-reference.ts';
const FOLDER = path.resolve(import.meta.dirname, '../../docs/reference');

/** The OpenAPI document as a file. */
export const OPENAPI_FILE = path.join(FOLDER, 'openapi.json');

/** The page on errors. */
export const ERRORS_PAGE = path.join(FOLDER, 'errors.md');

/** The page on metrics. */
export const METRICS_PAGE = path.join(FOLDER, 'metrics.md');

/** The page on what `tenantry doctor` finds. */
export const DOCTOR_PAGE = path.join(FOLDER, 'doctor.md');

/** The part of an OpenAPI document that is rewritten here. */
export interface OpenApiDocument {
  readonly openapi: string;
  readonly components: NonNullable<ComparedDocument['components']>;
  readonly paths: ComparedDocument['paths'];
}

/** No server listens there: the document needs no registry, and the app starts without one. */
const NOWHERE = { host: '127.0.0.1', port: 1, database: 'none', user: 'none', password: 'none', tls: false } as const;

/**
 * The document that the service serves at /docs/json.
 *
 * @param env variables of the service; the environment of this process is not read
 */
export async function servedDocument(env: Readonly<Record<string, string>> = {}): Promise<OpenApiDocument> {
  const settings = readSettings({ NODE_ENV: 'test', LOG_LEVEL: 'silent', STANDBY_DATABASES: '0', ...env });
  const app = await openApp(
    completeConfig(settings, {
      registry: NOWHERE,
      provisioner: NOWHERE,
      // New each time: the document depends on no key.
      tokenKeys: parseTokenKeys(makeTokenKey('unused')),
      encryptionKeys: parseKeyring(`unused:${randomBytes(32).toString('base64')}`),
    }),
  );
  try {
    return (await app.inject('/docs/json')).json<OpenApiDocument>();
  } finally {
    await app.close();
  }
}

/** The text of docs/reference/openapi.json: the served document, with paths and methods in alphabetical order. */
export async function openApiReference({ openapi, paths, ...rest }: OpenApiDocument): Promise<string> {
  const document = {
    openapi,
    'x-generated-by': GENERATOR,
    ...rest,
    paths: sorted(Object.fromEntries(Object.entries(paths).map(([url, methods]) => [url, sorted(methods)]))),
  };
  return format(JSON.stringify(document), { ...(await resolveConfig(OPENAPI_FILE)), parser: 'json' });
}

function sorted<Value>(values: Readonly<Record<string, Value>>): Record<string, Value> {
  return Object.fromEntries(Object.entries(values).sort(([one], [other]) => (one < other ? -1 : 1)));
}

/** The text of docs/reference/errors.md. */
export function errorsPage(): string {
  const codes = Object.keys(catalogue) as ErrorCode[];
  const example = new AppError('invalid-request', {
    issues: [{ path: '/email', message: 'must be an e-mail address' }],
  });
  const { body } = toProblem(example, '01900000-0000-7000-8000-000000000000');
  return `# Errors

<!-- Written by ${GENERATOR}: do not edit. Change src/errors.ts or src/http/error-guide.ts, then run npm run docs:reference -->

Every error answer is a problem document (RFC 9457) with the content type \`${PROBLEM_TYPE}\`:

\`\`\`json
${JSON.stringify(body, null, 2)}
\`\`\`

| Field | Meaning |
| --- | --- |
| \`type\` | a URN that ends in the code |
| \`title\` | the title of the code; it is the same in every answer |
| \`status\` | the HTTP status |
| \`detail\` | what happened, and what the client can do; not in every answer |
| \`code\` | the code; branch on this field |
| \`requestId\` | the id of the request, also in the header \`X-Request-Id\` and in the log |
| \`traceId\` | the trace id of the request, if it came with a valid \`traceparent\` header |
| \`errors\` | each invalid part of the request: its path as a JSON Pointer (RFC 6901), and a message; only for invalid input |
| \`limit\`, \`limitValue\` | the tenant limit that was reached; only with \`tenant-limit-exceeded\` |
| \`operationId\` | the operation that goes on in the background: \`GET /operations/:id\` shows it; only with \`operation-unfinished\` |

An answer with the status 401 has the header \`WWW-Authenticate: Bearer\`. \`Retry-After\` is in seconds.

| Code | Status | Title | \`Retry-After\` |
| --- | --- | --- | --- |
${codes.map(tableRow).join('\n')}

${codes.map(section).join('\n')}`;
}

const retryAfterCell: Readonly<Record<NonNullable<ErrorGuide['retryAfter']> | 'never', string>> = {
  always: 'yes',
  sometimes: 'sometimes',
  never: 'no',
};

function tableRow(code: ErrorCode): string {
  const statuses = statusesOf(code).join(' or ');
  const { title } = toProblem(new AppError(code), '').body;
  const retryAfter = retryAfterCell[errorGuide[code].retryAfter ?? 'never'];
  return `| [\`${code}\`](#${code}) | ${statuses} | ${title} | ${retryAfter} |`;
}

function section(code: ErrorCode): string {
  const { when, remedy } = errorGuide[code];
  return `## ${code}\n\n${when}\n\nWhat the client can do: ${remedy}\n`;
}

/** The text of docs/reference/metrics.md. */
export function metricsPage(): string {
  return `# Metrics

<!-- Written by ${GENERATOR}: do not edit. Change src/observability/instruments.ts or src/engine/metrics, then run npm run docs:reference -->

The [guide](../guide/metrics.md) says how to read them. A cluster is \`host:port\`, and a tenant is its id or \`other\`. A counter starts
at 0 with the process. The metrics of Node.js itself (\`process_…\` and \`nodejs_…\`) are those of prom-client.

${metricDefinitions.map(metricSection).join('\n')}`;
}

function metricSection(definition: MetricDefinition): string {
  const { name, kind, labels, help, reason, values = {}, buckets } = definition;
  const lines = [
    `- Type: ${kind}${buckets ? `, with buckets up to ${buckets.join(', ')}` : ''}`,
    `- Unit: ${unitOf(name)}`,
    ...(labels.length > 0 ? [`- Labels: ${labels.map((label) => labelText(label, values[label])).join('; ')}`] : []),
    `- Reason: ${reason}`,
  ];
  return `## ${name}\n\n${help}\n\n${lines.join('\n')}\n`;
}

function labelText(label: string, values: readonly string[] | undefined): string {
  const shown = values && values.length <= 12 ? ` (${values.map((value) => `\`${value}\``).join(', ')})` : '';
  return `\`${label}\`${shown}`;
}

/** The unit is the end of the name, as Prometheus recommends. */
function unitOf(name: string): string {
  if (name.endsWith('_timestamp_seconds')) return 'seconds since 1970';
  if (/_seconds(?:_total)?$/.test(name)) return 'seconds';
  if (name.endsWith('_ratio')) return 'a part of 1';
  return 'a number';
}

/** The text of docs/reference/doctor.md. */
export function doctorPage(): string {
  const rows = Object.entries(doctorCodes).map(
    ([code, { severity, about, todo, mends }]) => `| \`${code}\` | ${severity} | ${about} | ${todo} | ${mends ?? ''} |`,
  );
  return `# What tenantry doctor finds

<!-- Written by ${GENERATOR}: do not edit. Change src/doctor/installation-codes.ts or src/doctor/tenant-codes.ts, then run npm run docs:reference -->

The [guide](../guide/doctor.md) says how to use it. \`tenantry doctor --list\` shows the same on a terminal. A finding with an empty last
column needs a person.

| code | severity | meaning | what to do | \`--repair\` |
| --- | --- | --- | --- | --- |
${rows.join('\n')}
`;
}
