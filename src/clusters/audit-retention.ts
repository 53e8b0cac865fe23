// Removes rows of the audit that are kept no longer: in the registry through a function of its owner, and in tenants' databases as
// their owner, because the roles that write rows cannot remove any.
import type { Kysely } from 'kysely';
import { removeExpiredCentralAudit } from '../../db/registry/registry-audit.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { listStorageLimits, type StorageLimitRow } from '../../db/registry/tenant-worklists.js';
import { removeExpiredAudit } from '../../db/tenant/tenant-audit.js';
import type { Provisioners } from './provisioners.js';

/** Tenants of one run. Each costs a connection for a moment. */
const PAGE = 100;

/** Rows that one statement removes, and statements of one run for one database: what is left waits for the next pass. */
const ROWS = 1_000;
const STATEMENTS = 10;

/**
 * @param deps.keepDays 0 keeps rows of tenants for ever. How long the registry keeps its rows is recorded there
 * @param limit how many tenants a run looks at
 * @returns a function that removes expired rows of the registry, and of one page of the active tenants. The next call continues
 *   there. A cluster or database that fails does not delay the others
 */
export function createAuditRetention(
  deps: {
    readonly registry: Kysely<Registry>;
    readonly provisioners: Provisioners;
    readonly keepDays: number;
    readonly onError: (error: unknown, context: { cluster: string; tenantId?: string }) => void;
  },
  limit = PAGE,
): (signal: AbortSignal) => Promise<void> {
  const { registry, provisioners, keepDays, onError } = deps;
  /** The last tenant of the page before; undefined at the beginning of a pass. */
  let after: string | undefined;

  async function removeAt(rows: readonly StorageLimitRow[], cluster: string, signal: AbortSignal): Promise<void> {
    const [first] = rows;
    if (!first) return;
    const provisioner = await provisioners.at({ host: first.dbHost, port: first.dbPort });
    for (const { id: tenantId, dbName } of rows) {
      if (signal.aborted) return;
      await provisioner
        .inDatabase(dbName, (db) => inBatches(() => removeExpiredAudit(db, keepDays, ROWS), signal))
        .catch((error: unknown) => {
          onError(error, { cluster, tenantId });
        });
    }
  }

  return async (signal) => {
    await inBatches(() => removeExpiredCentralAudit(registry, ROWS), signal);
    if (keepDays === 0) return;
    const rows = await listStorageLimits(registry, true, after, limit);
    after = rows.length < limit ? undefined : rows.at(-1)?.id;
    const clusters = [...new Set(rows.map(placeOf))];
    await Promise.all(
      clusters.map((cluster) =>
        removeAt(
          rows.filter((row) => placeOf(row) === cluster),
          cluster,
          signal,
        ).catch((error: unknown) => {
          onError(error, { cluster });
        }),
      ),
    );
  };
}

async function inBatches(remove: () => Promise<number>, signal: AbortSignal): Promise<void> {
  for (let count = 0; count < STATEMENTS && !signal.aborted; count += 1) if ((await remove()) < ROWS) return;
}

function placeOf({ dbHost, dbPort }: StorageLimitRow): string {
  return `${dbHost}:${dbPort}`;
}
