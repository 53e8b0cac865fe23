// The reconciler: handles databases and roles without a row. It drops a database only if its mark proves that it never held a
// tenant's data. Rows that are unfinished are finished by operations (src/operations/leftovers.ts).
import type { Kysely } from 'kysely';
import type { Registry } from '../../db/registry/registry-schema.js';
import { knownDatabaseNames } from '../../db/registry/named.js';
import { listStandbyClusters, type StandbyCluster } from '../../db/registry/standby-rows.js';
import { findMarks, listMarked, parseMark } from '../../db/server/marks.js';
import { demolish, dismiss } from './demolish.js';
import type { TenantLocks } from '../tenants/tenant-locks.js';
import type { PlacedProvisioner, Provisioners } from '../clusters/provisioners.js';
import { leftAsItIs, type Reports } from './reports.js';

export interface Reconciler {
  /** One round. A failure is passed to `onError` and does not stop the round: the next round tries again. */
  reconcile(signal: AbortSignal): Promise<void>;
}

export function createReconciler(deps: {
  readonly registry: Kysely<Registry>;
  readonly provisioners: Provisioners;
  readonly locks: TenantLocks;
  readonly installation: () => Promise<string>;
  readonly reports: Reports;
  readonly onError: (
    error: unknown,
    context: { clusterId?: string; tenantId?: string; name?: string; step: string },
  ) => void;
}): Reconciler {
  const { registry, provisioners, locks } = deps;

  async function reconcile(signal: AbortSignal): Promise<void> {
    for (const cluster of await listStandbyClusters(registry)) {
      if (signal.aborted) return;
      try {
        await dropOrphans(cluster, signal);
      } catch (error) {
        deps.onError(error, { clusterId: cluster.id, step: 'orphans' });
      }
    }
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

  return { reconcile };
}
