// Keyset pagination: a page begins after the last row of the previous page, whatever was inserted or deleted in the meantime.
import { sql, type RawBuilder, type ReferenceExpression, type SelectQueryBuilder } from 'kysely';
import { plannedEachTime } from '../driver/statement-names.js';
import { postgresTimestamp } from '../driver/timestamps.js';

/** A sort order that a list offers: an indexed, non-null column, then the id. */
export interface Keyset<DB, TB extends keyof DB> {
  readonly column: ReferenceExpression<DB, TB> & string;
  readonly id: ReferenceExpression<DB, TB> & string;
  readonly direction: 'asc' | 'desc';
  /** The PostgreSQL type of the column. The position's text is cast to it. */
  readonly type: 'timestamptz' | 'text' | 'numeric' | 'integer';
}

/** The end of a page: the sort column's value as the answer shows it, and the id. */
export type Position = readonly [value: string, id: string];

/** A position as PostgreSQL reads it. */
export function positionIn(
  { type }: { readonly type: Keyset<never, never>['type'] },
  after: Position | undefined,
): Position | undefined {
  return after && type === 'timestamptz' ? [postgresTimestamp(after[0]), after[1]] : after;
}

/**
 * Orders a query and starts it after the position `after`.
 *
 *     order by price desc, id desc / where (price, id) < ($1::numeric, $2::uuid) limit $3
 *
 * The query is planned for its values each time, because a list can have filters.
 *
 * @param limit rows to query; ask for one row more than the page shows to learn whether there is a next page
 */
export function afterPosition<DB, TB extends keyof DB, O>(
  query: SelectQueryBuilder<DB, TB, O>,
  keyset: Keyset<DB, TB>,
  after: Position | undefined,
  limit: number,
): SelectQueryBuilder<DB, TB, O> {
  return unfilteredAfter(query, keyset, positionIn(keyset, after), limit).modifyEnd(plannedEachTime);
}

/**
 * Like `afterPosition`, for a list without filters. Its plan is always the same.
 *
 * @param after as `positionIn` returns it
 */
export function unfilteredAfter<DB, TB extends keyof DB, O>(
  query: SelectQueryBuilder<DB, TB, O>,
  keyset: Keyset<DB, TB>,
  after: Position | undefined,
  limit: number,
): SelectQueryBuilder<DB, TB, O> {
  const ordered = query.orderBy(keyset.column, keyset.direction).orderBy(keyset.id, keyset.direction).limit(limit);
  return after ? ordered.where(isAfter(keyset, after)) : ordered;
}

/** The condition that a row comes after a position. @param after as `positionIn` returns it */
export function isAfter(
  { column, id, direction, type }: Omit<Keyset<never, never>, 'column' | 'id'> & { column: string; id: string },
  after: Position,
): RawBuilder<boolean> {
  const row = sql`(${sql.ref(column)}, ${sql.ref(id)})`;
  const position = sql`(cast(${after[0]} as ${sql.raw(type)}), cast(${after[1]} as uuid))`;
  return direction === 'asc' ? sql<boolean>`${row} > ${position}` : sql<boolean>`${row} < ${position}`;
}

/** An ILIKE pattern that finds `text` anywhere. `%`, `_` and `\` in `text` are literal. */
export function containsPattern(text: string): string {
  return `%${text.replace(/[\\%_]/g, '\\$&')}%`;
}
