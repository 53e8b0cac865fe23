// Names for prepared statements. A named statement is parsed and planned once per connection, which makes a look-up by key up to
// twice as fast.
import { createHash } from 'node:crypto';
import { sql } from 'kysely';

/** How many statements of this process get a name, at most: pg never frees a name on a connection. */
const MAX_NAMED_STATEMENTS = 500;
const names = new Map<string, string>();

/** Ends the text of a statement that gets no name. */
const PLANNED_EACH_TIME = '/* planned each time */';

/**
 * For the end of a query whose best plan depends on its values, such as a list with filters:
 *
 *     query.modifyEnd(plannedEachTime)
 *
 * After five runs PostgreSQL may plan a named statement once, for values that it does not know. Then the values that were asked
 * first on a connection decide how long the others take.
 */
export const plannedEachTime = sql.raw(PLANNED_EACH_TIME);

/**
 * The prepared statement's name for a SQL text. Undefined for DDL and transaction control, for a text that ends with
 * `plannedEachTime`, and when all names are used.
 */
export function statementName(text: string): string | undefined {
  if (text.endsWith(PLANNED_EACH_TIME)) return undefined;
  const known = names.get(text);
  if (known) return known;
  if (names.size >= MAX_NAMED_STATEMENTS || !/^\s*(?:select|insert|update|delete|with)\b/.test(text)) return undefined;
  const name = createHash('sha256').update(text).digest('base64url').slice(0, 22);
  names.set(text, name);
  return name;
}
