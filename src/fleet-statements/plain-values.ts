// The rows of a person's statement as JSON. What JSON cannot hold exactly stays PostgreSQL's text.
import type { PlainAnswer } from '../../db/driver/one-session.js';

export type PlainRow = Readonly<Record<string, unknown>>;

/** OIDs of PostgreSQL's built-in types. They never change. */
const TYPES = { bool: 16, int8: 20, int2: 21, int4: 23, oid: 26, json: 114, float4: 700, float8: 701, jsonb: 3802 };

/**
 * The first rows of an answer. Numbers become numbers if JavaScript holds them exactly, json becomes JSON, and all other values are text:
 * `numeric` and timestamps too. A second column of one name gets a number: `count`, `count 2`.
 */
export function rowsOf({ columns, rows }: PlainAnswer, limit: number): PlainRow[] {
  const seen = new Map<string, number>();
  const named = columns.map(({ name, type }) => {
    const times = (seen.get(name) ?? 0) + 1;
    seen.set(name, times);
    return { key: times === 1 ? name : `${name} ${times}`, read: readerOf(type) };
  });
  return rows.slice(0, limit).map((values) =>
    // A key such as __proto__ becomes a property of its own.
    Object.fromEntries(
      named.map(({ key, read }, index) => {
        const text = values[index] ?? null;
        return [key, text === null ? null : read(text)];
      }),
    ),
  );
}

function readerOf(type: number): (text: string) => unknown {
  switch (type) {
    case TYPES.bool:
      return (text) => text === 't';
    case TYPES.int2:
    case TYPES.int4:
    case TYPES.int8:
    case TYPES.oid:
      return (text) => (Number.isSafeInteger(Number(text)) ? Number(text) : text);
    case TYPES.float4:
    case TYPES.float8:
      return (text) => (Number.isFinite(Number(text)) ? Number(text) : text);
    case TYPES.json:
    case TYPES.jsonb:
      return parsed;
    default:
      return (text) => text;
  }
}

/** PostgreSQL accepts numbers in json that JavaScript would round, and nesting that it cannot parse. */
function parsed(text: string): unknown {
  try {
    const value: unknown = JSON.parse(text);
    return /\d{16}/.test(text) ? text : value;
  } catch {
    return text;
  }
}
