// Keyset pagination: a page begins after the last row of the one before, whatever was inserted or deleted between them.
import { sql, type RawBuilder, type ReferenceExpression, type SelectQueryBuilder } from 'kysely';

/** A sort that a list offers: an indexed, non-null column, with the id as the last key. */
export interface Keyset<DB, TB extends keyof DB> {
  readonly column: ReferenceExpression<DB, TB> & string;
  readonly id: ReferenceExpression<DB, TB> & string;
  readonly direction: 'asc' | 'desc';
  /** The PostgreSQL type of the column, to which the position's text is cast. */
  readonly type: 'timestamptz' | 'text' | 'numeric' | 'integer';
}

/** Where a page ended: the sort column's value as text, and the id. */
export type Position = readonly [value: string, id: string];

/**
 * Orders a query and starts it behind `after`.
 *
 *     order by price desc, id desc / where (price, id) < ($1::numeric, $2::uuid) limit $3
 *
 * @param limit rows to ask for; one more than the page shows whether there is a next one
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

/** A pattern for ILIKE that finds `text` anywhere, with `%`, `_` and `\` taken literally. */
export function containsPattern(text: string): string {
  return `%${text.replace(/[\\%_]/g, '\\$&')}%`;
}
