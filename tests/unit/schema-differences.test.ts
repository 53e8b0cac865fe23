// The comparison of two schemas: what it names, in which words and in which order.
import { describe, expect, it } from 'vitest';
import type { DatabaseSchema, ObjectKind, SchemaObject } from '../../db/server/schema-objects.js';
import { compareSchemas, inWords, MOST_NAMED } from '../../src/rollouts/schema-differences.js';
import { expectedSchema } from '../../src/rollouts/template-schema.js';

type Facts = SchemaObject['facts'];

function whole(kind: ObjectKind, name: string, facts: Facts = { owner: 'the provisioner' }): SchemaObject {
  const family = kind === 'table' || kind === 'view' || kind === 'sequence' ? 'relation' : kind;
  return { kind, id: `${family} ${name}`, parent: family === 'schema' ? null : 'schema public', name, facts };
}

function part(kind: ObjectKind, table: string, name: string, facts: Facts): SchemaObject {
  return { kind, id: `${kind} ${table}.${name}`, parent: `relation ${table}`, name: `${table}.${name}`, facts };
}

function right(object: SchemaObject, role: string, rights: string): SchemaObject {
  const { id, name } = object;
  return { kind: 'grant', id: `grant on ${id} to ${role}`, parent: id, name, facts: { role, rights } };
}

const publicSchema = whole('schema', 'public');
const products = whole('table', 'products', { sort: 'a table', owner: 'the provisioner', persistence: 'logged' });
const price = part('column', 'products', 'price', {
  type: 'numeric(12,2)',
  nulls: 'not null',
  default: null,
  'generated as': null,
});
const stock = part('constraint', 'products', 'stock_not_negative', {
  definition: 'CHECK ((stock_quantity >= 0))',
  validity: 'checked for all rows',
});
const usual = right(products, 'the runtime role', 'DELETE, INSERT, SELECT, UPDATE');
const template: DatabaseSchema = [publicSchema, products, price, stock, usual];

/** The template with some objects replaced by others, or left out. */
function changed(...changes: readonly (readonly [SchemaObject, Facts | undefined])[]): DatabaseSchema {
  const byObject = new Map(changes);
  return template.flatMap((object) => {
    if (!byObject.has(object)) return object;
    const facts = byObject.get(object);
    return facts ? { ...object, facts: { ...object.facts, ...facts } } : [];
  });
}

describe('two schemas', () => {
  it('have no difference if their objects agree, in whichever order they were read', () => {
    expect(compareSchemas(template, [...template].reverse())).toEqual({ total: 0, differences: [] });
  });

  it.each<readonly [string, DatabaseSchema, ObjectKind, string, string, string]>([
    ['another type', changed([price, { type: 'text' }]), 'column', 'products.price', 'type numeric(12,2)', 'type text'],
    ['a default', changed([price, { default: '0' }]), 'column', 'products.price', 'no default', 'default 0'],
    [
      'two facts of one object',
      changed([price, { type: 'text', nulls: 'nullable' }]),
      'column',
      'products.price',
      'type numeric(12,2), not null',
      'type text, nullable',
    ],
    [
      'a part that is missing',
      changed([stock, undefined]),
      'constraint',
      'products.stock_not_negative',
      'CHECK ((stock_quantity >= 0))',
      'no such constraint',
    ],
    [
      'a part that is not expected',
      [...template, part('column', 'products', 'colour', { type: 'text', nulls: 'nullable', default: null })],
      'column',
      'products.colour',
      'no such column',
      'type text',
    ],
    [
      'another owner',
      changed([products, { owner: 'postgres' }]),
      'table',
      'products',
      'owned by the provisioner',
      'owned by postgres',
    ],
    [
      'a right that is missing',
      changed([usual, { rights: 'SELECT' }]),
      'grant',
      'products',
      'the runtime role: DELETE, INSERT, SELECT, UPDATE',
      'the runtime role: SELECT',
    ],
    [
      'all rights missing',
      changed([usual, undefined]),
      'grant',
      'products',
      'the runtime role: DELETE, INSERT, SELECT, UPDATE',
      'the runtime role: no rights',
    ],
    [
      'a right of another role',
      [...template, right(products, 'PUBLIC', 'SELECT')],
      'grant',
      'products',
      'PUBLIC: no rights',
      'PUBLIC: SELECT',
    ],
  ])('differ in %s', (_what, found, kind, object, expected, seen) => {
    expect(compareSchemas(template, found)).toEqual({
      total: 1,
      differences: [{ kind, object, expected, found: seen }],
    });
  });

  it('differ in one table that is missing or not expected, and not in each of its columns, constraints and rights', () => {
    const missing = compareSchemas(template, [publicSchema]);
    expect(missing.differences).toEqual([
      { kind: 'table', object: 'products', expected: 'a table, owned by the provisioner', found: 'no such table' },
    ]);
    expect(compareSchemas([publicSchema], template).differences).toEqual([
      { kind: 'table', object: 'products', expected: 'no such table', found: 'a table, owned by the provisioner' },
    ]);
    // The table of a schema that is not expected is a part of that schema.
    const other = whole('schema', 'other');
    const inOther = { ...whole('table', 'other.things'), parent: other.id };
    expect(compareSchemas(template, [...template, other, inOther]).differences.map(({ object }) => object)).toEqual([
      'other',
    ]);
  });

  it('differ in the owner of an object only, although an owner has all rights on it', () => {
    const found = [...changed([products, { owner: 'postgres' }]), right(products, 'postgres', 'SELECT, TRUNCATE')];
    expect(compareSchemas(template, found)).toMatchObject({ total: 1, differences: [{ found: 'owned by postgres' }] });
  });

  it('agree if a constraint was checked for all rows where the template does not say so, and not the other way round', () => {
    const unchecked = changed([stock, { validity: 'not checked for earlier rows' }]);
    expect(compareSchemas(unchecked, template).total).toBe(0);
    expect(compareSchemas(template, unchecked)).toMatchObject({
      total: 1,
      differences: [{ expected: 'checked for all rows', found: 'not checked for earlier rows' }],
    });
  });

  it("do not differ in an adopted database's own tables, schemas and functions, but in what was added to ours", () => {
    const own = [
      whole('schema', 'billing'),
      whole('table', 'invoices'),
      right(whole('table', 'invoices'), 'PUBLIC', 'SELECT'),
      whole('function', 'total()'),
      part('column', 'products', 'colour', { type: 'text' }),
    ];
    const { differences } = compareSchemas(template, [...template, ...own], { adopted: true });
    expect(differences.map(({ object }) => object)).toEqual(['products.colour']);
  });
});

describe('the differences', () => {
  it('come in order of kind and then of name, and only the first are named', () => {
    const columns = Array.from({ length: MOST_NAMED + 20 }, (_, index) =>
      part('column', 'products', `c${String(index).padStart(3, '0')}`, { type: 'text' }),
    );
    const found = [
      ...columns.reverse(),
      ...changed([usual, undefined], [products, { persistence: 'unlogged' }]),
      whole('view', 'a_view'),
    ];
    const { total, differences } = compareSchemas(template, found);
    expect([total, differences.length]).toEqual([MOST_NAMED + 23, MOST_NAMED]);
    expect(differences.slice(0, 4).map(({ kind, object }) => `${kind} ${object}`)).toEqual([
      'table products',
      'view a_view',
      'column products.c000',
      'column products.c001',
    ]);
    expect(compareSchemas(template, [...found].reverse())).toEqual({ total, differences });
  });

  it('show the place where two long definitions differ, and are not longer than a few lines', () => {
    const body = (word: string): Facts => ({ definition: `BEGIN\n${'  step;\n'.repeat(500)}  ${word};\nEND` });
    const [difference] = compareSchemas(
      [publicSchema, whole('function', 'work()', body('first'))],
      [publicSchema, whole('function', 'work()', body('second'))],
    ).differences;
    expect(difference?.expected).toContain('step; first; END');
    expect(difference?.found).toContain('step; second; END');
    for (const text of [difference?.expected ?? '', difference?.found ?? '']) expect(text.length).toBeLessThan(310);
  });

  it('are sentences for a log and for the reason of a rollout', () => {
    const [difference] = compareSchemas(template, changed([price, { type: 'text' }])).differences;
    expect(difference && inWords(difference)).toBe('products.price: expected type numeric(12,2), found type text');
  });
});

it('a tenant is expected to have the rights that a migration gives its role', () => {
  const audit = whole('table', 'audit');
  const inOther = { ...whole('table', 'migration.kysely_migration'), parent: 'schema migration' };
  const expected = expectedSchema([publicSchema, products, audit, inOther, whole('sequence', 'numbers')]);
  expect(expected.filter(({ kind }) => kind === 'grant').map(({ id, facts }) => `${id}: ${facts['rights']}`)).toEqual([
    'grant on database to the runtime role: CONNECT',
    'grant on schema public to the runtime role: USAGE',
    'grant on relation products to the runtime role: DELETE, INSERT, SELECT, UPDATE',
    'grant on relation audit to the runtime role: INSERT, SELECT',
  ]);
});
