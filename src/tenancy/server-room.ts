// Whether a server has as many connections as its budget and reserve may open.
import type { ClusterInspection } from '../../db/cluster-inspection.js';
import type { ClusterBudget } from './clusters.js';

/** A sentence about a server that has too few connections; undefined when it has enough. */
export function roomWarning(
  { maxConnections }: Pick<ClusterInspection, 'maxConnections'>,
  { tenants, reserve }: ClusterBudget,
): string | undefined {
  const wanted = tenants + reserve;
  if (wanted <= maxConnections) return undefined;
  return `Budget and reserve need ${wanted} connections; the server allows ${maxConnections} in all. Raise max_connections, or lower the budget.`;
}
