// The reconciler: finishes or undoes what a crash left, both ways. Rows in the middle of something that nobody works on, and
// databases and roles that no row tells of. It never drops what does not carry this installation's mark, nor what may have
// been a tenant's.
import type { Kysely } from 'kysely';
import { LRUCache } from 'lru-cache';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Registry } from '../../db/central/schema.js';
import { knownDatabaseNames, listStandby, listStandbyClusters, type StandbyCluster } from '../../db/central/standby.js';
import { findTenant, listUnfinishedTenants } from '../../db/central/tenants.js';
import { dropDatabase, dropRole, endStatementsOn, listMarked, type ClusterDb, type Marked } from '../../db/cluster.js';
import type { TenantLocks } from './locks.js';
import type { Provisioners } from './provisioners.js';
import type { Removal } from './removal.js';
import type { StandbyDatabases } from './standby.js';

export interface Reconciler {
  /** One round. What fails is told to `onError` and does not hold up the rest: the next round takes it up again. */
  reconcile(signal: AbortSignal): Promise<void>;
  /**
   * Takes back a tenant whose making died with its process, or finishes its removal.
   *
   * @returns false where somebody is at work on it
   */
  settle(tenantId: string): Promise<boolean>;
}

/**
 * What a process sent before it died may begin to run a moment (ms) after its locks are free; behind this wait it is running,
 * and is seen and ended.
 */
const SETTLED_AFTER = 250;

/** Orphans that are remembered as told of; one that is forgotten is told of again. */
const MAX_TOLD = 10_000;

export function createReconciler(deps: {
  readonly registry: Kysely<Registry>;
  readonly provisioners: Provisioners;
  readonly locks: TenantLocks;
  readonly removal: Removal;
  readonly standby: StandbyDatabases;
  readonly installation: () => Promise<string>;
  readonly onError: (
    error: unknown,
    context: { clusterId?: string; tenantId?: string; name?: string; step: string },
  ) => void;
}): Reconciler {
  const { registry, provisioners, locks, removal, standby } = deps;
  /** Orphans that were told of: once is enough for a log. */
  const told = new LRUCache<string, true>({ max: MAX_TOLD });

  async function reconcile(signal: AbortSignal): Promise<void> {
    await settleTenants(signal);
    const clusters = await listStandbyClusters(registry);
    await dropHalfMade(clusters, signal);
    for (const cluster of clusters) {
      if (signal.aborted) return;
      try {
        await dropOrphans(cluster, signal);
      } catch (error) {
        deps.onError(error, { clusterId: cluster.id, step: 'orphans' });
      }
    }
  }

  async function settleTenants(signal: AbortSignal): Promise<void> {
    for (const { id } of await abandoned(await listUnfinishedTenants(registry))) {
      if (signal.aborted) return;
      try {
        await locks.attempt(id, () => removal.finish(id));
      } catch (error) {
        deps.onError(error, { tenantId: id, step: 'settle' });
      }
    }
  }

  async function dropHalfMade(clusters: readonly StandbyCluster[], signal: AbortSignal): Promise<void> {
    for (const left of await abandoned(await listStandby(registry, { ready: false }))) {
      const place = clusters.find(({ id }) => id === left.clusterId);
      if (signal.aborted) return;
      if (!place) continue;
      try {
        const { cluster } = await provisioners.at(place);
        await locks.attempt(left.id, async () => {
          // It may have become ready, and a tenant's, since it was listed.
          const all = await listStandby(registry, { clusterId: place.id, ready: false });
          if (all.some(({ id }) => id === left.id)) await standby.drop(left, cluster);
        });
      } catch (error) {
        deps.onError(error, { tenantId: left.id, step: 'drop standby' });
      }
    }
  }

  /** Those that nobody is at work on, when what a dead process sent has had the time to begin. */
  async function abandoned<Row extends { readonly id: string }>(rows: readonly Row[]): Promise<Row[]> {
    const free: Row[] = [];
    for (const row of rows) if (await locks.attempt(row.id, async () => undefined)) free.push(row);
    if (free.length > 0) await sleep(SETTLED_AFTER);
    return free;
  }

  async function dropOrphans(place: StandbyCluster, signal: AbortSignal): Promise<void> {
    const { cluster } = await provisioners.at(place);
    // In this order: a row is written before what it tells of is made, and removed behind it.
    const marked = await listMarked(cluster, await deps.installation());
    const known = await knownDatabaseNames(
      registry,
      marked.map(({ name }) => name),
    );
    for (const orphan of marked.filter(({ name }) => !known.has(name))) {
      if (signal.aborted) return;
      if (orphan.held) tell(orphan, place);
      else await locks.attempt(orphan.id, () => dropOrphan(orphan, cluster));
    }
  }

  /** Under its lock. */
  async function dropOrphan({ kind, name }: Marked, cluster: ClusterDb): Promise<void> {
    if ((await knownDatabaseNames(registry, [name])).has(name)) return;
    await endStatementsOn(cluster, name);
    if (kind === 'database') await dropDatabase(cluster, name);
    else await dropRole(cluster, name);
  }

  /** A registry that was restored from a backup knows nothing of the tenants since: theirs is the last copy of their data. */
  function tell({ kind, name, id }: Marked, { id: clusterId }: StandbyCluster): void {
    const key = `${clusterId} ${kind} ${name}`;
    if (told.has(key)) return;
    told.set(key, true);
    deps.onError(new Error(`a ${kind} that may be a tenant’s has no row in the registry: it is left alone`), {
      clusterId,
      tenantId: id,
      name,
      step: 'orphans',
    });
  }

  return {
    reconcile,

    async settle(tenantId) {
      if (!(await locks.attempt(tenantId, () => sleep(SETTLED_AFTER)))) return false;
      return locks.attempt(tenantId, async () => {
        if (await findTenant(registry, tenantId)) await removal.finish(tenantId);
      });
    },
  };
}
