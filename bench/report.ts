// The figures as a table for people and as JSON for whoever compares runs.
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { Flags } from './flags.js';
import type { Measurement } from './measure.js';
import type { ComparedRound, Scenario } from './scenarios/scenario.js';
import { TENANTS_AT_ONCE, type TenantRound } from './scenarios/tenant.js';
import { median } from './statistics.js';

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
  readonly poolMax: number;
  readonly tenants: number;
  readonly tokens: number;
  readonly products: number;
}

/** How the service stands to the floor: 1 is as fast or as cheap, 0.5 half as fast or twice as dear. */
interface Ratios {
  readonly requests: number;
  readonly cpu: number;
}

export type ScenarioReport =
  | {
      readonly kind: 'compared';
      readonly name: string;
      readonly what: string;
      readonly rounds: readonly (ComparedRound & { readonly ratio: Ratios })[];
      readonly median: ComparedRound & { readonly ratio: Ratios };
    }
  | {
      readonly kind: 'tenant';
      readonly name: string;
      readonly what: string;
      readonly rounds: readonly TenantRound[];
      readonly median: TenantRound;
    };

export interface Report {
  readonly facts: Facts;
  readonly flags: Flags;
  readonly reports: readonly ScenarioReport[];
}

/** A line on standard error, so that standard output holds the table alone. */
export function progress(text: string): void {
  process.stderr.write(`${new Date().toISOString().slice(11, 19)}  ${text}\n`);
}

/** Medians over the rounds. The ratio is taken in each round, where both sides met the same machine, and then its median. */
export function summarise(
  { kind, name, what }: Scenario,
  compared: readonly ComparedRound[],
  tenant: readonly TenantRound[],
): ScenarioReport {
  if (kind === 'tenant') return { kind, name, what, rounds: tenant, median: medians(tenant) };
  const rounds = compared.map(({ service, floor }) => ({
    service,
    floor,
    ratio: {
      requests: service.requestsPerSecond / floor.requestsPerSecond,
      cpu: floor.serverCpu / service.serverCpu,
    },
  }));
  return {
    kind,
    name,
    what,
    rounds,
    median: {
      service: medians(rounds.map(({ service }) => service)),
      floor: medians(rounds.map(({ floor }) => floor)),
      ratio: medians(rounds.map(({ ratio }) => ratio)),
    },
  };
}

export function table(facts: Facts, flags: Flags, reports: readonly ScenarioReport[]): string {
  const compared = reports.filter((report) => report.kind === 'compared');
  const tenant = reports.filter((report) => report.kind === 'tenant');
  return [
    '',
    ...headOf(facts, flags),
    '',
    ...(compared.length > 0 ? columns([HEADINGS, ...compared.flatMap(rowsOf)]) : []),
    ...tenant.map(
      ({ median: { median: middle, p95, perSecondAtOnce } }) =>
        `tenant  one by one: median ${middle.toFixed(1)} ms, p95 ${p95.toFixed(1)} ms; ` +
        `${TENANTS_AT_ONCE} at once: ${perSecondAtOnce.toFixed(1)} a second`,
    ),
    '',
    ...warningsOf(facts, flags, compared),
  ].join('\n');
}

/** Writes the report, with its folder where there is none. */
export async function writeJson(file: string, report: Report): Promise<void> {
  await mkdir(path.dirname(file), { recursive: true });
  await writeFile(file, `${JSON.stringify(report, null, 2)}\n`);
}

const HEADINGS = [
  'scenario',
  'side',
  'req/s',
  'p50 ms',
  'p99 ms',
  'server µs',
  'postgres µs',
  'RSS MiB',
  'load cores',
  'of floor: req/s (rounds)',
  'of floor: CPU',
];

/** Load average above which somebody else was at work. */
const BUSY = 0.5;

/** Cores of a load generator that has no room left: it is one thread. */
const SATURATED = 0.95;

const MIN_ROUNDS = 3;

function headOf(facts: Facts, flags: Flags): string[] {
  const variables = Object.keys(flags.env);
  return [
    `${facts.cores} cores (${facts.cpu}), ${facts.memory} GiB, Linux ${facts.kernel}, Node ${facts.node}, PostgreSQL ${facts.postgres}`,
    `medians of ${flags.rounds} rounds of ${flags.seconds} s after ${flags.warmup} s; ${flags.connections} connections; ` +
      `${facts.tenants} tenants, ${facts.tokens} tokens, ${facts.products} products; ` +
      `${facts.poolMax} database connections per tenant, fsync ${flags.fsync ? 'on' : 'off'}` +
      (variables.length > 0 ? `; with ${variables.map((name) => `${name}=${flags.env[name] ?? ''}`).join(' ')}` : ''),
  ];
}

function rowsOf({
  name,
  rounds,
  median: { service, floor, ratio },
}: ScenarioReport & { kind: 'compared' }): string[][] {
  const each = rounds.map((round) => round.ratio.requests.toFixed(2)).join(' ');
  return [
    [name, 'service', ...cells(service), `${ratio.requests.toFixed(2)} (${each})`, ratio.cpu.toFixed(2)],
    ['', 'floor', ...cells(floor), '', ''],
  ];
}

function cells(measurement: Measurement): string[] {
  const { requestsPerSecond, p50, p99, serverCpu, postgresCpu, memory, loadCpu } = measurement;
  return [
    Math.round(requestsPerSecond).toLocaleString('en'),
    p50.toFixed(2),
    p99.toFixed(2),
    serverCpu.toFixed(1),
    postgresCpu.toFixed(1),
    memory.toFixed(0),
    loadCpu === 0 ? '' : loadCpu.toFixed(2),
  ];
}

/** What a reader must know before believing the figures. */
function warningsOf(
  facts: Facts,
  flags: Flags,
  compared: readonly (ScenarioReport & { kind: 'compared' })[],
): string[] {
  const saturated = compared.filter(({ median: { service, floor } }) =>
    [service, floor].some(({ loadCpu }) => loadCpu > SATURATED),
  );
  return [
    ...(facts.loadBefore > BUSY
      ? [
          `The machine was busy before the start (load average ${facts.loadBefore.toFixed(2)}): do not keep these figures.`,
        ]
      : []),
    ...(flags.rounds < MIN_ROUNDS ? [`Fewer than ${MIN_ROUNDS} rounds: do not keep these figures.`] : []),
    ...saturated.map(({ name }) => `${name}: the load generator had no CPU left; compare CPU and not requests.`),
    '',
  ];
}

function medians<T extends { readonly [K in keyof T]: number }>(rows: readonly T[]): T {
  const keys = Object.keys(rows[0] ?? {}) as (keyof T)[];
  return Object.fromEntries(keys.map((key) => [key, median(rows.map((row) => row[key]))])) as T;
}

/** Text to the left for the first two columns, figures to the right for the others. */
function columns(rows: readonly (readonly string[])[]): string[] {
  const widths = HEADINGS.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
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
