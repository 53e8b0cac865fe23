// One statement for many tenants: what a person asks for, what the caller hears during the run, and the report.
import type { Selection } from './selected-tenants.js';
import type { ResultLine, Totals } from './tenant-results.js';

export interface StatementWish {
  readonly statement: string;
  readonly write: boolean;
  readonly selection: Selection;
  /** Where the lines go. A statement that writes needs a file, in which each COMMIT is noted before it is sent. */
  readonly file?: { readonly path: string; readonly resume: boolean } | undefined;
  /** Most statements at once on one server; undefined means a half of its reserve. */
  readonly atOnce?: number | undefined;
  /** Most rows of one tenant. */
  readonly limitRows: number;
  /** Longest run (ms) of the statement in one database. */
  readonly timeout: number;
  /** Ends the run: statements that run are cancelled, except a COMMIT. */
  readonly signal: AbortSignal;
}

/** `dry-run` rolls everything back. */
export type StatementMode = 'read' | 'dry-run' | 'write';

export interface StatementHooks {
  /** The statement begins to run for so many tenants. */
  begins(mode: StatementMode, tenants: number): void;
  /** In the order of completion. @param dry whether everything of it was rolled back */
  line(line: ResultLine, dry: boolean): void;
  /** @param totals of the dry run. @throws to change nothing */
  confirm(totals: Totals): Promise<void>;
}

export interface StatementReport {
  /** Undefined if nothing was left to do. */
  readonly dry?: Totals;
  readonly totals: Totals;
  /** Servers, as host:port, whose guest could not be dropped: the next run drops it. */
  readonly guestsLeft: readonly string[];
}
