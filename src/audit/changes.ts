// From which value to which: the detail `changes` of an audit row. Give it values that a row may hold: no secret, and no name or
// address of a person.
import { isDeepStrictEqual } from 'node:util';
import type { Changes } from '../../db/shared/audit-rows.js';

/** The longest text of a value. */
const MAX_TEXT = 300;

/**
 * The fields whose values differ. A field with keys of its own, such as `limits`, has only the keys that differ.
 *
 * @example
 *     changesBetween({ name: 'Acme', limits: { users: 5 } }, { name: 'Acme', limits: { users: 9 } });
 *     // { limits: { from: { users: 5 }, to: { users: 9 } } }
 */
export function changesBetween(
  before: Readonly<Record<string, unknown>>,
  after: Readonly<Record<string, unknown>>,
): Changes {
  const changed = Object.keys(after).filter((name) => !isDeepStrictEqual(before[name] ?? null, after[name] ?? null));
  return Object.fromEntries(changed.map((name) => [name, change(before[name], after[name])]));
}

function change(before: unknown, after: unknown): { from: unknown; to: unknown } {
  if (!isRecord(before) || !isRecord(after)) return { from: short(before), to: short(after) };
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])].sort();
  const changed = names.filter((name) => !isDeepStrictEqual(before[name], after[name]));
  const only = (values: Record<string, unknown>): object =>
    Object.fromEntries(changed.map((name) => [name, short(values[name])]));
  return { from: only(before), to: only(after) };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function short(value: unknown): unknown {
  return typeof value === 'string' ? value.slice(0, MAX_TEXT) : (value ?? null);
}
