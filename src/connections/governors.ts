// The governors of every cluster that this process uses: for each PostgreSQL server one for the tenant pools, and one for the
// reserve, which provisioning, rollouts and the command line use.
import { noLanes, type DepartureCounts, type LaneCounts } from '../../db/driver/pool/pool-types.js';
import { createBackends, type Backends, type Look } from './backends.js';
import type { Governor, GovernorStats, SlotSource } from './governor-types.js';
import { createGovernor } from './governor.js';

/** Connections to one PostgreSQL server. */
export interface ClusterBudget {
  /** Connections that the tenant pools of all replicas together may hold. */
  readonly tenants: number;
  /** Connections that provisioning, rollouts and the command line may hold in addition. */
  readonly reserve: number;
}

export interface GovernorsOfCluster {
  /** `host:port`. */
  readonly name: string;
  readonly place: { readonly host: string; readonly port: number };
  readonly tenants: Governor;
  readonly reserve: Governor;
  /** The lanes of all tenant pools to the cluster. */
  readonly lane: LaneCounts;
  /** What those pools stopped for clients that have left. */
  readonly departures: DepartureCounts;
}

export interface ClusterStats extends GovernorStats {
  /** `host:port`. */
  readonly cluster: string;
  readonly host: string;
  readonly port: number;
  readonly budget: ClusterBudget;
  readonly reserve: GovernorStats;
  readonly lane: Readonly<LaneCounts>;
  readonly departures: Readonly<DepartureCounts>;
}

export interface Governors {
  /** The governors of the cluster at this place. They are made when they are first asked for. */
  at(place: { readonly host: string; readonly port: number }): GovernorsOfCluster;
  stats(): ClusterStats[];
  /** A cluster that this process may open no connection to although requests wait for one. */
  starved(): string | undefined;
  /** Rejects all requests that wait for a connection, and ends all looks at servers. */
  close(): void;
}

/**
 * @param budgetOf the budget of a cluster, by the cluster's name; it may change at any time
 * @param slots the slots of one cluster and kind, leased from the registry
 * @param looks how the process looks at this replica's sessions on a cluster
 */
export function createGovernors(
  budgetOf: (cluster: string) => ClusterBudget,
  slots: (cluster: string, kind: keyof ClusterBudget) => SlotSource,
  looks: (cluster: string) => Look,
  onError: (error: unknown, context: { readonly cluster: string }) => void,
): Governors {
  const known = new Map<string, GovernorsOfCluster>();
  const backendsOf = new Map<string, Backends>();
  return {
    at({ host, port }) {
      const name = `${host}:${port}`;
      let cluster = known.get(name);
      if (!cluster) {
        // Both governors share this: a look at the server sees the connections of both.
        const backends = createBackends(looks(name), (error) => {
          onError(error, { cluster: name });
        });
        backendsOf.set(name, backends);
        cluster = {
          name,
          place: { host, port },
          tenants: createGovernor({ slots: slots(name, 'tenants'), backends }),
          reserve: createGovernor({ slots: slots(name, 'reserve'), backends }),
          lane: noLanes(),
          departures: { cancelled: 0 },
        };
        known.set(name, cluster);
      }
      return cluster;
    },

    stats: () =>
      [...known.values()].map(({ name, place, tenants, reserve, lane, departures }) => ({
        cluster: name,
        ...place,
        budget: budgetOf(name),
        ...tenants.stats(),
        reserve: reserve.stats(),
        lane: { ...lane },
        departures: { ...departures },
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
