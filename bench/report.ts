// Prints the figures as tables, and writes them as JSON for comparisons between runs.
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
  /** Load average of the last minute before the start: near 0 on an idle machine. */
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
  /** What a reader must know to interpret the figures. */
  readonly warnings: readonly string[];
  /** Promises that the figures break. With any of these, the run ends with exit code 1. */
  readonly failures: readonly string[];
}

/** Consecutive reports with the same head and caption are shown as one table. */
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

/** Writes a line to standard error, so that standard output holds only the tables. */
export function progress(text: string): void {
  process.stderr.write(`${new Date().toISOString().slice(11, 19)}  ${text}\n`);
}

/** Call it before anything is started: later the benchmark itself keeps the machine busy. */
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

/** Writes the report; creates its folder if there is none. */
export async function writeJson(file: string, { facts, flags, reports }: Report): Promise<void> {
  const figures = reports.map(({ table: _shown, ...rest }) => rest);
  await mkdir(path.dirname(file), { recursive: true });
  await writeFile(file, `${JSON.stringify({ facts, flags, reports: figures }, null, 2)}\n`);
}

/** Load average above which other work was running on the machine. */
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

/** Aligns the first two columns to the left, and the others to the right. */
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
