// The checks of the fuzzer, each with an answer that breaks its promise: a check that finds nothing would pass every run.
import { describe, expect, it } from 'vitest';
import { createCheck, type Received } from './checks.js';
import type { Operation } from './document.js';

const SECRET = 'canary-of-the-checks';
const json = (schema: object): Record<string, { schema: object }> => ({ 'application/json': { schema } });
const thing = { type: 'object', properties: { id: { type: 'string' } }, required: ['id'], additionalProperties: false };
const problem = { type: 'object', properties: { code: { type: 'string' } }, required: ['code'] };

const operation: Operation = {
  name: 'GET /things/{id}',
  method: 'GET',
  path: '/things/{id}',
  tag: 'things',
  parameters: [],
  body: undefined,
  answers: new Map([
    [200, json(thing)],
    [204, undefined],
    ...[401, 404, 500, 503].map((status) => [status, { 'application/problem+json': { schema: problem } }] as const),
  ]),
};

const headers = {
  'content-security-policy': "default-src 'none';frame-ancestors 'none'",
  'cross-origin-resource-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
  'strict-transport-security': 'max-age=31536000; includeSubDomains',
  'x-content-type-options': 'nosniff',
  'x-request-id': 'request-1',
};

function answer(status: number, type: string, body: object, others: Record<string, string> = {}): Received {
  return { status, headers: { ...headers, 'content-type': type, ...others }, text: JSON.stringify(body), body };
}
const success = (body: object): Received => answer(200, 'application/json; charset=utf-8', body);
const failure = (status: number, body: object = {}, others?: Record<string, string>): Received =>
  answer(
    status,
    'application/problem+json; charset=utf-8',
    { code: 'some-code', status, requestId: 'request-1', ...body },
    others,
  );
const without = (name: string): Received => {
  const { headers: all, ...rest } = success({ id: 'a' });
  return { ...rest, headers: Object.fromEntries(Object.entries(all).filter(([key]) => key !== name)) };
};

const check = createCheck([SECRET]);

it.each<[string, Received]>([
  ['a success', success({ id: 'a' })],
  ['an answer without a body', { status: 204, headers, text: '', body: undefined }],
  ['a problem', failure(404)],
  [
    'why a server cannot be registered',
    failure(404, { detail: 'The service cannot connect to the server (ECONNREFUSED).' }),
  ],
  ['a refused token', failure(401, {}, { 'www-authenticate': 'Bearer' })],
])('%s in its right form breaks no promise', (_, received) => {
  expect(check(operation, received)).toEqual([]);
});

describe('an answer that breaks a promise is reported:', () => {
  it.each<[string, Received, RegExp]>([
    ['500, declared or not', failure(500), /500 is a failure/],
    ['503, declared or not', failure(503), /503 is a failure/],
    ['a status that is not declared', failure(409), /409 is not declared/],
    ['a key that is missing', success({}), /not as declared.*id/],
    ['a key too many', success({ id: 'a', password: 'x' }), /not as declared/],
    ['a value of another type', success({ id: 1 }), /not as declared.*\/id/],
    ['what is no JSON', { ...success({ id: 'a' }), text: '<p>', body: undefined }, /not as declared/],
    ['a body where there is none', answer(204, 'application/json', { id: 'a' }), /has a body/],
    ['another media type', answer(200, 'text/html', { id: 'a' }), /content type/],
    ['a problem as plain JSON', answer(404, 'application/json', { code: 'x' }), /no problem document/],
    ['a requestId of another request', failure(404, { requestId: 'request-2' }), /are not the same/],
    ['a status of another answer', failure(404, { status: 400 }), /not that of the answer/],
    ['401 that asks for no token', failure(401), /WWW-Authenticate/],
    ...Object.keys(headers).map((name): [string, Received, RegExp] => [`no ${name}`, without(name), RegExp(name, 'i')]),
    ['a secret in the body', success({ id: `x${SECRET}x` }), /secret/],
    ['a secret in a header', failure(404, {}, { location: `/${SECRET}` }), /secret/],
    ['a stack', failure(404, { detail: 'Error: x\n    at find (/app/dist/db/x.js:1:2)' }), /inside/],
    ['the driver', failure(404, { detail: 'duplicate key value violates unique constraint "x"' }), /inside/],
    ['the framework', failure(404, { detail: 'FST_ERR_VALIDATION' }), /inside/],
  ])('%s', (_, received, expected) => {
    expect(check(operation, received).join('\n')).toMatch(expected);
  });
});
