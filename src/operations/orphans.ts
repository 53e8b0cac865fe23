// Finds databases and roles that carry our mark and that no row names, page by page over several runs. Drops one only if its mark
// proves that it never held a tenant's data, and reports the others.
import type { Kysely } from 'kysely';
import { knownDatabaseNames } from '../../db/registry/named.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { listStandbyClusters, type StandbyCluster } from '../../db/registry/standby-rows.js';
import { findMarks, findRoleMarks, listMarkedPage, parseMark, type MarkedThing } from '../../db/server/marks.js';
import type { PlacedProvisioner, Provisioners } from '../clusters/provisioners.js';
import type { TenantLocks } from '../tenants/tenant-locks.js';
import { demolish, dismiss } from './demolish.js';
import { leftAsItIs, type Reports } from './reports.js';

export interface Orphans {
  /**
   * The job: one page of the databases and one of the roles of each cluster, clusters side by side. The next call continues there.
   * A cluster that fails is passed to `onError`.
   */
  dropAll(signal: AbortSignal): Promise<void>;
}

/** Marked databases, and marked roles, of one cluster that each call looks at. */
const PAGE = 500;

/** Orphans of one cluster that each call looks at again: a report counts for a few minutes only, and a pass may take longer. */
const MAX_WATCHED = 500;

/** Where a cluster's next pages begin, and its reported orphans. */
interface Progress {
  readonly after: Record<MarkedThing['kind'], string>;
  readonly watched: Map<string, MarkedThing['kind']>;
}

/** @param limit how many marked databases, and as many roles, of a cluster a call looks at */
export function createOrphans(
  deps: {
    readonly registry: Kysely<Registry>;
    readonly provisioners: Provisioners;
    readonly locks: TenantLocks;
    readonly installation: () => Promise<string>;
    readonly reports: Reports;
    readonly onError: (
      error: unknown,
      context: { clusterId: string; tenantId?: string; name?: string; step: string },
    ) => void;
  },
  limit = PAGE,
): Orphans {
  const { registry, provisioners, locks } = deps;
  /** By the id of a cluster. */
  const progress = new Map<string, Progress>();

  function progressOf({ id }: StandbyCluster): Progress {
    const known = progress.get(id);
    if (known) return known;
    const begun: Progress = { after: { database: '', role: '' }, watched: new Map() };
    progress.set(id, begun);
    return begun;
  }

  async function settle(
    things: readonly MarkedThing[],
    provisioner: PlacedProvisioner,
    place: StandbyCluster,
    installation: string,
    signal: AbortSignal,
  ): Promise<void> {
    const { watched } = progressOf(place);
    // After the server was asked, because a row is written before its database is made, and removed after its database is dropped.
    const known = await knownDatabaseNames(
      registry,
      things.map(({ name }) => name),
    );
    for (const { kind, name, text } of things) {
      if (signal.aborted) return;
      const mark = parseMark(text);
      if (!mark || known.has(name)) continue;
      const { id, state } = mark;
      const isEmpty = state === 'standby' || state === 'dropping' || (kind === 'role' && state === 'making');
      if (isEmpty) {
        await locks.attempt(id, () => dropOrphan(provisioner, place, { kind, id, name, text }, installation));
        continue;
      }
      // A registry that was restored from a backup has no row of later tenants: these databases are the last copies of their data.
      if (watched.size < MAX_WATCHED) watched.set(name, kind);
      const why = `a ${kind} that may belong to a tenant has no row in the registry`;
      const context = { clusterId: place.id, tenantId: id, name };
      if (deps.reports.orphan(context, why))
        deps.onError(leftAsItIs(`${why}: it is left as it is`), { ...context, step: 'orphans' });
    }
  }

  /** The reported orphans that still exist, as they are now. */
  async function lookAgain(provisioner: PlacedProvisioner, watched: Progress['watched']): Promise<MarkedThing[]> {
    if (watched.size === 0) return [];
    const namesOf = (wanted: MarkedThing['kind']): string[] =>
      [...watched].flatMap(([name, kind]) => (kind === wanted ? name : []));
    const databases = await findMarks(provisioner.cluster, namesOf('database'));
    const roles = await findRoleMarks(provisioner.cluster, namesOf('role'));
    watched.clear();
    const again = (kind: MarkedThing['kind'], found: readonly { name: string; text: string | null }[]): MarkedThing[] =>
      found.flatMap(({ name, text }) => (text === null ? [] : [{ kind, name, text }]));
    return [
      ...again(
        'database',
        databases.filter(({ owned }) => owned),
      ),
      ...again('role', roles),
    ];
  }

  /** Runs under the lock of the orphan's id. */
  async function dropOrphan(
    provisioner: PlacedProvisioner,
    place: StandbyCluster,
    { kind, id, name, text }: MarkedThing & { readonly id: string },
    installation: string,
  ): Promise<void> {
    if ((await knownDatabaseNames(registry, [name])).has(name)) return;
    if (kind === 'database')
      await demolish(registry, provisioner, { place, id, name, role: name, grounds: [text] }, installation);
    else if ((await findMarks(provisioner.cluster, [name])).length === 0)
      await dismiss(provisioner, { id, role: name });
  }

  async function dropPage(place: StandbyCluster, signal: AbortSignal): Promise<void> {
    const provisioner = await provisioners.at(place);
    const installation = await deps.installation();
    const { after, watched } = progressOf(place);
    const things = await lookAgain(provisioner, watched);
    const seen = new Set(things.map(({ kind, name }) => `${kind} ${name}`));
    // Databases first: `demolish` drops a role together with its database.
    for (const kind of ['database', 'role'] as const) {
      const page = await listMarkedPage(provisioner.cluster, installation, kind, after[kind], limit);
      things.push(...page.things.filter(({ name }) => !seen.has(`${kind} ${name}`)));
      after[kind] = page.last ?? '';
    }
    await settle(things, provisioner, place, installation, signal);
  }

  return {
    async dropAll(signal) {
      const clusters = await listStandbyClusters(registry);
      await Promise.all(
        clusters.map((cluster) =>
          dropPage(cluster, signal).catch((error: unknown) => {
            deps.onError(error, { clusterId: cluster.id, step: 'orphans' });
          }),
        ),
      );
    },
  };
}
