// What a reading is: a metric whose numbers a room already has, and which is asked at each scrape.
import type { MetricDefinition, Sample } from '../../observability/metrics.js';
import type { BusyTenants } from '../../observability/busy-tenants.js';
import type { Traffic } from '../../observability/traffic.js';
import type { Housekeeping } from '../../jobs/housekeeping.js';
import type { Callers } from '../callers.js';
import type { DataPlane } from '../data-plane.js';
import type { Fleet } from '../fleet.js';
import type { Replica } from '../replica.js';
import type { ClusterTotals } from './pool-totals.js';
import type { FleetNumbers } from './fleet-numbers.js';

/** The rooms that readings ask. */
export interface ReadRooms extends Replica, DataPlane, Callers, Fleet {
  readonly housekeeping: Housekeeping;
  readonly traffic: Traffic;
  readonly busyTenants: BusyTenants;
  readonly fleetNumbers: FleetNumbers;
  /** The tenant pools by cluster (`host:port`); computed once for a scrape. */
  readonly poolTotals: () => ReadonlyMap<string, ClusterTotals>;
}

export interface Reading<L extends string = string> extends MetricDefinition<L> {
  /** Labels without a number are left out. */
  readonly read: (rooms: ReadRooms) => Iterable<Sample<L>> | Promise<Iterable<Sample<L>>>;
}

/** Gives the labels of a reading their types. */
export function reading<const L extends string>(definition: Reading<L>): Reading<L> {
  return definition;
}

/** The one number of a metric without labels; nothing if there is no number now. */
export function single(value: number | undefined): Sample<never>[] {
  return value === undefined ? [] : [{ labels: {}, value }];
}
