// How a command shows a list: as a table, with a note beside it if rows were left out.
import type { Output } from './output.js';
import { tableOf, type Column } from './table.js';

/** @param list.more whether there are more rows than the limit. @param list.hasFilters whether options narrow the list */
export function showList<Row>(
  out: Output,
  columns: readonly Column<Row>[],
  list: {
    readonly data: readonly Row[];
    readonly more: boolean;
    readonly limit: number;
    readonly hasFilters?: boolean;
  },
): void {
  const { data, more, limit, hasFilters = true } = list;
  out.show({ data, more }, (width) => tableOf(columns, data, width));
  if (more) out.note(`There are more than ${limit}: raise --limit${hasFilters ? ', or narrow the list' : ''}.`);
}
