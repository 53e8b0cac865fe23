// Gives back the space of deleted rows to tenants beyond their storage limit. PostgreSQL keeps it for new rows, which such a
// tenant cannot write: without this no deleting would ever bring it below again.
import type { Kysely } from 'kysely';
import { databaseSizes } from '../../db/server/server-admin.js';
import type { Registry, StoredLimits } from '../../db/registry/registry-schema.js';
import { listStorageLimits, type StorageLimitRow } from '../../db/registry/tenant-worklists.js';
import { listTableRows, rewriteTable } from '../../db/tenant/space.js';
import { limitsInForce } from '../tenants/tenant-limits.js';
import type { Provisioners } from '../clusters/provisioners.js';

/** Rows of the registry that are looked at together. */
const PAGE = 500;

/** A table is written anew when this part of its rows has gone since the last time: it costs as much for few as for many. */
const WORTH_IT = 0.1;

/** Tenants whose last rewriting is remembered; one that is forgotten may be rewritten once more. */
const MAX_REMEMBERED = 10_000;

/**
 * @param defaults the service's own limits
 * @returns looks once at every tenant with a storage limit; a cluster or database that fails keeps no other waiting
 */
export function createStorageRelief(deps: {
  readonly registry: Kysely<Registry>;
  readonly provisioners: Provisioners;
  readonly defaults: StoredLimits;
  readonly onError: (error: unknown, context: { cluster: string; tenantId?: string }) => void;
}): (signal: AbortSignal) => Promise<void> {
  const { registry, provisioners, defaults, onError } = deps;
  /** By tenant and table, how many rows had gone when it was last written anew. */
  const rewritten = new Map<string, ReadonlyMap<string, number>>();

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
      const limit = limitsInForce(limits, defaults).storageBytes;
      if (limit === undefined || (sizes.get(dbName) ?? 0) <= limit) continue;
      await provisioner
        .inDatabase(dbName, async (db) => {
          const before = rewritten.get(tenantId);
          const after = new Map<string, number>();
          for (const { name, live, gone } of await listTableRows(db)) {
            const last = before?.get(name) ?? 0;
            // Below what it was, the server has begun to count anew.
            const since = gone < last ? gone : gone - last;
            const worthIt = since > 0 && since >= live * WORTH_IT;
            if (worthIt && !signal.aborted) await rewriteTable(db, name);
            after.set(name, worthIt ? gone : last);
          }
          if (rewritten.size >= MAX_REMEMBERED) rewritten.clear();
          rewritten.set(tenantId, after);
        })
        .catch((error: unknown) => {
          onError(error, { cluster, tenantId });
        });
    }
  }

  return async (signal) => {
    let after: string | undefined;
    do {
      const rows = await listStorageLimits(registry, defaults.storageBytes !== undefined, after, PAGE);
      for (const cluster of new Set(rows.map(placeOf))) {
        const there = rows.filter((row) => placeOf(row) === cluster);
        await relieve(there, cluster, signal).catch((error: unknown) => {
          onError(error, { cluster });
        });
      }
      after = rows.length < PAGE || signal.aborted ? undefined : rows.at(-1)?.id;
    } while (after !== undefined);
  };
}

function placeOf({ dbHost, dbPort }: StorageLimitRow): string {
  return `${dbHost}:${dbPort}`;
}
