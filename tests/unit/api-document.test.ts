// What a route must say for the OpenAPI document: a route that says less stops the start.
import type { RouteOptions } from 'fastify';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { ApiDocument } from '../../src/http/openapi/api-document.js';
import { SchemaComponents } from '../../src/http/openapi/json-schemas.js';

const Lamp = z.object({ name: z.string() }).meta({ id: 'LampOfTest' });
const Body = z.strictObject({ name: z.string() });
const named = Body.meta({ id: 'CreateLampOfTest', examples: [{ name: 'Lamp' }] });

function document(): ApiDocument {
  const made = new ApiDocument();
  made.describeTag('lamps', 'Lamps.');
  return made;
}

function route(schema: Readonly<Record<string, unknown>>, url = '/lamps'): RouteOptions {
  const complete = { operationId: 'createLamp', summary: 'Create a lamp', tags: ['lamps'], response: { 201: Lamp } };
  return { method: 'POST', url, schema: { ...complete, ...schema }, handler: () => undefined };
}

describe('a route', () => {
  it.each([
    ['an operationId', { operationId: undefined }],
    ['one tag, which app.describeTag describes', { tags: [] }],
    ['one tag, which app.describeTag describes', { tags: ['tables'] }],
    ['a body with a name and an example: .meta({ id, examples })', { body: Body }],
    ['a body with a name and an example: .meta({ id, examples })', { body: Body.meta({ id: 'WithoutExample' }) }],
  ])('needs %s', (what, schema) => {
    expect(() => document().operationOf(route(schema))).toThrow(`POST /lamps: its schema needs ${what}`);
    expect(() => document().operationOf(route({ body: named }))).not.toThrow();
  });

  it('needs an operationId that no other route has', () => {
    const made = document();
    const first = route({});
    made.operationOf(first);
    expect(() => made.operationOf(first)).not.toThrow();
    expect(() => made.operationOf(route({}, '/other'))).toThrow(
      'POST /other: its schema needs an operationId of its own',
    );
  });
});

describe('a schema', () => {
  it('is one component, however often it is used', () => {
    const schemas = new SchemaComponents();
    const reference = { $ref: '#/components/schemas/LampOfTest' };
    expect(schemas.of(Lamp, 'output')).toEqual(reference);
    const list = schemas.of(z.object({ data: z.array(Lamp), newest: Lamp.nullable() }), 'output');
    expect(list).toMatchObject({
      properties: { data: { items: reference }, newest: { anyOf: [reference, { type: 'null' }] } },
    });
    expect(Object.keys(schemas.named)).toEqual(['LampOfTest']);
  });

  it('shares its name with no other schema', () => {
    const schemas = new SchemaComponents();
    schemas.of(Lamp, 'output');
    expect(() => schemas.of(z.object({}).meta({ id: 'LampOfTest' }), 'output')).toThrow(
      'two schemas have the name LampOfTest',
    );
  });

  it('is open in an answer and closed in a request', () => {
    const schemas = new SchemaComponents();
    expect(schemas.of(z.object({ name: z.string() }), 'output')).not.toHaveProperty('additionalProperties');
    expect(schemas.of(Body, 'input')).toMatchObject({ additionalProperties: false });
  });
});
