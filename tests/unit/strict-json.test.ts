// Strict JSON: everything that JSON.stringify writes is read unchanged, and text that two readers could read in two ways is
// refused.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AppError, type InputIssue } from '../../src/errors.js';
import { MAX_DEPTH, MAX_MEMBERS, parseStrictJson } from '../../src/http/strict-json.js';

/** The reason why a text is refused. Throws if it is not refused. */
function refusalOf(text: string): AppError {
  let value: unknown;
  try {
    value = parseStrictJson(text);
  } catch (error) {
    if (error instanceof AppError) return error;
    throw error;
  }
  throw new Error(`was read as ${JSON.stringify(value)}`);
}

function issuesOf(text: string): readonly InputIssue[] {
  return refusalOf(text).issues ?? [];
}

const RESERVED = ['__proto__', 'constructor'];
const character = fc.oneof(
  { weight: 4, arbitrary: fc.string({ unit: 'binary', minLength: 1, maxLength: 1 }) },
  { weight: 1, arbitrary: fc.constantFrom('"', '\\', '{', '}', '[', ']', ',', ':', '\u2028', '\n', '💡', 'é') },
);
const string = fc.string({ unit: character, maxLength: 8 }).filter((text) => !text.includes('\0'));
const key = string.filter((text) => !RESERVED.includes(text));
const { value: json } = fc.letrec<{ value: unknown }>((tie) => ({
  value: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    string,
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.integer(),
    fc.boolean(),
    fc.constant(null),
    fc.array(tie('value'), { maxLength: 5 }),
    fc.dictionary(key, tie('value'), { maxKeys: 5 }),
  ),
}));
const indent = fc.constantFrom(undefined, 1, '\t', '\r\n');

describe('strict JSON', () => {
  it('reads everything that JSON.stringify writes as JSON.parse does', () => {
    fc.assert(
      fc.property(json, indent, (value, space) => {
        const text = JSON.stringify(value, null, space);
        expect(parseStrictJson(text)).toEqual(JSON.parse(text));
      }),
      { numRuns: 500 },
    );
  });

  it('accepts no text that JSON.parse refuses, and always fails in the same way', () => {
    const syntax = fc.string({ unit: fc.constantFrom(...Array.from('{}[]:,"\\ua0 \n1-e.tfn')), maxLength: 30 });
    fc.assert(
      fc.property(syntax, (text) => {
        let expected: unknown;
        try {
          expected = JSON.parse(text);
        } catch {
          expect(refusalOf(text).detail).toBe('The body is not valid JSON.');
          return;
        }
        try {
          expect(parseStrictJson(text)).toEqual(expected);
        } catch (error) {
          expect(error).toBeInstanceOf(AppError);
        }
      }),
      { numRuns: 1_000 },
    );
  });

  it('refuses a duplicate key in any place and spelling, and names it', () => {
    /** The key as JSON writes it, or with every code unit escaped. */
    const spellings = (name: string): string[] => [
      JSON.stringify(name),
      `"${Array.from({ length: name.length }, (_, index) => `\\u${name.charCodeAt(index).toString(16).padStart(4, '0')}`).join('')}"`,
    ];
    fc.assert(
      fc.property(
        key,
        fc.dictionary(key, json, { maxKeys: 4 }),
        fc.tuple(json, json),
        fc.nat(1),
        fc.nat(1),
        fc.constantFrom('object', 'list'),
        (name, others, [first, second], spelling, otherSpelling, around) => {
          const rest = Object.entries(others)
            .filter(([other]) => other !== name)
            .map(([other, value]) => `${JSON.stringify(other)}:${JSON.stringify(value)}`);
          const once = `${spellings(name)[spelling] ?? ''}:${JSON.stringify(first)}`;
          const again = `${spellings(name)[otherSpelling] ?? ''}:${JSON.stringify(second)}`;
          const object = `{${[once, ...rest, again].join(',')}}`;
          const [text, path] =
            around === 'object' ? [`{"in":${object}}`, `/in/${name}`] : [`[0,{},${object}]`, `/2/${name}`];
          expect(issuesOf(text)).toEqual([{ path, message: 'must not be given twice' }]);
        },
      ),
      { numRuns: 300 },
    );
  });

  it('allows two objects to have the same key, side by side or nested', () => {
    const value = { a: { a: [{ a: 1 }, { a: 2 }] }, b: { a: 3 } };
    expect(parseStrictJson(JSON.stringify(value))).toEqual(value);
  });

  it.each([
    ['{"a":1,"a":1}', '/a', 'must not be given twice'],
    ['{"":1,"":2}', '/', 'must not be given twice'],
    ['{"admin":{"email":"a","\\u0065mail":"b"}}', '/admin/email', 'must not be given twice'],
    ['{"__proto__":{}}', '/__proto__', 'is not an allowed key'],
    ['[{"\\u005f_proto__":{}}]', '/0/__proto__', 'is not an allowed key'],
    ['{"a":{"constructor":{"prototype":{}}}}', '/a/constructor', 'is not an allowed key'],
    ['{"a":"x\\u0000"}', '/a', 'must not contain NUL or lone surrogates'],
    ['{"a":["x","\\ud800"]}', '/a/1', 'must not contain NUL or lone surrogates'],
    ['{"a":"\\udc00\\ud800"}', '/a', 'must not contain NUL or lone surrogates'],
    ['{"a":"\ud800"}', '/a', 'must not contain NUL or lone surrogates'],
    ['{"\\ud83d":1}', '/\ud83d', 'must not contain NUL or lone surrogates'],
    ['{"a\\u0000":1}', '/a\0', 'must not contain NUL or lone surrogates'],
    ['"\\u0000"', '', 'must not contain NUL or lone surrogates'],
  ])('refuses %j', (text, path, message) => {
    expect(issuesOf(text)).toEqual([{ path, message }]);
  });

  it.each(['{"a":"\\ud83d\\udca1 \\\\ \\" \\/ \\u00e9"}', '{"__proto":1,"constructors":2}', '{"a":"__proto__"}', '""'])(
    'accepts %s',
    (text) => {
      expect(parseStrictJson(text)).toEqual(JSON.parse(text));
    },
  );

  it.each([
    ['lists', '[', ']'],
    ['objects', '{"a":', '}'],
  ])('accepts %s to the documented depth and not deeper', (_, start, end) => {
    const nested = (depth: number): string => `${start.repeat(depth - 1)}[]${end.repeat(depth - 1)}`;
    expect(parseStrictJson(nested(MAX_DEPTH))).toEqual(JSON.parse(nested(MAX_DEPTH)));
    expect(issuesOf(nested(MAX_DEPTH + 1))).toEqual([
      { path: '', message: 'must not be nested deeper than 32 levels' },
    ]);
  });

  it('refuses 500,000 levels without a stack overflow', () => {
    expect(issuesOf('['.repeat(500_000) + ']'.repeat(500_000))).toHaveLength(1);
  });

  it('accepts the documented number of keys and items and no more', () => {
    const keys = (count: number): string => `{${Array.from({ length: count }, (_, n) => `"${n}":0`).join(',')}}`;
    const items = (count: number): string => `[${Array.from({ length: count }, () => '0').join(',')}]`;
    for (const write of [keys, items]) {
      expect(parseStrictJson(write(MAX_MEMBERS))).toEqual(JSON.parse(write(MAX_MEMBERS)));
      expect(issuesOf(write(MAX_MEMBERS + 1))).toEqual([
        { path: '', message: 'must not contain more than 1000 keys and list items' },
      ]);
    }
  });

  it('quotes no text that is not JSON, because it may contain a password', () => {
    const { message, detail, issues, cause } = refusalOf('{"password":"a-secret-password"');
    expect(JSON.stringify({ message, detail, issues, cause })).not.toContain('secret');
  });
});
