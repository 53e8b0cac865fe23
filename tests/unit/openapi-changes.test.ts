// The comparison of two OpenAPI documents names each kind of change that breaks a client, and no other.
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { breakingChanges, type ComparedDocument } from '../support/openapi-changes.js';
import { OPENAPI_FILE } from '../support/reference-pages.js';

/** A document with every kind of part, which each test changes. */
const before = {
  components: {
    schemas: {
      Lamp: {
        type: 'object',
        properties: {
          id: { type: 'string' },
          price: { type: ['string', 'null'] },
          color: { type: 'string', enum: ['red', 'blue'] },
          tags: { type: 'array', items: { type: 'string' } },
        },
        required: ['id', 'price'],
      },
      CreateLamp: {
        type: 'object',
        properties: {
          price: {
            anyOf: [
              { type: 'string', pattern: '^\\d+$' },
              { type: 'number', minimum: 0 },
            ],
          },
          color: { type: 'string', enum: ['red', 'blue'], maxLength: 10 },
          shade: { type: 'object', properties: { size: { type: 'number' } } },
        },
        required: ['price'],
      },
    },
  },
  paths: {
    '/lamps': {
      post: {
        operationId: 'createLamp',
        security: [],
        'x-permission': 'lamps:write',
        parameters: [{ name: 'limit', in: 'query', schema: { type: 'integer', minimum: 1, maximum: 100 } }],
        requestBody: { content: { 'application/json': { schema: { $ref: '#/components/schemas/CreateLamp' } } } },
        responses: {
          201: {
            headers: { ETag: {} },
            content: { 'application/json': { schema: { $ref: '#/components/schemas/Lamp' } } },
          },
          400: { content: {} },
        },
      },
      get: { operationId: 'listLamps', responses: { 200: {} } },
    },
  },
};

type Draft = typeof before;

/** The changes that a client suffers from an edit. The edit may add and remove what the type does not foresee. */
function after(edit: (draft: Draft, post: Draft['paths']['/lamps']['post']) => unknown): string[] {
  const draft = structuredClone(before);
  edit(draft, draft.paths['/lamps'].post);
  return breakingChanges(before, draft);
}

const set = (target: object, values: Readonly<Record<string, unknown>>): unknown => Object.assign(target, values);
const remove = (target: object, key: string): unknown => Reflect.deleteProperty(target, key);
const lamp = ({ components }: Draft): Draft['components']['schemas']['Lamp'] => components.schemas.Lamp;
const creation = ({ components }: Draft): Draft['components']['schemas']['CreateLamp'] => components.schemas.CreateLamp;

type Case = readonly [change: string, edit: Parameters<typeof after>[0], named: string];

const breaking: readonly Case[] = [
  ['an operation', ({ paths }) => remove(paths['/lamps'], 'get'), 'GET /lamps is gone'],
  ['a path', ({ paths }) => remove(paths, '/lamps'), 'POST /lamps is gone'],
  [
    'an operationId',
    (_draft, post) => set(post, { operationId: 'makeLamp' }),
    'POST /lamps: the operationId createLamp is now makeLamp',
  ],
  ['a required token', (_draft, post) => set(post, { security: [{ bearer: [] }] }), 'POST /lamps: needs a token now'],
  [
    'another permission',
    (_draft, post) => set(post, { 'x-permission': 'lamps:make' }),
    'POST /lamps: needs the permission lamps:make now',
  ],
  [
    'a parameter that is gone',
    (_draft, post) => set(post, { parameters: [] }),
    'POST /lamps: the query parameter limit is gone',
  ],
  [
    'a required parameter',
    (_draft, post) => set(post, { parameters: [...post.parameters, { name: 'x', in: 'query', required: true }] }),
    'POST /lamps: the query parameter x is needed now',
  ],
  [
    'a narrower parameter',
    (_draft, { parameters: [limit] }) => set(limit?.schema ?? {}, { maximum: 50 }),
    'POST /lamps: the query parameter limit has the maximum 50 now',
  ],
  ['no body', (_draft, post) => remove(post, 'requestBody'), 'POST /lamps: takes no body any more'],
  [
    'a key of the body that is gone',
    (draft) => remove(creation(draft).properties, 'color'),
    'POST /lamps: the body/color is gone',
  ],
  [
    'a renamed key of a nested object',
    (draft) => set(creation(draft).properties.shade, { properties: { width: { type: 'number' } } }),
    'POST /lamps: the body/shade/size is gone',
  ],
  [
    'a new required key',
    (draft) => set(creation(draft), { required: ['price', 'color'] }),
    'POST /lamps: the body/color is needed now',
  ],
  [
    'a value that is not taken any more',
    (draft) => set(creation(draft).properties.color, { enum: ['red'] }),
    'POST /lamps: the body/color does not take "blue" any more',
  ],
  [
    'an alternative that is gone',
    (draft) => set(creation(draft).properties.price, { anyOf: [{ type: 'string', pattern: '^\\d+$' }] }),
    'POST /lamps: the body/price does not take number as before',
  ],
  [
    'another pattern',
    (draft) => set(creation(draft).properties.color, { pattern: '^r' }),
    'POST /lamps: the body/color has another pattern now',
  ],
  ['another success', (_draft, post) => remove(post.responses, '201'), 'POST /lamps: does not answer 201 any more'],
  [
    'a header of the answer that is gone',
    (_draft, post) => set(post.responses[201], { headers: {} }),
    'POST /lamps: the answer 201 has no header ETag any more',
  ],
  [
    'a key of the answer that is gone',
    (draft) => remove(lamp(draft).properties, 'color'),
    'POST /lamps: the answer 201/color is gone',
  ],
  [
    'a key of the answer that can be absent',
    (draft) => set(lamp(draft), { required: ['id'] }),
    'POST /lamps: the answer 201/price can be absent now',
  ],
  [
    'a key of the answer that can be null',
    (draft) => set(lamp(draft).properties.id, { type: ['string', 'null'] }),
    'POST /lamps: the answer 201/id can be null now',
  ],
  [
    'members of another type',
    (draft) => set(lamp(draft).properties.tags, { items: { type: 'number' } }),
    'POST /lamps: the answer 201/tags/* can be number now',
  ],
];

describe('breakingChanges', () => {
  it.each(breaking)('names %s', (_change, edit, named) => {
    expect(after(edit)).toContain(named);
  });

  it('names a schema that has another name, because a generated client uses the name', () => {
    const text = JSON.stringify(before).replaceAll('"Lamp"', '"Light"').replaceAll('/Lamp"', '/Light"');
    const renamed = JSON.parse(text) as ComparedDocument;
    expect(breakingChanges(before, renamed)).toEqual(['the schema Lamp is gone']);
  });

  it.each<readonly [string, Parameters<typeof after>[0]]>([
    ['nothing', () => undefined],
    ['a new operation', ({ paths }) => set(paths, { '/tables': { get: { responses: {} } } })],
    [
      'a new optional parameter',
      (_draft, post) => set(post, { parameters: [...post.parameters, { name: 'x', in: 'query' }] }),
    ],
    ['a wider parameter', (_draft, { parameters: [limit] }) => set(limit?.schema ?? {}, { maximum: 200 })],
    ['a new optional key of the body', (draft) => set(creation(draft).properties, { size: { type: 'number' } })],
    ['a key of the body that is not needed any more', (draft) => set(creation(draft), { required: [] })],
    ['a new value that is taken', (draft) => set(creation(draft).properties.color, { enum: ['red', 'blue', 'green'] })],
    [
      'a key of the body that may be null',
      (draft) => set(creation(draft).properties.color, { type: ['string', 'null'] }),
    ],
    ['a new key of the answer', (draft) => set(lamp(draft).properties, { size: { type: 'number' } })],
    ['a new value in the answer', (draft) => set(lamp(draft).properties.color, { enum: ['red', 'blue', 'green'] })],
    [
      'a key of the answer that is never null any more',
      (draft) => set(lamp(draft).properties.price, { type: 'string' }),
    ],
    ['a new error', (_draft, post) => set(post.responses, { 409: {} })],
    ['an error that does not come any more', (_draft, post) => remove(post.responses, '400')],
    ['a new header of the answer', (_draft, post) => set(post.responses[201], { headers: { ETag: {}, Age: {} } })],
    ['a new schema', ({ components: { schemas } }) => set(schemas, { Table: {} })],
  ])('names nothing for %s', (_change, edit) => {
    expect(after(edit)).toEqual([]);
  });

  it('finds nothing between the committed document and itself', () => {
    const committed = JSON.parse(readFileSync(OPENAPI_FILE, 'utf8')) as ComparedDocument;
    expect(Object.keys(committed.paths).length).toBeGreaterThan(20);
    expect(breakingChanges(committed, committed)).toEqual([]);
  });
});
