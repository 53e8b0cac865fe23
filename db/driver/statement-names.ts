// Names for prepared statements: a named one is parsed and planned once a connection, which makes a look-up by key up to
// twice as fast.
import { createHash } from 'node:crypto';

/** Shapes of statement that get a name, at most, in this process: pg never frees a name on a connection. */
const MAX_NAMED_STATEMENTS = 500;
const names = new Map<string, string>();

/**
 * The prepared statement's name for a SQL text, or undefined where it stays unnamed: DDL and transaction control, and
 * everything past the bound.
 */
export function statementName(text: string): string | undefined {
  const known = names.get(text);
  if (known) return known;
  if (names.size >= MAX_NAMED_STATEMENTS || !/^\s*(?:select|insert|update|delete|with)\b/.test(text)) return undefined;
  const name = createHash('sha256').update(text).digest('base64url').slice(0, 22);
  names.set(text, name);
  return name;
}
