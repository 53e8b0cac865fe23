// The rollout of `npm run migrate`, and of the start of an embedded PostgreSQL: joins the rollout that is under way, or begins one if
// a tenant is behind, and works on it until it ends or waits for something else.
import type { Kysely } from 'kysely';
import type { LockSession } from '../../db/registry/lock-session.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { listFailedTenants } from '../../db/registry/rollouts/rollout-item-rows.js';
import {
  countBehind,
  countItems,
  findRollout,
  findRolloutUnderWay,
  type ItemCount,
  type RolloutRecord,
} from '../../db/registry/rollouts/rollout-rows.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { SERVICE } from '../audit/operator-act.js';
import { placeOf } from '../clusters/server-looks.js';
import { AppError } from '../errors.js';
import { PlainError } from '../jobs/plain-words.js';
import type { TenantLocks } from '../tenants/tenant-locks.js';
import type { FleetServers } from './fleet-servers.js';
import type { Attempted } from './item-attempt.js';
import type { FailedTenant } from './mark-databases.js';
import { dropOlderTemplates, settleOlderMaking } from './older-stock.js';
import { createRolloutActs } from './rollout-acts.js';
import type { RolloutWish } from './rollout-plan.js';
import { createRolloutWorker } from './rollout-worker.js';
import type { CompareTenants } from './wave-check.js';

export interface RolloutRun {
  /** The plan of a rollout that this run begins. Its budget also replaces that of one which it resumes. */
  readonly wish?: RolloutWish;
  /** Goes on with a rollout that is paused or stopped, with its failed tenants too. Aborts one of an older build. */
  readonly resume?: boolean;
  /** Aborts a rollout of an older build, and goes on with no other. */
  readonly replace?: boolean;
  /** If false, no tenant is migrated. */
  readonly tenants?: boolean;
}

export interface RolledTenants {
  /** The rollout that this run began or joined, as it is now. Undefined if no tenant was behind, another rollout is in the way, or no tenants were to be migrated. */
  readonly rollout?: Pick<RolloutRecord, 'id' | 'state' | 'reason' | 'differences' | 'firstDifference'> | undefined;
  /** Why no tenant was migrated, as a sentence without its full stop. */
  readonly blocked?: string | undefined;
  /** Tenants that were migrated meanwhile, also those of other workers of the rollout. */
  readonly tenantsMigrated: number;
  /** Those that had the newest schema already. */
  readonly tenantsCurrent: number;
  /** Tenants of failed clusters that are behind. */
  readonly tenantsOfFailedClusters: number;
  /** Tenants of an older schema that an older build is still making. */
  readonly tenantsUnfinished: number;
  readonly failed: readonly FailedTenant[];
}

/** Called after each attempt. `done` of `all` tenants that are behind are migrated, or have failed for good. */
export type TenantProgress = (
  tenant: { readonly id: string; readonly slug: string },
  outcome: { readonly done: number; readonly all: number; readonly error?: unknown; readonly again?: boolean },
) => void;

export interface RollingDeps {
  readonly registry: Kysely<Registry>;
  readonly locks: TenantLocks;
  readonly lockSession: LockSession;
  readonly worker: string;
  readonly servers: FleetServers;
  readonly installation: string;
  readonly checkWave?: CompareTenants | undefined;
}

const target = latestVersion(tenantMigrations);

/** Failed tenants in one query. */
const PAGE = 500;

/** Time (ms) between two counts of all items, for the progress. */
const COUNT_EVERY = 1_000;

/** Errors that are kept whole. Of later ones the registry has the text. */
const KEPT_ERRORS = 1_000;

/** Call this after `prepareFleet`. */
export async function rollTenants(
  deps: RollingDeps,
  run: RolloutRun,
  progress: TenantProgress,
): Promise<RolledTenants> {
  const { registry } = deps;
  const unfinished = run.tenants === false ? 0 : await settleOlderMaking(registry);
  const { current: tenantsCurrent } = await countBehind(registry, target);
  const none = { tenantsMigrated: 0, tenantsOfFailedClusters: 0, failed: [] };
  if (run.tenants === false) return { ...none, tenantsCurrent, tenantsUnfinished: 0 };
  const begun = await begin(registry, run);
  if (typeof begun !== 'object') return { ...none, tenantsCurrent, tenantsUnfinished: unfinished, blocked: begun };
  const { tenantsUnfinished = unfinished, ...rolled } = await workOn(deps, begun, progress);
  return { ...rolled, tenantsCurrent, tenantsUnfinished };
}

/** @returns undefined if no tenant is behind; a sentence if a rollout is in the way */
async function begin(
  registry: Kysely<Registry>,
  { wish = {}, resume = false, replace = resume }: RolloutRun,
): Promise<RolloutRecord | string | undefined> {
  const acts = createRolloutActs({ registry, target });
  const underWay = await findRolloutUnderWay(registry);
  if (underWay && underWay.target !== target) {
    if (!replace || underWay.target > target)
      return `the rollout ${underWay.id} to ${underWay.target} is ${underWay.state}: end it first${underWay.target < target ? ', or run this with --resume' : ''}`;
    await acts.abort(underWay.id, SERVICE);
  } else if (underWay) {
    if (underWay.state === 'running') return underWay;
    const why = underWay.reason === null ? '' : `, because ${underWay.reason}`;
    if (!resume) return `the rollout ${underWay.id} is ${underWay.state}${why}: run this with --resume to go on`;
    const { budget, pace } = wish;
    const resumed = await acts.resume(underWay.id, SERVICE, { budget, pace });
    return (await ifPossible(acts.retry(underWay.id, SERVICE))) ?? resumed;
  }
  // Another worker may begin one at the same moment, which then is the one to join.
  return (await ifPossible(acts.start(wish, SERVICE, true))) ?? findRolloutUnderWay(registry);
}

/** @returns undefined if nothing is behind, or another worker was faster, or no tenant has failed */
async function ifPossible(act: Promise<RolloutRecord>): Promise<RolloutRecord | undefined> {
  try {
    return await act;
  } catch (error) {
    if (error instanceof AppError && ['nothing-behind', 'rollout-under-way', 'rollout-state'].includes(error.code))
      return undefined;
    throw error;
  }
}

async function workOn(
  deps: RollingDeps,
  { id }: RolloutRecord,
  progress: TenantProgress,
): Promise<Omit<RolledTenants, 'tenantsCurrent' | 'tenantsUnfinished'> & { tenantsUnfinished?: number }> {
  const { registry, servers, installation } = deps;
  const causes = new Map<string, unknown>();
  const before = countsOf(await countItems(registry, id));
  /** `here`: items that have ended in this process. `counted`: on all workers, when they were last counted. */
  const told = { here: 0, counted: 0, all: before.open, countedAt: performance.now() };
  let unfinished: number | undefined;

  function hear({ tenant, outcome, cause }: Attempted): void {
    if (outcome === 'failed' && tenant && causes.size < KEPT_ERRORS) causes.set(tenant.id, cause);
    if (outcome !== 'again') told.here += 1;
    const done = Math.max(told.here, told.counted);
    const all = Math.max(told.all, done);
    recount();
    if (!tenant || outcome === 'skipped') return;
    progress(tenant, outcome === 'done' ? { done, all } : { done, all, error: cause, again: outcome === 'again' });
  }

  /** Replicas may work on the rollout too, and tenants may be added. */
  function recount(): void {
    if (performance.now() - told.countedAt < COUNT_EVERY) return;
    told.countedAt = performance.now();
    void countItems(registry, id).then(
      (counts) => {
        const { ended, open } = countsOf(counts);
        told.counted = ended - before.ended;
        told.all = told.counted + open;
      },
      () => undefined,
    );
  }

  const worker = createRolloutWorker({
    ...deps,
    migrations: tenantMigrations,
    installation: () => Promise.resolve(installation),
    servers,
    givesUp: true,
    prepare: () => Promise.resolve(),
    finish: () => dropOlderTemplates(registry, servers, installation),
    onUnfinished: (count) => (unfinished = count),
    onItem: hear,
    onAway: (place, error) => {
      servers.fail(place, error);
    },
  });
  for (;;) {
    const end = await worker.work({ id }, new AbortController().signal);
    // Its connection for locks was cut: it begins again under another name.
    if (end !== 'lost') break;
  }
  const counts = await countItems(registry, id);
  const rollout = await findRollout(registry, id);
  return {
    rollout: rollout && {
      id,
      state: rollout.state,
      reason: rollout.reason,
      differences: rollout.differences,
      firstDifference: rollout.firstDifference,
    },
    tenantsMigrated: countsOf(counts).done - before.done,
    tenantsOfFailedClusters: countsOf(counts.filter(({ place }) => isAway(servers, place))).open,
    failed: await failedTenants(registry, id, causes),
    ...(unfinished !== undefined && { tenantsUnfinished: unfinished }),
  };
}

function isAway(servers: FleetServers, name: string): boolean {
  const { host, port } = placeOf(name);
  return servers.of({ dbHost: host, dbPort: port }) === undefined;
}

function countsOf(counts: readonly ItemCount[]): {
  readonly done: number;
  readonly ended: number;
  readonly open: number;
} {
  const sum = (...states: string[]): number =>
    counts.filter(({ state }) => states.includes(state)).reduce((all, { count }) => all + count, 0);
  return { done: sum('done'), ended: sum('done', 'failed', 'skipped'), open: sum('pending', 'running') };
}

/** Without those that another run has migrated, or that were purged. */
async function failedTenants(
  registry: Kysely<Registry>,
  rolloutId: string,
  causes: ReadonlyMap<string, unknown>,
): Promise<FailedTenant[]> {
  const failed: FailedTenant[] = [];
  for (let after: string | undefined; ; after = failed.at(-1)?.tenant.id) {
    const page = await listFailedTenants(registry, { rolloutId, target, after, limit: PAGE });
    for (const { id, slug, error } of page)
      failed.push({
        tenant: { id, slug },
        error: causes.get(id) ?? new PlainError((error ?? 'it has failed').replace(/\.$/, '')),
      });
    if (page.length < PAGE) return failed;
  }
}
