// The reconciler: finishes or undoes what a crash left unfinished. It handles unfinished rows that no worker has locked, and
// databases and roles without a row. It drops a database only if its mark proves that it never held a tenant's data.
import type { Kysely } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Registry } from '../../db/registry/registry-schema.js';
import { knownDatabaseNames } from '../../db/registry/named.js';
import { listStandby, listStandbyClusters, type StandbyCluster } from '../../db/registry/standby-rows.js';
import { listUnfinishedTenants } from '../../db/registry/tenant-worklists.js';
import { findTenant } from '../../db/registry/tenant-queries.js';
import { findMarks, listMarked, parseMark } from '../../db/server/marks.js';
import { demolish, dismiss } from './demolish.js';
import type { TenantLocks } from '../tenants/tenant-locks.js';
import type { Making } from './making.js';
import type { PlacedProvisioner, Provisioners } from '../clusters/provisioners.js';
import type { Removal } from './removal.js';
import { leftAsItIs, type Reports } from './reports.js';
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

  async function dropOrphans(place: StandbyCluster, signal: AbortSignal): Promise<void> {
    const provisioner = await provisioners.at(place);
    const installation = await deps.installation();
    // In this order, because a row is written before its database is made, and removed after its database is dropped.
    const marked = await listMarked(provisioner.cluster, installation);
    const known = await knownDatabaseNames(
      registry,
      marked.map(({ name }) => name),
    );
    const databases = new Set(marked.flatMap(({ kind, name }) => (kind === 'database' ? name : [])));
    for (const { kind, name, text } of marked) {
      if (signal.aborted) return;
      const mark = parseMark(text);
      if (!mark || known.has(name)) continue;
      const { id, state } = mark;
      // `demolish` drops a role together with its database.
      if (kind === 'role' && databases.has(name)) continue;
      const isEmpty = state === 'standby' || state === 'dropping' || (kind === 'role' && state === 'making');
      if (isEmpty)
        await locks.attempt(id, () => dropOrphan(provisioner, place, { kind, id, name, text }, installation));
      // A registry that was restored from a backup has no row of later tenants: these databases are the last copies of their
      // data.
      else {
        const why = `a ${kind} that may belong to a tenant has no row in the registry`;
        const context = { clusterId: place.id, tenantId: id, name };
        if (deps.reports.orphan(context, why))
          deps.onError(leftAsItIs(`${why}: it is left as it is`), { ...context, step: 'orphans' });
      }
    }
  }

  /** Runs under the lock of the orphan's id. */
  async function dropOrphan(
    provisioner: PlacedProvisioner,
    place: StandbyCluster,
    { kind, id, name, text }: { kind: 'database' | 'role'; id: string; name: string; text: string },
    installation: string,
  ): Promise<void> {
    if ((await knownDatabaseNames(registry, [name])).has(name)) return;
    if (kind === 'database')
      await demolish(registry, provisioner, { place, id, name, role: name, grounds: [text] }, installation);
    else if ((await findMarks(provisioner.cluster, [name])).length === 0)
      await dismiss(provisioner, { id, role: name });
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
