// Pages of a list with filters. No plan is good for all filters: a common one is found at once in the order of the list, and a rare
// one, or one whose rows are all at the other end, with an index of its own. PostgreSQL estimates which it is, and cannot know at
// which end the rows are. So a page is looked for in two steps, and the work of each is bounded:
//
//     near   reads the next rows in the order of the list, WALK × limit at most ── enough of them match ──▶ done
//              └── too few ──▶ rest   reads all rows that match, by an index, and sorts them
//
// `rest` is needed only if less than one row of WALK matches nearby. If an index has the column of a filter and then that of the
// sort, or they are the same column, `near` begins with the rows that match this filter. docs/inside/performance.md has the times.
import { sql, type Compilable, type Kysely, type RawBuilder } from 'kysely';
import { plannedEachTime } from '../driver/statement-names.js';
import { statement } from '../driver/statement.js';
import { isAfter, positionIn, type Keyset, type Position } from './keyset.js';

/** Rows that `near` reads for each row of the page, at most. */
const WALK = 100;

/** A list with filters. */
export interface FilteredList<Filters> {
  /** A table with a column `id`. */
  readonly table: string;
  /** What a row of the page shows: columns of the table, such as `created_at as createdAt`, and expressions. */
  readonly columns: readonly (string | RawBuilder<unknown>)[];
  /** The columns of the table that `columns`, `matches` and the sorts read. */
  readonly reads: readonly string[];
  /**
   * The conditions of the filters that are given, with the column if a condition is about one; false for the others. It gets
   * placeholders (db/driver/statement.ts).
   */
  readonly matches: (filters: Filters) => readonly (Match | false)[];
  /** By the column of a sort: columns that come before it in an index. Their conditions compare with `=`. */
  readonly leads: Readonly<Record<string, readonly string[]>>;
}

export type Match = readonly [column: string | undefined, condition: RawBuilder<boolean>];

/** The order of a list: a column of the table, then the id. */
export interface ListOrder {
  readonly column: string;
  readonly type: Keyset<never, never>['type'];
  readonly direction: 'asc' | 'desc';
}

interface Bounds {
  readonly limit: number;
  readonly walk: number;
  readonly value: string | undefined;
  readonly after: string | undefined;
}

/** @returns a function that reads one page of the rows that match at least one filter */
export function filteredPages<DB, Filters extends object, Row>(
  list: FilteredList<Filters>,
): (
  db: Kysely<DB>,
  filters: Filters,
  order: ListOrder,
  page: { readonly after?: Position | undefined; readonly limit: number },
) => Promise<Row[]> {
  const table = sql.table(list.table);
  const shown = sql.join(list.columns.map((column) => (typeof column === 'string' ? aliased(column) : column)));

  const near = statement((db: Kysely<DB>, parameters: Filters & Bounds, order: ListOrder): Compilable<Row> => {
    const { from, sorted } = parts(parameters, order);
    const matches = list.matches(parameters).filter((match) => match !== false);
    const given = matches.map(([column]) => column);
    const lead = list.leads[order.column]?.find((column) => given.includes(column));
    const begins = matches.filter(([column]) => column === order.column || (column && column === lead));
    const reads = sql.join(list.reads.map((column) => sql.ref(column)));
    return compilable(
      db,
      sql<Row>`
        select ${shown} from (
          select ${reads} from ${table} where ${all(begins, from)} order by ${sorted} limit ${parameters.walk}
        ) as ${table}
        where ${all(matches)} order by ${sorted} limit ${parameters.limit} ${plannedEachTime}`,
    );
  });

  // Without OFFSET, PostgreSQL might read the rows in the order of the list after all.
  const rest = statement((db: Kysely<DB>, parameters: Filters & Bounds, order: ListOrder): Compilable<Row> => {
    const { from, sorted } = parts(parameters, order);
    const matches = list.matches(parameters).filter((match) => match !== false);
    return compilable(
      db,
      sql<Row>`
        select ${shown} from (
          select id from (
            select id, ${sql.ref(order.column)} from ${table}
            where ${all(matches, from)} offset 0
          ) as found order by ${sorted} limit ${parameters.limit}
        ) as page join ${table} using (id) order by ${sorted} ${plannedEachTime}`,
    );
  });

  return async (db, filters, order, { after, limit }) => {
    const [value, id] = positionIn(order, after) ?? [];
    const parameters = { ...filters, limit, walk: WALK * limit, value, after: id };
    const found = await near(db, parameters, order);
    return found.length >= limit ? found : rest(db, parameters, order);
  };
}

/** The condition of the page's beginning, and the order. */
function parts(
  { value, after }: Bounds,
  { column, type, direction }: ListOrder,
): { from: RawBuilder<boolean> | undefined; sorted: RawBuilder<unknown> } {
  const way = sql.raw(direction);
  return {
    from:
      value === undefined || after === undefined
        ? undefined
        : isAfter({ column, id: 'id', type, direction }, [value, after]),
    sorted: sql`${sql.ref(column)} ${way}, id ${way}`,
  };
}

function all(matches: readonly Match[], from?: RawBuilder<boolean>): RawBuilder<boolean> {
  const conditions = [...matches.map(([, condition]) => condition), ...(from ? [from] : [])];
  return conditions.length === 0 ? sql<boolean>`true` : sql<boolean>`${sql.join(conditions, sql` and `)}`;
}

/** `created_at as createdAt` in SQL. */
function aliased(column: string): RawBuilder<unknown> {
  const [name = '', alias] = column.split(' as ');
  return alias === undefined ? sql.ref(name) : sql`${sql.ref(name)} as ${sql.id(alias)}`;
}

function compilable<DB, Row>(db: Kysely<DB>, query: RawBuilder<Row>): Compilable<Row> {
  return { compile: () => query.compile(db) };
}
