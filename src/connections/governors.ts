// The clusters that this process has to do with: for each PostgreSQL server one governor over the tenant pools there, and one
// over the reserve from which provisioning, rollouts and the command line draw.
import { createBackends, type Backends, type Look } from './backends.js';
import type { Governor, GovernorStats, SlotSource } from './governor-types.js';
import { createGovernor } from './governor.js';

/** Connections to one PostgreSQL server. */
export interface ClusterBudget {
  /** What all tenant pools of all replicas may hold together. */
  readonly tenants: number;
  /** What provisioning, rollouts and the command line may hold besides. */
  readonly reserve: number;
}

export interface Cluster {
  /** `host:port`. */
  readonly name: string;
  readonly place: { readonly host: string; readonly port: number };
  readonly tenants: Governor;
  readonly reserve: Governor;
}

export interface ClusterStats extends GovernorStats {
  /** `host:port`. */
  readonly cluster: string;
  readonly host: string;
  readonly port: number;
  readonly budget: ClusterBudget;
  readonly reserve: GovernorStats;
}

export interface Clusters {
  /** The cluster at this place, known from now on. */
  at(place: { readonly host: string; readonly port: number }): Cluster;
  stats(): ClusterStats[];
  /** A cluster to which this process may not have a single connection, though requests wait for one. */
  starved(): string | undefined;
  /** Rejects whoever waits for a connection, and looks at no server any more. */
  close(): void;
}

/**
 * @param budgetOf a cluster, by its name; it may change at any time
 * @param slots of one cluster and kind, leased from the registry
 * @param looks how this replica's sessions on a cluster are seen
 */
export function createClusters(
  budgetOf: (cluster: string) => ClusterBudget,
  slots: (cluster: string, kind: keyof ClusterBudget) => SlotSource,
  looks: (cluster: string) => Look,
  onError: (error: unknown, context: { readonly cluster: string }) => void,
): Clusters {
  const known = new Map<string, Cluster>();
  const backendsOf = new Map<string, Backends>();
  return {
    at({ host, port }) {
      const name = `${host}:${port}`;
      let cluster = known.get(name);
      if (!cluster) {
        // One for both: a look at the server sees the connections of both.
        const backends = createBackends(looks(name), (error) => {
          onError(error, { cluster: name });
        });
        backendsOf.set(name, backends);
        cluster = {
          name,
          place: { host, port },
          tenants: createGovernor({ slots: slots(name, 'tenants'), backends }),
          reserve: createGovernor({ slots: slots(name, 'reserve'), backends }),
        };
        known.set(name, cluster);
      }
      return cluster;
    },

    stats: () =>
      [...known.values()].map(({ name, place, tenants, reserve }) => ({
        cluster: name,
        ...place,
        budget: budgetOf(name),
        ...tenants.stats(),
        reserve: reserve.stats(),
      })),

    starved() {
      for (const { name, tenants } of known.values()) {
        const { leased, waiting } = tenants.stats();
        if (leased === 0 && waiting > 0) return name;
      }
      return undefined;
    },

    close() {
      for (const backends of backendsOf.values()) backends.stop();
      for (const { tenants, reserve } of known.values()) {
        tenants.close();
        reserve.close();
      }
    },
  };
}
