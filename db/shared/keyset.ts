// Keyset pagination: a page begins after the last row of the previous page, whatever was inserted or deleted in the meantime.
import { sql, type RawBuilder, type ReferenceExpression, type SelectQueryBuilder } from 'kysely';

/** A sort order that a list offers: an indexed, non-null column, then the id. */
export interface Keyset<DB, TB extends keyof DB> {
  readonly column: ReferenceExpression<DB, TB> & string;
  readonly id: ReferenceExpression<DB, TB> & string;
  readonly direction: 'asc' | 'desc';
  /** The PostgreSQL type of the column. The position's text is cast to it. */
  readonly type: 'timestamptz' | 'text' | 'numeric' | 'integer';
}

/** The end of a page: the sort column's value as text, and the id. */
export type Position = readonly [value: string, id: string];

/**
 * Orders a query and starts it after the position `after`.
 *
 *     order by price desc, id desc / where (price, id) < ($1::numeric, $2::uuid) limit $3
 *
 * @param limit rows to query; ask for one row more than the page shows to learn whether there is a next page
 */
export function afterPosition<DB, TB extends keyof DB, O>(
  query: SelectQueryBuilder<DB, TB, O>,
  keyset: Keyset<DB, TB>,
  after: Position | undefined,
  limit: number,
): SelectQueryBuilder<DB, TB, O> {
  const ordered = query.orderBy(keyset.column, keyset.direction).orderBy(keyset.id, keyset.direction).limit(limit);
  if (!after) return ordered;
  const row = sql`(${sql.ref(keyset.column)}, ${sql.ref(keyset.id)})`;
  const position = sql`(cast(${after[0]} as ${sql.raw(keyset.type)}), cast(${after[1]} as uuid))`;
  const behind: RawBuilder<boolean> =
    keyset.direction === 'asc' ? sql<boolean>`${row} > ${position}` : sql<boolean>`${row} < ${position}`;
  return ordered.where(behind);
}

/** An ILIKE pattern that finds `text` anywhere. `%`, `_` and `\` in `text` are literal. */
export function containsPattern(text: string): string {
  return `%${text.replace(/[\\%_]/g, '\\$&')}%`;
}
