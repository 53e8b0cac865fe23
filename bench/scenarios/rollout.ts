// A schema change over many tenant databases: a rollout against a plain loop with the same DDL and as many databases at once, a
// rollout with nothing to do, reads of tenants meanwhile, and the memory of the process.
import { sql } from 'kysely';
import { readSettings } from '../../src/config/index.js';
import { databasesAtOnce } from '../../src/clusters/reserve-share.js';
import { median, medians } from '../figures/statistics.js';
import { drive, startDrive } from '../measuring/drive.js';
import type { RolledOut } from '../programs/messages.js';
import type { ScenarioReport } from '../report.js';
import type { Fleet } from '../stage/fleet.js';
import type { Service } from '../stage/installation.js';
import type { SeededTenant } from '../stage/seed.js';
import { eachRound, mediansOf, ratioWithRounds, wholeNumber, type Bench, type Scenario } from './scenario.js';
import {
  halfOfCapacity,
  latenciesOf,
  latenessWarnings,
  neighbours,
  otherWarnings,
  runOpenLoad,
  type Latencies,
} from './trouble/neighbours.js';

/** Rows of the registry in a rollout with nothing to do. */
const ROWS = 10_000;

/** Tenants that are read during a rollout, spread over the fleet. */
const READ = 50;

/** Connections of the generator, as a balancer has them: what exceeds them waits there, and its wait counts. */
const CLIENTS = 200;

/** The part of the tenants that the first rollout has to do. */
const FEW = 0.1;

/** Seconds: a run that takes longer has failed. */
const LONGEST = 3_600;

/** At least this rate of the plain loop, and at most these ms, this p99 over that at rest, and this memory over that for few tenants. */
const PROMISED = { ratio: 0.8, nothing: 1_000, p99: 1.5, memory: 1.5 };

interface LoopRound {
  /** Tenants a second. */
  readonly loop: number;
  readonly rollout: number;
  readonly ratio: number;
  /** Of the rollout's process, MiB. */
  readonly peakMemory: number;
}

interface ReadRound {
  readonly rest: Latencies;
  readonly during: Latencies;
  readonly ratio: number;
  /** Requests during the rollout that got no success. */
  readonly failed: number;
  readonly firstOther: string | undefined;
  /** The part of the measured time in which the rollout ran. */
  readonly covered: number;
}

interface Figures {
  /** MiB, for few tenants and for all. */
  readonly memory: { readonly few: number; readonly all: number };
  readonly loops: readonly LoopRound[];
  readonly reads: readonly ReadRound[];
  /** ms of each rollout with nothing to do. */
  readonly nothing: readonly number[];
}

export const rollout: Scenario<'rollout'> = {
  name: 'rollout',
  what: 'a column added to all tenant databases by a rollout, and by a plain loop',
  rounds: 3,

  async run(bench) {
    const stage = await bench.stages.wholeFleet();
    const tenants = await stage.tenants(bench.flags.tenants);
    const steps = stepsOf(stage, tenants);
    const few = await steps.onlyFew(Math.ceil(tenants.length * FEW));
    const loops = await eachRound<LoopRound>(bench, this.name, async (_round, tell) => {
      // In this order a slow drift of the machine's speed does not favour one side.
      tell('plain loop');
      const loop = [await steps.loop()];
      tell('rollout');
      const rolled = [await steps.rollout(), await steps.rollout()];
      tell('plain loop');
      loop.push(await steps.loop());
      const [byLoop, byRollout] = [rateOf(loop), rateOf(rolled)];
      const peakMemory = Math.max(...rolled.map((each) => each.peakMemory));
      return { loop: byLoop, rollout: byRollout, ratio: byRollout / byLoop, peakMemory };
    });
    const reads = await stage.withService({}, (service) => readMeanwhile(bench, stage, service, tenants, steps));
    await addRows(stage, ROWS - tenants.length, steps.latest());
    const nothing = await eachRound<number>(bench, this.name, async (_round, tell) => {
      tell(`nothing to do for ${wholeNumber(ROWS)} rows`);
      return (await steps.again()).ms;
    });
    const all = median(loops.map(({ peakMemory }) => peakMemory));
    return reportOf(bench, steps.atOnce, { memory: { few: few.peakMemory, all }, loops, reads, nothing });
  },
};

/** Each step is a migration that adds a column of its own; a newer build knows all steps up to its own. */
interface Steps {
  /** Databases at once, on both sides. */
  readonly atOnce: number;
  latest(): string;
  /** The first step: a loop does all tenants but a few, and a rollout does those. */
  onlyFew(few: number): Promise<RolledOut>;
  loop(): Promise<RolledOut>;
  rollout(edges?: { readonly onBegin: () => void; readonly onEnd: () => void }): Promise<RolledOut>;
  /** A rollout of the latest step, which all tenants have. */
  again(): Promise<RolledOut>;
}

function stepsOf(stage: Fleet, tenants: readonly SeededTenant[]): Steps {
  const { cluster, cleanup, environment: env } = stage;
  const { clusterBudget, provisionerPool } = readSettings(env).tenants;
  const atOnce = databasesAtOnce(clusterBudget.reserve, provisionerPool.max);
  const { host, port, user, password } = cluster.provisioner;
  const steps: string[] = [];
  const add = (): string => {
    const step = `${9_001 + steps.length}_bench`;
    steps.push(step);
    return step;
  };
  const loopOver = (some: readonly SeededTenant[]): Promise<RolledOut> => {
    const databases = some.map(({ database }) => database);
    const job = { server: { host, port, user, password }, databases, atOnce, step: add(), longest: LONGEST };
    return drive('plain-loop', job, { cleanup });
  };
  const expecting = (count: number, rolled: RolledOut): RolledOut => {
    if (rolled.tenants !== count) throw new Error(`the rollout changed ${rolled.tenants} of ${count} tenants`);
    return rolled;
  };
  const rollOut = (edges: { onBegin?: () => void; onEnd?: () => void } = {}): Promise<RolledOut> =>
    drive('newer-build', { env, steps: [...steps], longest: LONGEST }, { cleanup, ...edges });

  return {
    atOnce,
    latest: () => steps.at(-1) ?? '',
    async onlyFew(few) {
      const [left, others] = [tenants.slice(0, few), tenants.slice(few)];
      await loopOver(others);
      const ids = others.map(({ id }) => id);
      await cluster.asSuperuser(
        (db) => sql`update tenants set schema_version = ${steps.at(-1)} where id = any(${ids})`.execute(db),
        cluster.registry.database,
      );
      return expecting(left.length, await rollOut());
    },
    loop: () => loopOver(tenants),
    async rollout(edges) {
      add();
      return expecting(tenants.length, await rollOut(edges));
    },
    again: async () => expecting(0, await rollOut()),
  };
}

/** Tenants a second. */
function rateOf(runs: readonly RolledOut[]): number {
  const ms = runs.reduce((sum, run) => sum + run.ms, 0);
  return (runs.reduce((sum, run) => sum + run.tenants, 0) * 1_000) / ms;
}

async function readMeanwhile(
  bench: Bench,
  stage: Fleet,
  service: Service,
  tenants: readonly SeededTenant[],
  steps: Steps,
): Promise<readonly ReadRound[]> {
  const every = Math.max(1, Math.floor(tenants.length / READ));
  const asked = tenants.filter((_, index) => index % every === 0).slice(0, READ);
  const rate = await halfOfCapacity(stage, service, asked);
  return eachRound<ReadRound>(bench, 'rollout', async (round, tell) => {
    const job = { ...neighbours(stage, service, asked, rate, round), successOnly: false, connections: CLIENTS };
    tell('reads at rest');
    const rest = latenciesOf(await runOpenLoad(stage, job));
    tell('reads during a rollout');
    let [begunAt, endedAt] = [NaN, NaN];
    const load = await startDrive('open-load', job, {
      cleanup: stage.cleanup,
      onBegin: () => {
        begunAt = performance.now();
      },
      onEnd: () => {
        endedAt = performance.now();
      },
    });
    // Its process starts during the warm-up of the load.
    let [rollsAt, rolledAt] = [Infinity, Infinity];
    const rolling = steps.rollout({
      onBegin: () => {
        rollsAt = performance.now();
      },
      onEnd: () => {
        rolledAt = performance.now();
      },
    });
    rolling.catch(() => undefined);
    const result = await load.result;
    await rolling;
    const covered = Math.min(rolledAt, endedAt) - Math.max(rollsAt, begunAt);
    return {
      rest,
      during: latenciesOf(result),
      ratio: result.p99 / rest.p99,
      failed: result.refused + result.other,
      firstOther: result.firstOther ?? (result.refused > 0 ? 'a refusal with status 503' : undefined),
      covered: Math.max(0, covered) / (endedAt - begunAt),
    };
  });
}

/** Rows without databases, at the newest schema: a rollout must not connect to any of them. */
async function addRows({ cluster }: Fleet, count: number, version: string): Promise<void> {
  await cluster.asSuperuser(async (db) => {
    await sql`
      insert into tenants (id, name, slug, status, cluster_id, db_host, db_port, db_name, db_user, db_password, schema_version,
        claim, generation)
      select md5('tenant ' || n)::uuid, 'Row ' || n, 'row-' || n, 'active', like_it.cluster_id, like_it.db_host, like_it.db_port,
        'tn_' || md5('database ' || n), 'tn_' || md5('database ' || n), like_it.db_password, ${version}, md5('claim ' || n)::uuid, 1
      from generate_series(1, ${Math.max(0, count)}::int) as n,
        (select cluster_id, db_host, db_port, db_password from tenants limit 1) as like_it`.execute(db);
    await sql`vacuum analyze tenants`.execute(db);
  }, cluster.registry.database);
}

function reportOf(bench: Bench, atOnce: number, { memory, loops, reads, nothing }: Figures): ScenarioReport {
  const { tenants, warmup, seconds } = bench.flags;
  const loop = medians(loops);
  const rest = medians(reads.map((round) => round.rest));
  const during = medians(reads.map((round) => round.during));
  const p99 = median(reads.map(({ ratio }) => ratio));
  const failed = reads.reduce((sum, round) => sum + round.failed, 0);
  const covered = Math.min(...reads.map((round) => round.covered));
  const [nothingMs, grown] = [median(nothing), memory.all / memory.few];
  const ratios = (rounds: readonly { readonly ratio: number }[]): readonly number[] => rounds.map(({ ratio }) => ratio);
  const few = Math.ceil(tenants * FEW);
  return {
    name: 'rollout',
    what: rollout.what,
    rounds: loops.map((round, index) => ({ ...round, reads: reads[index], nothing: nothing[index] })),
    median: { ...loop, memory, rest, during, p99, failed, nothing: nothingMs },
    table: {
      caption: `${mediansOf(bench)}; ${wholeNumber(tenants)} tenants, ${atOnce} databases at once; reads for ${seconds} s after ${warmup} s`,
      headings: ['scenario', 'measured', 'figure', 'over the row above (rounds)'],
      rows: [
        ['rollout', 'plain loop, tenants/s', loop.loop.toFixed(1), ''],
        ['', 'rollout, tenants/s', loop.rollout.toFixed(1), ratioWithRounds(loop.ratio, ratios(loops))],
        ['', 'p99 of reads at rest, ms', rest.p99.toFixed(2), ''],
        ['', 'p99 of reads during a rollout, ms', during.p99.toFixed(2), ratioWithRounds(p99, ratios(reads))],
        ['', 'reads during a rollout that failed', wholeNumber(failed), ''],
        ['', `nothing to do for ${wholeNumber(ROWS)} rows, ms`, wholeNumber(nothingMs), ''],
        ['', `most memory for ${wholeNumber(few)} tenants, MiB`, memory.few.toFixed(0), ''],
        ['', `most memory for ${wholeNumber(tenants)} tenants, MiB`, memory.all.toFixed(0), grown.toFixed(2)],
      ],
    },
    warnings: [
      ...latenessWarnings('rollout', rest),
      ...otherWarnings('rollout', reads),
      ...(covered < 1
        ? [`rollout: in one round it ran for ${(covered * 100).toFixed(0)} % of the time in which reads were measured.`]
        : []),
    ],
    failures: [
      ...(loop.ratio < PROMISED.ratio ? [`rollout: it has ${loop.ratio.toFixed(2)} of the plain loop's rate.`] : []),
      ...(nothingMs > PROMISED.nothing ? [`rollout: with nothing to do it took ${wholeNumber(nothingMs)} ms.`] : []),
      ...(p99 > PROMISED.p99 ? [`rollout: the p99 of reads is ${p99.toFixed(2)} of that at rest.`] : []),
      ...(failed > 0 ? [`rollout: ${wholeNumber(failed)} reads failed.`] : []),
      ...(grown > PROMISED.memory ? [`rollout: the memory grows with the tenants, ${grown.toFixed(2)} times.`] : []),
    ],
  };
}
