// Values from JSON schemas, as JSON text and not as JavaScript values, because only text can have -0, 1e400 and duplicate keys:
// values that the schema allows, values just out of its bounds, and hostile values.
import fc from 'fast-check';
import type { Schema } from './document.js';

/** Values of a schema as JSON text: allowed ones, forbidden ones, and ones at the bounds. */
export interface Values {
  readonly good: fc.Arbitrary<string>;
  readonly bad: fc.Arbitrary<string>;
}

/** Valid values that a schema cannot express, by the name of a property, or of an operation for its body. */
export type Hints = Readonly<Record<string, readonly unknown[]>>;

const json = (value: unknown): string => JSON.stringify(value);

const LONG = 5_001;
const OVER_BODY_LIMIT = 70_000;

/** Text that has broken other services. The keys of prototypes are ordinary text except as keys. */
const hostileText = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.constantFrom(
      '',
      ' ',
      '\0',
      'a\0b',
      '\ud800',
      'x\udfff',
      '😀👩‍👩‍👧‍👦',
      '\u202egnp.exe',
      'مرحبا שלום',
      'e\u0301\u0300\u0300',
      '\u2028\ufeff\uffff',
      '\r\nx-injected: 1',
      '__proto__',
      'constructor',
      'toString',
      "'; drop table users; --",
      '%_\\',
      '\\',
      '${7*7}{{7*7}}',
      '../../etc/passwd',
      '<script>alert(1)</script>',
      'null',
      'true',
      'NaN',
      'Infinity',
      '-0',
      '1e3',
      '0x10',
      '2147483648',
      '99999999999999999999',
      '2024-02-30T25:61:61Z',
    ),
  },
  { weight: 3, arbitrary: fc.string({ unit: 'binary', maxLength: 20 }) },
  { weight: 1, arbitrary: fc.constantFrom('x'.repeat(LONG), '\u00e9'.repeat(LONG), 'x'.repeat(OVER_BODY_LIMIT)) },
);

const hostileNumber = fc.constantFrom(
  ...['0', '-0', '-1', '1.5', '0.1', '1e308', '1e400', '-1e400', '5e-324', '1e-7', '19.999', '9999999999.995'],
  ...['2147483647', '2147483648', '-2147483648', '-2147483649', '9007199254740993', '18446744073709551616'],
);

/** Any JSON, and some of every type that a schema did not ask for. */
export const hostileValue: fc.Arbitrary<string> = fc.oneof(
  { weight: 6, arbitrary: hostileText.map(json) },
  { weight: 4, arbitrary: hostileNumber },
  { weight: 4, arbitrary: fc.constantFrom('null', 'true', 'false', '[]', '{}', '[null]', '[[]]', '{"a":1}', '""') },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      '{"__proto__":{"admin":true}}',
      '{"constructor":{"prototype":{}}}',
      '{"toString":1,"valueOf":1,"hasOwnProperty":1}',
      '['.repeat(40) + ']'.repeat(40),
      `[${Array<string>(1_100).fill('0').join(',')}]`,
    ),
  },
  { weight: 1, arbitrary: fc.json({ maxDepth: 3 }) },
);

/** @param name of the property or operation, for the hints */
export function valuesOf(schema: Schema, hints: Hints, name = ''): Values {
  const hinted = hints[name];
  const values = byType(schema, hints);
  if (!hinted) return values;
  const known = fc.constantFrom(...hinted.map(json));
  return { good: fc.oneof({ weight: 3, arbitrary: known }, { weight: 1, arbitrary: values.good }), bad: values.bad };
}

function byType(schema: Schema, hints: Hints): Values {
  if (schema.enum) return { good: fc.constantFrom(...schema.enum.map(json)), bad: hostileValue };
  const options = schema.anyOf ?? (Array.isArray(schema.type) ? typesOf(schema) : undefined);
  if (options) {
    const values = options.map((option) => valuesOf(option, hints));
    return { good: fc.oneof(...values.map(({ good }) => good)), bad: fc.oneof(...values.map(({ bad }) => bad)) };
  }
  switch (schema.type) {
    case 'string':
      return textOf(schema);
    case 'integer':
    case 'number':
      return numberOf(schema);
    case 'boolean':
      return { good: fc.constantFrom('true', 'false'), bad: hostileValue };
    case 'null':
      return { good: fc.constant('null'), bad: hostileValue };
    case 'array':
      return listOf(schema, hints);
    case 'object':
      return objectOf(schema, hints);
    case undefined:
    default:
      return { good: hostileValue, bad: hostileValue };
  }
}

function typesOf(schema: Schema): Schema[] {
  return [schema.type ?? []].flat().map((type) => ({ ...schema, type }));
}

const USUAL_LENGTH = 20;

function textOf({ pattern, minLength = 0, maxLength = LONG }: Schema): Values {
  const edges = [minLength - 1, minLength, maxLength, maxLength + 1].filter((length) => length >= 0);
  const atEdges = fc.constantFrom(...edges).chain((length) => fc.constantFrom('x'.repeat(length), 'é'.repeat(length)));
  const good = pattern
    ? fc.stringMatching(new RegExp(pattern)).filter((text) => text.length >= minLength && text.length <= maxLength)
    : fc
        .string({ unit: 'grapheme', minLength, maxLength: Math.min(maxLength, Math.max(minLength, USUAL_LENGTH)) })
        .map((text) => text.slice(0, maxLength));
  return {
    good: good.map(json),
    bad: fc.oneof(
      { weight: 2, arbitrary: hostileValue },
      { weight: 2, arbitrary: hostileText.map(json) },
      { weight: 1, arbitrary: atEdges.map(json) },
    ),
  };
}

const CENTS = 100;

function numberOf({ type, minimum = -1e9, maximum = 1e9 }: Schema): Values {
  const whole = type === 'integer';
  const good = whole
    ? fc.oneof(fc.integer({ min: minimum, max: maximum }), fc.integer({ min: Math.max(minimum, -9), max: 9 }))
    : fc.integer({ min: Math.ceil(minimum), max: Math.floor(maximum) }).map((cents) => cents / CENTS);
  return {
    good: fc.oneof(good, fc.constantFrom(minimum, maximum)).map(json),
    bad: fc.oneof(
      hostileValue,
      hostileNumber,
      fc.constantFrom(minimum - 1, maximum + 1, minimum + 0.5).map(json),
      good.map((value) => json(String(value))),
    ),
  };
}

function listOf({ items = {}, maxItems = 3 }: Schema, hints: Hints): Values {
  const { good, bad } = valuesOf(items, hints);
  const list = (members: readonly string[]): string => `[${members.join(',')}]`;
  return {
    good: fc.uniqueArray(good, { maxLength: Math.min(maxItems, 3) }).map(list),
    bad: fc.oneof(
      hostileValue,
      bad.map((member) => list([member])),
      good.map((member) => list([member, member])),
      good.map((member) => list(Array<string>(maxItems + 1).fill(member))),
    ),
  };
}

function objectOf({ properties = {}, required = [] }: Schema, hints: Hints): Values {
  const values = Object.entries(properties).map(([key, schema]) => [key, valuesOf(schema, hints, key)] as const);
  const model = Object.fromEntries(values.map(([key, { good }]) => [key, good]));
  const members = fc
    .record<Record<string, string>>(model, { requiredKeys: required.filter((key) => key in model) })
    .map((record) => Object.entries(record));
  const object = (entries: readonly (readonly [string, string])[]): string =>
    `{${entries.map(([key, value]) => `${json(key)}:${value}`).join(',')}}`;
  const strangeKey = fc.oneof(
    fc.constantFrom('id', 'role', 'tenantId', 'db_password', 'dbHost', 'createdAt', '__proto__', 'constructor', ''),
    hostileText.filter((text) => text.length < LONG),
  );
  return {
    good: members.map(object),
    bad: fc.oneof(
      { weight: 1, arbitrary: hostileValue },
      {
        weight: 2,
        arbitrary: fc.tuple(members, strangeKey, hostileValue).map(([all, ...one]) => object([...all, one])),
      },
      { weight: 1, arbitrary: members.map((all) => object(all.slice(1))) },
      { weight: 1, arbitrary: members.map((all) => object([...all, ...all.slice(0, 1)])) },
      ...(values.length === 0
        ? []
        : [
            {
              weight: 6,
              arbitrary: fc
                .tuple(members, fc.oneof(...values.map(([key, { bad }]) => bad.map((value) => [key, value] as const))))
                .map(([all, one]) => object([...all.filter(([key]) => key !== one[0]), one])),
            },
          ]),
    ),
  };
}
