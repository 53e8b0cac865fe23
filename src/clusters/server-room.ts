// What an operator should know about a server: whether it allows as many connections as its budget and reserve may open, and whether
// searches are fast there and find the same as elsewhere.
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

/** Sentences about a server on which searches are slow, or find less than on others. */
export function searchWarnings({
  asciiDatabases,
  hasTrigrams,
}: Pick<ClusterInspection, 'asciiDatabases' | 'hasTrigrams'>): readonly string[] {
  return [
    ...(hasTrigrams
      ? []
      : [
          'The server does not have the extension pg_trgm, so a search reads every row. Install it (it is in postgresql-contrib), then run the statements in docs/guide/clusters.md.',
        ]),
    ...(asciiDatabases === 0
      ? []
      : [
          `${asciiDatabases} of the tenants' databases have the locale C, in which only a to z are letters. A search for other letters reads every row there, and before PostgreSQL 17 it does not ignore their case. docs/guide/clusters.md has the remedy.`,
        ]),
  ];
}

/** Logs a warning for each server about which an operator should know something. @throws DatabaseFault of the registry */
export async function warnOfServers(
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
    if (!inspection) continue;
    for (const warning of [roomWarning(inspection, budget), ...searchWarnings(inspection)])
      if (warning !== undefined) log.warn({ cluster: `${host}:${port}`, name }, warning);
  }
}
