// What a run says of each tenant, and of all.
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import { problemOf, type Outcome, type Problem, type RowsRead } from './one-statement.js';
import type { PlainRow } from './plain-values.js';

/** A line of the output. */
export type ResultLine = { readonly tenant: string; readonly slug: string } & (
  | { readonly rows: readonly PlainRow[]; readonly more: boolean; readonly affected?: number }
  | { readonly error: Problem }
  | { readonly skipped: string }
  /** The id of a transaction whose COMMIT was sent, and got no answer. It is asked about when the run is continued. */
  | { readonly unknown: string; readonly affected: number }
);

/** Counts of tenants, but for `rows` and `affected`. */
export interface Totals {
  readonly selected: number;
  done: number;
  failed: number;
  skipped: number;
  unknown: number;
  /** Done by the run that this one continues. */
  readonly before: number;
  rows: number;
  /** Rows that were changed. */
  affected: number;
}

export function noTotals(selected: number, before: number): Totals {
  return { selected, done: 0, failed: 0, skipped: 0, unknown: 0, before, rows: 0, affected: 0 };
}

/** Tenants of which nothing is known, because the run was interrupted. */
export function missingOf({ selected, done, failed, skipped, unknown, before }: Totals): number {
  return selected - done - failed - skipped - unknown - before;
}

export function count(totals: Totals, line: ResultLine): void {
  if ('error' in line) totals.failed += 1;
  else if ('skipped' in line) totals.skipped += 1;
  else if ('unknown' in line) totals.unknown += 1;
  else {
    totals.done += 1;
    totals.rows += line.rows.length;
  }
  if ('affected' in line) totals.affected += line.affected ?? 0;
}

type Named = Pick<TenantRecord, 'id' | 'slug'>;

export function readLine({ id, slug }: Named, { rows, more }: RowsRead): ResultLine {
  return { tenant: id, slug, rows, more };
}

export function changedLine({ id, slug }: Named, outcome: Outcome): ResultLine {
  const { rows, more, affected } = outcome;
  if (outcome.state === 'unknown') return { tenant: id, slug, unknown: outcome.xid, affected };
  return { tenant: id, slug, affected, rows, more };
}

export function errorLine({ id, slug }: Named, error: unknown): ResultLine {
  return { tenant: id, slug, error: problemOf(error) };
}

export function skippedLine({ id, slug }: Named, reason: string): ResultLine {
  return { tenant: id, slug, skipped: reason };
}
