// Checks whether a server allows as many connections as its budget and reserve may open.
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import { listAllClusters } from '../../db/registry/cluster-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { inspectCluster, type ClusterInspection } from '../../db/server/cluster-inspection.js';
import type { ClusterDirectory } from './cluster-directory.js';
import type { ClusterBudget } from '../connections/governors.js';
import type { Provisioners } from './provisioners.js';

/** A sentence about a server that allows too few connections; undefined if it allows enough. */
export function roomWarning(
  { maxConnections }: Pick<ClusterInspection, 'maxConnections'>,
  { tenants, reserve }: ClusterBudget,
): string | undefined {
  const wanted = tenants + reserve;
  if (wanted <= maxConnections) return undefined;
  return `Budget and reserve need ${wanted} connections; the server allows ${maxConnections} in all. Raise max_connections, or lower the budget.`;
}

/**
 * Logs a warning for each server that allows fewer connections than its budget and reserve. @throws DatabaseFault of the registry
 */
export async function warnOfFullServers(
  deps: {
    readonly registry: Kysely<Registry>;
    readonly clusterDirectory: Pick<ClusterDirectory, 'of'>;
    readonly provisioners: Pick<Provisioners, 'at'>;
  },
  log: Pick<Logger, 'warn'>,
): Promise<void> {
  for (const row of await listAllClusters(deps.registry)) {
    const { name, host, port, budget } = deps.clusterDirectory.of(row);
    // Other checks notice a server that does not answer.
    const inspection = await deps.provisioners
      .at({ host, port })
      .then(({ cluster }) => inspectCluster(cluster))
      .catch(() => undefined);
    const warning = inspection && roomWarning(inspection, budget);
    if (warning !== undefined) log.warn({ cluster: `${host}:${port}`, name }, warning);
  }
}
