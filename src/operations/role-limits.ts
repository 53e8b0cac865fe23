// Keeps the CONNECTION LIMIT of each tenant's role equal to the tenant's limits. The registry decides. If a cluster is
// unreachable when a limit changes, the job applies the limit later.
import type { Kysely } from 'kysely';
import { connectionLimitsOf, setConnectionLimit } from '../../db/server/server-admin.js';
import type { Registry, StoredLimits } from '../../db/registry/registry-schema.js';
import { listConnectionLimits, type ConnectionLimitRow } from '../../db/registry/tenant-worklists.js';
import { findTenant } from '../../db/registry/tenant-queries.js';
import { within } from '../lib/deadline.js';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { limitsInForce, STANDARD_CONNECTIONS } from '../tenants/tenant-limits.js';
import type { Provisioners } from '../clusters/provisioners.js';

export interface ConnectionLimits {
  /** Applies the limit now if the cluster answers soon. Otherwise calls `onError`, and the job applies it later. Never rejects. */
  applySoon(tenantId: string): Promise<void>;
  /**
   * The job: applies the limits that `applySoon` could not apply, and those of one page of all tenants. The next run continues
   * there. A cluster that does not answer does not delay the others.
   */
  applyAll(signal: AbortSignal): Promise<void>;
}

/** Longest time (ms) that a request that changes a limit waits for a cluster. */
const PATIENCE = 2_000;

/** Rows of one run: a pass over 10,000 tenants takes ten minutes. */
const PAGE = 1_000;

/** Tenants whose limit could not be applied at once. If there are more, the pass over all tenants finds them. */
const MAX_DUE = 1_000;

/**
 * @param deps.defaults the service's own limits
 * @param limit how many tenants a run looks at
 */
export function createConnectionLimits(
  deps: {
    readonly registry: Kysely<Registry>;
    readonly provisioners: Provisioners;
    readonly defaults: StoredLimits;
    readonly onError: (error: unknown, context: { cluster: string } | { tenantId: string }) => void;
  },
  limit = PAGE,
): ConnectionLimits {
  const { registry, provisioners, defaults } = deps;

  /** The last tenant of the page before; undefined at the beginning of a pass. */
  let after: string | undefined;
  const due = new Set<string>();

  function remember(tenantId: string): void {
    if (due.size < MAX_DUE) due.add(tenantId);
  }

  const limitOf = ({ limits }: ConnectionLimitRow): number =>
    limitsInForce(limits, defaults).connections ?? STANDARD_CONNECTIONS;

  /** @param rows rows of one cluster */
  async function bringUp(rows: readonly ConnectionLimitRow[], signal?: AbortSignal): Promise<void> {
    const [first] = rows;
    if (!first) return;
    const { cluster } = await provisioners.at({ host: first.dbHost, port: first.dbPort });
    const current = await connectionLimitsOf(
      cluster,
      rows.map(({ dbUser }) => dbUser),
    );
    for (const row of rows) {
      if (signal?.aborted) return;
      const given = current.get(row.dbUser);
      if (given === undefined || given === limitOf(row)) continue;
      // The row is read again: another request may have changed the limit, and the role, since the rows were listed.
      const now = await findTenant(registry, row.id);
      if (now) await setConnectionLimit(cluster, now.dbUser, limitOf(now));
    }
  }

  async function apply(tenantId: string): Promise<void> {
    const tenant = await findTenant(registry, tenantId);
    if (tenant) await bringUp([tenant]);
  }

  return {
    applySoon: (tenantId) =>
      within(apply(tenantId), PATIENCE, () => new DatabaseFault('timeout', 'no answer')).catch((error: unknown) => {
        remember(tenantId);
        deps.onError(error, { tenantId });
      }),

    async applyAll(signal) {
      const late = await listConnectionLimits(registry, { ids: [...due] });
      const page = await listConnectionLimits(registry, { after, limit });
      after = page.length < limit ? undefined : page.at(-1)?.id;
      due.clear();
      const rows = [...late, ...page];
      const bringUpAt = async (cluster: string): Promise<void> => {
        const there = rows.filter((row) => placeOf(row) === cluster);
        await bringUp(there, signal).catch((error: unknown) => {
          for (const { id } of late) if (there.some((row) => row.id === id)) remember(id);
          deps.onError(error, { cluster });
        });
      };
      await Promise.all([...new Set(rows.map(placeOf))].map(bringUpAt));
    },
  };
}

function placeOf({ dbHost, dbPort }: ConnectionLimitRow): string {
  return `${dbHost}:${dbPort}`;
}
