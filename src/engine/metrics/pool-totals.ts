// The tenant pools of this replica, added up by cluster.
import type { TenantPoolStats } from '../../connections/tenant-pools.js';

export interface ClusterTotals {
  /** Pools that hold at least one connection. */
  pools: number;
  open: number;
  idle: number;
  unknown: number;
  waiting: number;
}

/**
 * @param clusters clusters that are in the answer even if no pool leads to them, so that their numbers are 0 and not missing
 * @returns the totals by `host:port`
 */
export function totalsByCluster(
  pools: readonly TenantPoolStats[],
  clusters: readonly string[],
): ReadonlyMap<string, ClusterTotals> {
  const totals = new Map(clusters.map((cluster) => [cluster, noPools()]));
  for (const { cluster, total, idle, unknown, waiting } of pools) {
    const sum = totals.get(cluster) ?? noPools();
    totals.set(cluster, sum);
    if (total > 0) sum.pools += 1;
    sum.open += total;
    sum.idle += idle;
    sum.unknown += unknown;
    sum.waiting += waiting;
  }
  return totals;
}

function noPools(): ClusterTotals {
  return { pools: 0, open: 0, idle: 0, unknown: 0, waiting: 0 };
}
