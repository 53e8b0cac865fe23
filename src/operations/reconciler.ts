// The reconciler: finishes or undoes what a crash left unfinished. It handles unfinished rows that no worker has locked, and
// databases and roles without a row. It drops a database only if its mark proves that it never held a tenant's data.
import type { Kysely } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Registry } from '../../db/registry/registry-schema.js';
import { listStandby, listStandbyClusters, type StandbyCluster } from '../../db/registry/standby-rows.js';
import { listUnfinishedTenants } from '../../db/registry/tenant-worklists.js';
import { findTenant } from '../../db/registry/tenant-queries.js';
import type { TenantLocks } from '../tenants/tenant-locks.js';
import type { Making } from './making.js';
import type { Provisioners } from '../clusters/provisioners.js';
import type { Removal } from './removal.js';
import { createOrphans } from './orphans.js';
import type { Reports } from './reports.js';
import type { StandbyDatabases } from './standby-databases.js';

export interface Reconciler {
  /** One round. A failure is passed to `onError` and does not stop the round: the next round tries again. */
  reconcile(signal: AbortSignal): Promise<void>;
  /**
   * Finishes or undoes a tenant whose process died while making it, or finishes its removal.
   *
   * @returns false if a worker holds the tenant's lock
   */
  settle(tenantId: string): Promise<boolean>;
}

/**
 * A statement that a process sent before it died may begin to run shortly (ms) after its locks are free. After this wait the
 * statement is running, so it is seen and ended.
 */
const SETTLED_AFTER = 250;

export function createReconciler(deps: {
  readonly registry: Kysely<Registry>;
  readonly provisioners: Provisioners;
  readonly locks: TenantLocks;
  readonly making: Making;
  readonly removal: Removal;
  readonly standby: StandbyDatabases;
  readonly installation: () => Promise<string>;
  readonly reports: Reports;
  readonly onError: (
    error: unknown,
    context: { clusterId?: string; tenantId?: string; name?: string; step: string },
  ) => void;
}): Reconciler {
  const { registry, provisioners, locks, making, removal, standby } = deps;
  const orphans = createOrphans(deps);

  async function reconcile(signal: AbortSignal): Promise<void> {
    await settleTenants(signal);
    const clusters = await listStandbyClusters(registry);
    await dropHalfMade(clusters, signal);
    for (const cluster of clusters) {
      if (signal.aborted) return;
      try {
        await orphans.drop(cluster, signal);
      } catch (error) {
        deps.onError(error, { clusterId: cluster.id, step: 'orphans' });
      }
    }
  }

  async function settleTenants(signal: AbortSignal): Promise<void> {
    for (const { id } of await abandoned(await listUnfinishedTenants(registry))) {
      if (signal.aborted) return;
      try {
        await locks.attempt(id, () => settleNow(id));
      } catch (error) {
        deps.onError(error, { tenantId: id, step: 'settle' });
      }
    }
  }

  /** Runs under the tenant's lock. */
  async function settleNow(id: string): Promise<void> {
    await making.settle(id);
    await removal.finish(id);
  }

  async function dropHalfMade(clusters: readonly StandbyCluster[], signal: AbortSignal): Promise<void> {
    for (const left of await abandoned(await listStandby(registry, { ready: false }))) {
      const place = clusters.find(({ id }) => id === left.clusterId);
      if (signal.aborted) return;
      if (!place) continue;
      try {
        const provisioner = await provisioners.at(place);
        await locks.attempt(left.id, async () => {
          // The standby database may have become ready, or a tenant's, since it was listed.
          const all = await listStandby(registry, { clusterId: place.id, ready: false });
          if (all.some(({ id }) => id === left.id)) await standby.drop(left, place, provisioner);
        });
      } catch (error) {
        deps.onError(error, { tenantId: left.id, step: 'drop standby' });
      }
    }
  }

  /** The rows that no worker has locked, after the wait for statements of a dead process. */
  async function abandoned<Row extends { readonly id: string }>(rows: readonly Row[]): Promise<Row[]> {
    const free: Row[] = [];
    for (const row of rows) if (await locks.attempt(row.id, async () => undefined)) free.push(row);
    if (free.length > 0) await sleep(SETTLED_AFTER);
    return free;
  }

  return {
    reconcile,

    async settle(tenantId) {
      if (!(await locks.attempt(tenantId, () => sleep(SETTLED_AFTER)))) return false;
      return locks.attempt(tenantId, async () => {
        if (await findTenant(registry, tenantId)) await settleNow(tenantId);
      });
    },
  };
}
