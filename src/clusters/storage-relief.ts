// Frees the space of deleted rows for tenants above their storage limit. PostgreSQL keeps this space for new rows, which such a
// tenant cannot write. Without this job no deletion would bring the tenant below its limit again.
import type { Kysely } from 'kysely';
import { databaseSizes } from '../../db/server/server-admin.js';
import type { Registry, StoredLimits } from '../../db/registry/registry-schema.js';
import { listStorageLimits, type StorageLimitRow } from '../../db/registry/tenant-worklists.js';
import { listTableRows, rewriteTable } from '../../db/tenant/space.js';
import { limitsInForce } from '../tenants/tenant-limits.js';
import type { Provisioners } from './provisioners.js';

/** Tenants of one run. The size of each of their databases is read from the server's disk. */
const PAGE = 500;

/**
 * A table is rewritten if this part of its rows was deleted since the last rewrite. The cost of a rewrite does not depend on the
 * number of deleted rows.
 */
const WORTH_IT = 0.1;

/** Tenants whose last rewrite is remembered. The tables of a forgotten tenant may be rewritten once more. */
const MAX_REMEMBERED = 10_000;

/**
 * @param deps.defaults the service's own limits
 * @param limit how many tenants a run looks at
 * @returns a function that checks one page of the tenants with a storage limit. The next call continues there. A cluster or
 *   database that fails does not delay the others
 */
export function createStorageRelief(
  deps: {
    readonly registry: Kysely<Registry>;
    readonly provisioners: Provisioners;
    readonly defaults: StoredLimits;
    readonly onError: (error: unknown, context: { cluster: string; tenantId?: string }) => void;
  },
  limit = PAGE,
): (signal: AbortSignal) => Promise<void> {
  const { registry, provisioners, defaults, onError } = deps;
  /** By tenant and table: the number of deleted rows at the last rewrite. */
  const rewritten = new Map<string, ReadonlyMap<string, number>>();
  /** The last tenant of the page before; undefined at the beginning of a pass. */
  let after: string | undefined;

  async function relieve(rows: readonly StorageLimitRow[], cluster: string, signal: AbortSignal): Promise<void> {
    const [first] = rows;
    if (!first) return;
    const provisioner = await provisioners.at({ host: first.dbHost, port: first.dbPort });
    const sizes = await databaseSizes(
      provisioner.cluster,
      rows.map(({ dbName }) => dbName),
    );
    for (const { id: tenantId, dbName, limits } of rows) {
      if (signal.aborted) return;
      const allowed = limitsInForce(limits, defaults).storageBytes;
      if (allowed === undefined || (sizes.get(dbName) ?? 0) <= allowed) continue;
      await provisioner
        .inDatabase(dbName, async (db) => {
          const before = rewritten.get(tenantId);
          const gones = new Map<string, number>();
          for (const { name, live, gone } of await listTableRows(db)) {
            const last = before?.get(name) ?? 0;
            // A number smaller than the last one means that the server's counter began again at zero.
            const since = gone < last ? gone : gone - last;
            const worthIt = since > 0 && since >= live * WORTH_IT;
            if (worthIt && !signal.aborted) await rewriteTable(db, name);
            gones.set(name, worthIt ? gone : last);
          }
          if (rewritten.size >= MAX_REMEMBERED) rewritten.clear();
          rewritten.set(tenantId, gones);
        })
        .catch((error: unknown) => {
          onError(error, { cluster, tenantId });
        });
    }
  }

  return async (signal) => {
    const rows = await listStorageLimits(registry, defaults.storageBytes !== undefined, after, limit);
    after = rows.length < limit ? undefined : rows.at(-1)?.id;
    const relieveAt = async (cluster: string): Promise<void> => {
      const there = rows.filter((row) => placeOf(row) === cluster);
      await relieve(there, cluster, signal).catch((error: unknown) => {
        onError(error, { cluster });
      });
    };
    await Promise.all([...new Set(rows.map(placeOf))].map(relieveAt));
  };
}

function placeOf({ dbHost, dbPort }: StorageLimitRow): string {
  return `${dbHost}:${dbPort}`;
}
