// The figures as tables for people and as JSON for whoever compares runs.
import { mkdir, writeFile } from 'node:fs/promises';
import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os';
import path from 'node:path';
import type { Flags } from './flags.js';

/** What the figures depend on besides the flags. */
export interface Facts {
  readonly at: string;
  readonly cores: number;
  readonly cpu: string;
  /** GiB. */
  readonly memory: number;
  readonly kernel: string;
  /** Load average of the last minute before the start: near 0 on a machine that was free. */
  readonly loadBefore: number;
  readonly node: string;
  readonly postgres: string;
}

/** What a scenario has measured. */
export interface ScenarioReport {
  readonly name: string;
  readonly what: string;
  /** The figures of each round, and their medians, for the JSON. */
  readonly rounds: readonly object[];
  readonly median: object;
  readonly table: Table;
  /** What a reader must know before believing the figures. */
  readonly warnings: readonly string[];
  /** Promises that the figures break, whatever else they say: the run then ends with exit code 1. */
  readonly failures: readonly string[];
}

/** Reports one after the other with the same head and caption are shown as one table. */
export interface Table {
  /** What the figures depend on besides the machine. */
  readonly caption: string;
  readonly headings: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

export interface Report {
  readonly facts: Facts;
  readonly flags: Flags;
  readonly reports: readonly ScenarioReport[];
}

/** A line on standard error, so that standard output holds the tables alone. */
export function progress(text: string): void {
  process.stderr.write(`${new Date().toISOString().slice(11, 19)}  ${text}\n`);
}

/** To be asked before anything is started: later the machine is busy with the benchmark itself. */
export function machineFacts(): Omit<Facts, 'postgres'> {
  return {
    at: new Date().toISOString(),
    cores: availableParallelism(),
    cpu: cpus()[0]?.model ?? 'unknown',
    memory: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
    loadBefore: loadavg()[0] ?? 0,
    node: process.version,
  };
}

export function tables({ facts, flags, reports }: Report): string {
  const variables = Object.entries(flags.env).map(([name, value]) => `${name}=${value}`);
  return [
    '',
    `${facts.cores} cores (${facts.cpu}), ${facts.memory} GiB, Linux ${facts.kernel}, Node ${facts.node}, PostgreSQL ${facts.postgres}` +
      (variables.length > 0 ? `; with ${variables.join(' ')}` : ''),
    ...grouped(reports).flatMap(({ caption, headings, rows }) => ['', caption, ...columns([headings, ...rows])]),
    '',
    ...warningsOf(facts, flags),
    ...reports.flatMap(({ warnings }) => warnings),
    ...reports.flatMap(({ failures }) => failures.map((failure) => `FAILED: ${failure}`)),
    '',
  ].join('\n');
}

/** Writes the report, with its folder where there is none. */
export async function writeJson(file: string, { facts, flags, reports }: Report): Promise<void> {
  const figures = reports.map(({ table: _shown, ...rest }) => rest);
  await mkdir(path.dirname(file), { recursive: true });
  await writeFile(file, `${JSON.stringify({ facts, flags, reports: figures }, null, 2)}\n`);
}

/** Load average above which somebody else was at work. */
const BUSY = 0.5;

const MIN_ROUNDS = 3;

interface Grouped {
  readonly caption: string;
  readonly headings: readonly string[];
  readonly rows: (readonly string[])[];
}

function grouped(reports: readonly ScenarioReport[]): Grouped[] {
  const groups: Grouped[] = [];
  for (const { table } of reports) {
    const last = groups.at(-1);
    if (last?.caption === table.caption && last.headings.join() === table.headings.join())
      last.rows.push(...table.rows);
    else groups.push({ ...table, rows: [...table.rows] });
  }
  return groups;
}

function warningsOf({ loadBefore }: Facts, { rounds, profile }: Flags): string[] {
  return [
    ...(loadBefore > BUSY
      ? [`The machine was busy before the start (load average ${loadBefore.toFixed(2)}): do not keep these figures.`]
      : []),
    ...(rounds !== undefined && rounds < MIN_ROUNDS
      ? [`Fewer than ${MIN_ROUNDS} rounds: do not keep these figures.`]
      : []),
    ...(profile === undefined ? [] : ['The service was profiled: do not keep these figures.']),
  ];
}

/** Text to the left for the first two columns, figures to the right for the others. */
function columns(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, column) => {
        const width = widths[column] ?? 0;
        return column < 2 ? cell.padEnd(width) : cell.padStart(width);
      })
      .join('  ')
      .trimEnd(),
  );
}
