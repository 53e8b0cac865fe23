// The common parts of all lists: limit, cursor and sort in the query, `{ data, nextCursor }` in the answer.
/* eslint @typescript-eslint/explicit-module-boundary-types: off -- the types are what zod infers; written out they would repeat the schemas */
import { z } from 'zod';
import type { Position } from '../../db/shared/keyset.js';
import type { CursorContext, Cursors } from '../../src/http/cursors.js';
import { wholeInQuery } from './fields.js';

export const limit = wholeInQuery(1, 100).default(20).meta({ description: 'Rows in a page.' });

/** The longest cursor holds a text of 200 characters, which JSON escapes to six bytes each: about 1,700. */
const MAX_CURSOR = 2_000;

export const cursor = z
  .string()
  .min(1)
  .max(MAX_CURSOR)
  .optional()
  .meta({ description: 'The `nextCursor` of the previous page.' });

/**
 * The query of a list.
 *
 * @param sorts the columns that the list can be sorted by; a `-` in front sorts descending. The default is `-createdAt`
 * @param filters the list's filters by name
 */
export function listQuery<Name extends string, Filters extends z.ZodRawShape>(
  sorts: Readonly<Record<Name, unknown>>,
  filters: Filters,
) {
  const names = Object.keys(sorts) as Name[];
  const sort = z
    .enum(names.flatMap((name) => [name, `-${name}`]))
    .default('-createdAt')
    .transform((value) => ({
      name: value.replace(/^-/, '') as Name,
      direction: value.startsWith('-') ? ('desc' as const) : ('asc' as const),
    }))
    .meta({ description: 'A column; `-` in front sorts descending.' });
  return z.strictObject({ limit, cursor, sort, ...filters });
}

/**
 * The answer of a list of `item`, whose name `Product` makes the name `ProductPage`.
 *
 * @throws Error if the item has no name
 */
export function pageOf<Item extends z.ZodType>(item: Item) {
  const name = item.meta()?.id;
  if (name === undefined) throw new Error("the items of a list need a name: .meta({ id: 'Product' })");
  return z
    .object({
      data: z.array(item),
      nextCursor: z
        .string()
        .nullable()
        .meta({ description: 'Send it as `cursor` to read the next page; null on the last page.' }),
    })
    .meta({ id: `${name}Page` });
}

interface ListQuery {
  readonly limit: number;
  readonly cursor?: string | undefined;
  readonly sort: { readonly name: string; readonly direction: 'asc' | 'desc' };
}

/**
 * Reads one page: checks the cursor, reads one row more than the page holds, and makes the next cursor if there is a next page.
 *
 * @param owner the owner of the list: a tenant's id, or the operators
 * @throws AppError `invalid-cursor` if the cursor belongs to another owner, list, sort or filter
 */
export async function readPage<Row extends { id: string }, Query extends ListQuery>(
  cursors: Cursors,
  [owner, list]: readonly [owner: string, list: string],
  query: Query,
  read: (
    page: Omit<Query, 'sort' | 'cursor'> & {
      sort: Query['sort']['name'];
      direction: 'asc' | 'desc';
      after: Position | undefined;
    },
  ) => Promise<Row[]>,
): Promise<{ data: Row[]; nextCursor: string | null }> {
  const { limit: size, cursor: given, sort, ...filters } = query;
  const context: CursorContext = [owner, list, `${sort.direction} ${sort.name}`, filters];
  const after = given === undefined ? undefined : cursors.decode(given, context);
  const rows = await read({ ...query, limit: size + 1, sort: sort.name, direction: sort.direction, after });
  const data = rows.slice(0, size);
  const last = data.at(-1);
  const nextCursor =
    last && rows.length > size
      ? cursors.encode([String((last as Record<string, unknown>)[sort.name]), last.id], context)
      : null;
  return { data, nextCursor };
}
