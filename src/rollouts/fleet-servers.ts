// The servers of the fleet, as the migration enters them.
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import type { Place, PlacedProvisioner } from '../clusters/provisioners.js';

/** A server, entered as the role that owns the databases there. */
export interface FleetServer extends Pick<PlacedProvisioner, 'cluster' | 'inDatabase' | 'role'> {
  /** How many of its databases are migrated at once: each takes a connection of the cluster's reserve. */
  readonly atOnce: number;
}

/** A registered cluster other than the default one. */
export interface OtherCluster {
  readonly place: Place;
  readonly server: FleetServer;
}

export interface FleetServers {
  /** Every server that could be entered so far. */
  reached(): readonly FleetServer[];
  /** The server of a tenant; undefined if its cluster failed. A place without a cluster is the default cluster's. */
  of(tenant: Pick<TenantRecord, 'dbHost' | 'dbPort'>): FleetServer | undefined;
  /** What the cluster of a tenant failed with. */
  errorOf(tenant: Pick<TenantRecord, 'dbHost' | 'dbPort'>): unknown;
  /** The tenants of each server, in their order. Those of clusters that failed are under undefined. */
  group(tenants: readonly TenantRecord[]): ReadonlyMap<FleetServer | undefined, readonly TenantRecord[]>;
  /** Notes that a cluster failed: waiting for it once for each of its tenants would delay the others. */
  fail(place: Place, error: unknown): void;
  readonly failed: readonly { readonly cluster: string; readonly error: unknown }[];
}

export function fleetServers(own: FleetServer, others: readonly OtherCluster[]): FleetServers {
  const failed = new Map<string, unknown>();
  const nameOf = ({ host, port }: Place): string => `${host}:${port}`;
  const nameFor = ({ dbHost: host, dbPort: port }: Pick<TenantRecord, 'dbHost' | 'dbPort'>): string =>
    nameOf({ host, port });
  const byName = new Map(others.map(({ place, server }) => [nameOf(place), server]));
  const of = (tenant: Pick<TenantRecord, 'dbHost' | 'dbPort'>): FleetServer | undefined => {
    const name = nameFor(tenant);
    return failed.has(name) ? undefined : (byName.get(name) ?? own);
  };
  return {
    of,
    reached: () => [own, ...[...byName].flatMap(([name, server]) => (failed.has(name) ? [] : [server]))],
    errorOf: (tenant) => failed.get(nameFor(tenant)),
    group(tenants) {
      const groups = new Map<FleetServer | undefined, TenantRecord[]>();
      for (const tenant of tenants) {
        const server = of(tenant);
        const group = groups.get(server);
        if (group) group.push(tenant);
        else groups.set(server, [tenant]);
      }
      return groups;
    },
    fail: (place, error) => void failed.set(nameOf(place), error),
    get failed() {
      return [...failed].map(([cluster, error]) => ({ cluster, error }));
    },
  };
}
