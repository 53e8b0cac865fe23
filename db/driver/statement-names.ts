// Names for prepared statements. A named statement is parsed and planned once per connection, which makes a look-up by key up to
// twice as fast.
import { createHash } from 'node:crypto';

/** How many statements of this process get a name, at most: pg never frees a name on a connection. */
const MAX_NAMED_STATEMENTS = 500;
const names = new Map<string, string>();

/** The prepared statement's name for a SQL text. Undefined for DDL and transaction control, and when all names are used. */
export function statementName(text: string): string | undefined {
  const known = names.get(text);
  if (known) return known;
  if (names.size >= MAX_NAMED_STATEMENTS || !/^\s*(?:select|insert|update|delete|with)\b/.test(text)) return undefined;
  const name = createHash('sha256').update(text).digest('base64url').slice(0, 22);
  names.set(text, name);
  return name;
}
