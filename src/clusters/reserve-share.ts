// The part of a cluster's reserve that work on many of its databases may use.

/**
 * How many databases of a cluster are entered at once: half of its reserve, so that replicas continue to make tenants. Each takes a
 * connection meanwhile.
 *
 * @param reserve connections
 * @param most the connections of a provisioner's pool
 */
export function databasesAtOnce(reserve: number, most: number): number {
  return Math.max(1, Math.min(most, Math.floor(reserve / 2)));
}
