// What a process that serves without a request costs: itself, and its registry's server.
import { sql, type Kysely } from 'kysely';
import { open } from 'node:fs/promises';
import { monitorEventLoopDelay, type IntervalHistogram } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';

/** What PostgreSQL needs to count statements by text, and by the name of the connection. */
export const STATEMENT_SETTINGS = {
  shared_preload_libraries: 'pg_stat_statements',
  log_statement: 'all',
  log_parameter_max_length: '0',
  log_line_prefix: '%a\t',
};

export interface IdleCosts {
  readonly cpuMs: number;
  /** ms. */
  readonly delayMax: number;
  readonly delayP99: number;
  readonly transactionIds: number;
  readonly tenants: TableReads;
  readonly statementMs: number;
  /** Statements by the name of their connection, the most first. */
  readonly byApplication: readonly (readonly [name: string, statements: number])[];
  /** The statements that took the most time. */
  readonly top: readonly StatementCost[];
}

interface TableReads {
  readonly seqScans: number;
  readonly seqRows: number;
  readonly indexRows: number;
}

interface StatementCost {
  readonly text: string;
  readonly calls: number;
  readonly rows: number;
  readonly ms: number;
}

const TOP = 15;
const SHOWN_TEXT = 110;

/** The longest time (ms) after which a session that rests has passed on what it counted. */
const PASSED_ON = 1_500;

/** Measures from `begin` to `end`. The process that measures is the one that is measured. */
export class IdleMeter {
  private constructor(
    private readonly registry: Kysely<unknown>,
    private readonly logFile: string | undefined,
    private readonly before: {
      readonly logged: number;
      readonly transactionIds: number;
      readonly tenants: TableReads;
      readonly cpu: NodeJS.CpuUsage;
    },
    private readonly delays: IntervalHistogram,
  ) {}

  /** @param registry a superuser's connection to the registry's database */
  static async begin(registry: Kysely<unknown>, logFile: string | undefined): Promise<IdleMeter> {
    await sql`create extension if not exists pg_stat_statements`.execute(registry);
    const before = {
      logged: logFile === undefined ? 0 : await sizeOf(logFile),
      transactionIds: await transactionIds(registry),
      tenants: await reads(registry),
    };
    await sql`select pg_stat_statements_reset()`.execute(registry);
    const delays = monitorEventLoopDelay({ resolution: 5 });
    delays.enable();
    return new IdleMeter(registry, logFile, { ...before, cpu: process.cpuUsage() }, delays);
  }

  async end(): Promise<IdleCosts> {
    const { registry, before, delays } = this;
    const { user, system } = process.cpuUsage(before.cpu);
    delays.disable();
    const after = await transactionIds(registry);
    const { rows } = await sql<StatementCost>`
      select regexp_replace(query, '\\s+', ' ', 'g') as text, calls::float8 as calls, rows::float8 as rows, total_exec_time as ms
      from pg_stat_statements where query not like '%pg_stat_statements%' order by total_exec_time desc`.execute(
      registry,
    );
    const byApplication = this.logFile === undefined ? [] : await countByName(this.logFile, before.logged);
    await sleep(PASSED_ON);
    const tenants = await reads(registry);
    return {
      cpuMs: (user + system) / 1_000,
      delayMax: delays.max / 1e6,
      delayP99: delays.percentile(99) / 1e6,
      transactionIds: after - before.transactionIds,
      tenants: {
        seqScans: tenants.seqScans - before.tenants.seqScans,
        seqRows: tenants.seqRows - before.tenants.seqRows,
        indexRows: tenants.indexRows - before.tenants.indexRows,
      },
      statementMs: rows.reduce((sum, { ms }) => sum + ms, 0),
      byApplication,
      top: rows.slice(0, TOP).map((row) => ({ ...row, text: row.text.slice(0, SHOWN_TEXT).replaceAll('|', '\\|') })),
    };
  }
}

async function transactionIds(registry: Kysely<unknown>): Promise<number> {
  const { rows } = await sql<{ next: string }>`select pg_snapshot_xmax(pg_current_snapshot())::text as next`.execute(
    registry,
  );
  return Number(rows[0]?.next);
}

async function reads(registry: Kysely<unknown>): Promise<TableReads> {
  const { rows } = await sql<TableReads>`
    select coalesce(seq_scan, 0)::float8 as "seqScans", coalesce(seq_tup_read, 0)::float8 as "seqRows",
      coalesce(idx_tup_fetch, 0)::float8 as "indexRows"
    from pg_stat_user_tables where relname = 'tenants'`.execute(registry);
  return rows[0] ?? { seqScans: 0, seqRows: 0, indexRows: 0 };
}

async function sizeOf(file: string): Promise<number> {
  const handle = await open(file);
  try {
    return (await handle.stat()).size;
  } finally {
    await handle.close();
  }
}

async function countByName(file: string, from: number): Promise<[string, number][]> {
  const handle = await open(file);
  const counts = new Map<string, number>();
  try {
    for await (const line of handle.readLines({ start: from })) {
      const [, name] = /^([^\t]*)\tLOG: {2}(?:statement|execute)\b/.exec(line) ?? [];
      // The id of the replica differs from run to run.
      const pool = name?.replace(/ [\w-]{8,}$/, '');
      if (pool !== undefined && pool !== 'tests') counts.set(pool, (counts.get(pool) ?? 0) + 1);
    }
  } finally {
    await handle.close();
  }
  return [...counts].sort(([, one], [, other]) => other - one);
}
