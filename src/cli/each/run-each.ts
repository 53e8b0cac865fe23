// Runs a statement for tenants from the command line: what it shows while it runs, at its end, and when it is interrupted.
import type { Selection } from '../../fleet-statements/selected-tenants.js';
import type { StatementMode, StatementReport } from '../../fleet-statements/statement-wish.js';
import { UnusableStatement } from '../../fleet-statements/one-statement.js';
import { missingOf, type ResultLine, type Totals } from '../../fleet-statements/tenant-results.js';
import { PlainError } from '../../jobs/plain-words.js';
import { onNextSignal } from '../interruption.js';
import type { Given } from '../terminal/cli-command.js';
import { CommandError, EXIT, type ExitCode } from '../terminal/exit-codes.js';
import { clusterNamed, tenantNamed } from '../terminal/named-rows.js';
import { progressBar, type ProgressBar } from '../terminal/progress-bar.js';
import { tableOf } from '../terminal/table.js';
import type { EachOptions } from './each-options.js';

const DOING: Readonly<Record<StatementMode, string>> = {
  read: 'reading',
  'dry-run': 'trying',
  write: 'changing',
};

/** @returns the exit code */
export async function runEach(given: Given<EachOptions>, statement: string): Promise<ExitCode | undefined> {
  const { engine, options, out } = given;
  const { write = false, output, resume, atOnce, limitRows, timeout } = options;
  const path = output ?? resume;
  if (write && path === undefined)
    throw new CommandError(EXIT.usage, '--write needs --output, the file that says what is done, or --resume.');
  await engine.clusterRegistration.ensureDefault();
  const selection = await selectionOf(given);
  const asLines = path === undefined && (out.json || !process.stdout.isTTY);
  const interrupted = new AbortController();
  const stop = (): void => {
    interrupted.abort();
  };
  const tables = { dry: [] as Row[], real: [] as Row[] };
  const progress = new Progress();
  onNextSignal(stop);
  try {
    const report = await engine.fleetStatements.run(
      {
        ...{ statement, write, selection, limitRows, timeout, atOnce, signal: interrupted.signal },
        ...(path !== undefined && { file: { path, resume: resume !== undefined } }),
      },
      await given.origin(),
      {
        begins: (mode, tenants) => {
          progress.begin(mode, tenants);
        },
        line(line, dry) {
          progress.step();
          if (asLines) out.line(line);
          else (dry ? tables.dry : tables.real).push(rowOf(line));
        },
        async confirm(dry) {
          progress.end();
          if (!out.json) process.stderr.write(tableFor(tables.dry, true, process.stderr.columns));
          // Nothing is open between the dry run and the change: a signal may end the process.
          onNextSignal(undefined);
          await given.ask(questionOf(dry));
          onNextSignal(stop);
        },
      },
    );
    progress.end();
    const { totals } = report;
    if (!asLines) out.show(documentOf(report, path), (width) => tableFor(tables.real, write, width));
    for (const line of wordsOf(report, interrupted.signal.aborted)) out.note(line);
    if (interrupted.signal.aborted) return EXIT.interrupted;
    return totals.failed + totals.skipped + totals.unknown > 0 ? EXIT.incomplete : undefined;
  } catch (error) {
    if (error instanceof UnusableStatement) throw new CommandError(EXIT.usage, error.message, { cause: error });
    if (error instanceof PlainError)
      throw new CommandError(EXIT.refused, `${error.message.charAt(0).toUpperCase()}${error.message.slice(1)}.`, {
        cause: error,
      });
    throw error;
  } finally {
    onNextSignal(undefined);
    progress.end();
  }
}

async function selectionOf({ engine, options }: Given<EachOptions>): Promise<Selection> {
  const { tenants, status, cluster } = options;
  const { registry } = engine;
  const ids: string[] = [];
  for (const name of tenants ?? []) ids.push((await tenantNamed(registry, name)).id);
  const place = cluster === undefined ? undefined : await clusterNamed(registry, cluster);
  return {
    statuses: status,
    ...(tenants && { tenants: ids }),
    ...(place && { cluster: { name: place.name, host: place.host, port: place.port } }),
  };
}

function questionOf({ done, failed, affected }: Totals): string {
  const left = failed > 0 ? ` ${failed} failed in the dry run and are left out.` : '';
  return `The dry run changed ${affected} rows of ${done} tenants, and was undone.${left} Change them for real?`;
}

/** What a table shows of a tenant. */
interface Row {
  readonly slug: string;
  readonly count: number | undefined;
  readonly says: string;
}

/** Characters of a row that a table keeps. */
const KEPT = 300;

function rowOf(line: ResultLine): Row {
  const { slug } = line;
  if ('error' in line) return { slug, count: undefined, says: `failed: ${line.error.message} (${line.error.code})` };
  if ('skipped' in line) return { slug, count: undefined, says: `skipped: ${line.skipped}` };
  if ('unknown' in line) return { slug, count: line.affected, says: 'unknown: the answer to COMMIT was lost' };
  const [first] = line.rows;
  const shown = first === undefined ? '' : JSON.stringify(first).slice(0, KEPT);
  return { slug, count: line.affected ?? line.rows.length, says: line.more ? `${shown} (there are more rows)` : shown };
}

function tableFor(rows: readonly Row[], changed: boolean, width: number | undefined): string {
  return tableOf<Row>(
    [
      { head: 'TENANT', of: ({ slug }) => slug },
      { head: changed ? 'CHANGED' : 'ROWS', of: ({ count }) => count },
      { head: 'FIRST ROW', of: ({ says }) => says },
    ],
    rows,
    width,
  );
}

function documentOf({ totals, dry }: StatementReport, file: string | undefined): object {
  return { ...totals, missing: missingOf(totals), ...(dry && { dryRun: dry }), ...(file !== undefined && { file }) };
}

function wordsOf({ totals, guestsLeft }: StatementReport, interrupted: boolean): string[] {
  const { selected, done, failed, skipped, unknown, before } = totals;
  const missing = missingOf(totals);
  const parts = [
    `${done} of ${selected} tenants are done`,
    ...(before > 0 ? [`${before} were done before`] : []),
    ...(failed > 0 ? [`${failed} failed`] : []),
    ...(skipped > 0 ? [`${skipped} are skipped`] : []),
    ...(unknown > 0 ? [`${unknown} are unknown: --resume asks PostgreSQL about them`] : []),
    ...(missing > 0 ? [`${missing} are missing`] : []),
  ];
  return [
    `${interrupted ? 'Interrupted: ' : ''}${parts.join(', ')}.`,
    ...guestsLeft.map((place) => `The role of this run is still on ${place}: the next run drops it.`),
  ];
}

/** A bar for each part of the run. */
class Progress {
  #bar: ProgressBar | undefined;
  #done = 0;
  #of = 0;

  begin(mode: StatementMode, tenants: number): void {
    this.end();
    this.#bar = progressBar(DOING[mode]);
    this.#of = tenants;
    this.#done = 0;
  }

  step(): void {
    this.#done += 1;
    this.#bar?.update(this.#done, this.#of);
  }

  end(): void {
    this.#bar?.end();
    this.#bar = undefined;
  }
}
