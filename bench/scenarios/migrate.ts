// A tenant is read while its ALTER TABLE waits behind a dump: how long the readers wait, with the migrator and with plain attempts.
import { sql, type Kysely } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { createDatabase } from '../../db/driver/client.js';
import { hasSqlState } from '../../db/driver/database-fault.js';
import { migrateToLatest } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { median, medians } from '../figures/statistics.js';
import type { OpenLoadJob } from '../programs/messages.js';
import type { Fleet } from '../stage/fleet.js';
import type { SeededTenant } from '../stage/seed.js';
import {
  latenciesOf,
  latenessWarnings,
  type Latencies,
  reads,
  runOpenLoad,
  startOpenLoad,
} from './trouble/neighbours.js';
import { eachRound, ratioWithRounds, timedMediansOf, type Scenario } from './scenario.js';

/** Reads of the tenant a second. */
const RATE = 100;

/** Different requests, sent repeatedly. */
const REQUESTS = 1_000;

const ALTER = sql`alter table products add column benchmark text`;

/** `lock_timeout` (ms) of a plain attempt, and the first pause, which doubles. */
const PLAIN_TIMEOUT = 1_500;
const PLAIN_PAUSE = 250;

/** SQLSTATE: `lock_timeout` has passed. */
const LOCK_NOT_AVAILABLE = '55P03';

/** Tries to migrate for `patience` ms. The dump lasts longer. */
type Attempts = (db: Kysely<unknown>, patience: number) => Promise<void>;

const plainly: Attempts = async (db, patience) => {
  const until = performance.now() + patience;
  for (let pause = PLAIN_PAUSE; performance.now() < until; pause *= 2) {
    await db
      .transaction()
      .execute(async (trx) => {
        await sql`select set_config('lock_timeout', ${`${PLAIN_TIMEOUT}ms`}, true)`.execute(trx);
        await ALTER.execute(trx);
      })
      .catch(expectKept);
    await sleep(Math.min(pause, until - performance.now()));
  }
};

const gently: Attempts = async (db, patience) => {
  const up = async (trx: Kysely<unknown>): Promise<void> => {
    await ALTER.execute(trx);
  };
  await migrateToLatest(db, { ...tenantMigrations, '9999_benchmark': { up } }, { patience }).then(
    () => Promise.reject(new Error('the migration did not wait for the dump')),
    expectKept,
  );
};

function expectKept(error: unknown): void {
  if (!hasSqlState(error, LOCK_NOT_AVAILABLE)) throw error;
}

interface MigrateRound {
  readonly quiet: Latencies;
  readonly plain: Latencies;
  readonly gentle: Latencies;
  /** p99 over p99 without a migration. */
  readonly plainRatio: number;
  readonly gentleRatio: number;
}

export const migrate: Scenario<'migrate'> = {
  name: 'migrate',
  what: 'reads of a tenant whose ALTER TABLE waits behind a dump',
  rounds: 3,

  async run(bench) {
    const stage = await bench.stages.fleet();
    const [tenant] = await stage.tenants(1);
    if (!tenant) throw new Error('there is no tenant to migrate');
    return stage.withService({}, async ({ url }) => {
      const { warmup, seconds } = stage.flags;
      const rounds = await eachRound<MigrateRound>(bench, this.name, async (round, tell) => {
        const requests = reads(REQUESTS, round, () => tenant);
        const job = { url, rate: RATE, warmup, seconds, requests, successOnly: true };
        tell('without a migration');
        const quiet = latenciesOf(await runOpenLoad(stage, job));
        tell('plain attempts behind a dump');
        const plain = await behindDump(stage, tenant, job, plainly);
        tell('the migrator behind a dump');
        const gentle = await behindDump(stage, tenant, job, gently);
        return { quiet, plain, gentle, plainRatio: plain.p99 / quiet.p99, gentleRatio: gentle.p99 / quiet.p99 };
      });
      const middle = {
        quiet: medians(rounds.map((round) => round.quiet)),
        plain: medians(rounds.map((round) => round.plain)),
        gentle: medians(rounds.map((round) => round.gentle)),
        plainRatio: median(rounds.map((round) => round.plainRatio)),
        gentleRatio: median(rounds.map((round) => round.gentleRatio)),
      };
      const row = (what: string, { p50, p99 }: Latencies, ratio = ''): string[] => [
        this.name,
        what,
        p50.toFixed(2),
        p99.toFixed(2),
        ratio,
      ];
      const ratioOf = (key: 'plainRatio' | 'gentleRatio'): string =>
        ratioWithRounds(
          middle[key],
          rounds.map((round) => round[key]),
        );
      return {
        name: this.name,
        what: this.what,
        rounds,
        median: middle,
        table: {
          caption: `${timedMediansOf(bench)}; ${RATE} reads a second`,
          headings: ['scenario', 'behind the dump', 'p50 ms', 'p99 ms', 'p99 over none (rounds)'],
          rows: [
            row('no migration', middle.quiet),
            row(`attempts of ${PLAIN_TIMEOUT} ms`, middle.plain, ratioOf('plainRatio')),
            row('the migrator', middle.gentle, ratioOf('gentleRatio')),
          ],
        },
        warnings: latenessWarnings(this.name, middle.quiet),
        failures: [],
      };
    });
  },
};

/** Reads a tenant while a dump keeps its table and a migration waits for the dump. */
async function behindDump(
  stage: Fleet,
  { database }: SeededTenant,
  job: OpenLoadJob,
  attempts: Attempts,
): Promise<Latencies> {
  const limits = { max: 1, acquireTimeout: 10_000, timeout: 60_000, idleTimeoutMillis: 60_000 };
  const options = { applicationName: 'benchmark', preparedStatements: false };
  const migrator = createDatabase<unknown>({ ...stage.cluster.provisioner, database }, limits, options);
  try {
    return await stage.cluster.asSuperuser(
      (db) =>
        db.transaction().execute(async (dump) => {
          await sql`lock table products in access share mode`.execute(dump);
          const load = await startOpenLoad(stage, job);
          try {
            await load.begun;
            const [result] = await Promise.all([load.result, attempts(migrator.db, job.seconds * 1_000)]);
            return latenciesOf(result);
          } finally {
            await load.stop();
          }
        }),
      database,
    );
  } finally {
    await migrator.close(0);
  }
}
