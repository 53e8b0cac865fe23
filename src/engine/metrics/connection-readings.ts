// Readings about connections to PostgreSQL: tenant pools, the governor's slots and their leases, lanes and breakers.
import type { ClusterStats } from '../../connections/governors.js';
import type { GovernorStats } from '../../connections/governor-types.js';
import type { Sample } from '../../observability/metrics.js';
import { reading, single, type ReadRooms, type Reading } from './reading-types.js';

/** One number of both governors of each cluster. */
function ofSlots({ governors }: ReadRooms, value: (slots: GovernorStats) => number): Sample<'cluster' | 'kind'>[] {
  return governors.stats().flatMap(({ cluster, reserve, ...tenants }) => [
    { labels: { cluster, kind: 'tenants' }, value: value(tenants) },
    { labels: { cluster, kind: 'reserve' }, value: value(reserve) },
  ]);
}

function ofClusters({ governors }: ReadRooms, value: (stats: ClusterStats) => number): Sample<'cluster'>[] {
  return governors.stats().map((stats) => ({ labels: { cluster: stats.cluster }, value: value(stats) }));
}

const slotLabels = ['cluster', 'kind'] as const;

export const connectionReadings: readonly Reading[] = [
  reading({
    name: 'tenantry_pools',
    kind: 'gauge',
    labels: [],
    help: 'Tenant pools of this replica that hold at least one connection.',
    reason: 'How many tenants are in use here at the same time.',
    read: ({ poolTotals }) => single([...poolTotals().values()].reduce((sum, { pools }) => sum + pools, 0)),
  }),
  reading({
    name: 'tenantry_pool_connections',
    kind: 'gauge',
    labels: ['cluster', 'state'],
    help: 'Connections of the tenant pools to a cluster. `open` is all that are open or opening, `idle` the part of them that no request uses, `unknown` those that were cut and that the server may still hold.',
    reason: 'How many connections requests really use: `open` minus `idle`.',
    read: ({ poolTotals }) =>
      [...poolTotals()].flatMap(([cluster, { open, idle, unknown }]) =>
        Object.entries({ open, idle, unknown }).map(([state, value]) => ({ labels: { cluster, state }, value })),
      ),
  }),
  reading({
    name: 'tenantry_pool_waiting',
    kind: 'gauge',
    labels: ['cluster'],
    help: 'Requests that wait for a connection of their tenant pool, on this replica.',
    reason: 'Requests wait when a pool is full, when no slot is free, or while a slow server opens connections.',
    read: ({ poolTotals }) =>
      [...poolTotals()].map(([cluster, { waiting }]) => ({ labels: { cluster }, value: waiting })),
  }),
  reading({
    name: 'tenantry_slots_budget',
    kind: 'gauge',
    labels: slotLabels,
    help: 'Connections to a cluster that all replicas together may hold: `tenants` for the tenant pools, `reserve` for provisioning, rollouts and commands.',
    reason: 'What the sum of the leased slots of all replicas is compared with.',
    read: ({ governors }) =>
      governors.stats().flatMap(({ cluster, budget }) => [
        { labels: { cluster, kind: 'tenants' }, value: budget.tenants },
        { labels: { cluster, kind: 'reserve' }, value: budget.reserve },
      ]),
  }),
  reading({
    name: 'tenantry_slots_leased',
    kind: 'gauge',
    labels: slotLabels,
    help: 'Connections to a cluster that this replica may have open now.',
    reason: 'How the replicas share the budget.',
    read: (rooms) => ofSlots(rooms, ({ leased }) => leased),
  }),
  reading({
    name: 'tenantry_slots_used',
    kind: 'gauge',
    labels: slotLabels,
    help: 'Slots of this replica in use: connections that are opening, open or closing, and backends that may live on.',
    reason: 'A budget that is used up makes requests wait.',
    read: (rooms) => ofSlots(rooms, ({ used }) => used),
  }),
  reading({
    name: 'tenantry_slots_unknown',
    kind: 'gauge',
    labels: slotLabels,
    help: 'Slots whose connection was cut, and whose backend the server may still hold. They count as used.',
    reason: 'A server that hangs: cut connections do not come back.',
    read: (rooms) => ofSlots(rooms, ({ unknown }) => unknown),
  }),
  reading({
    name: 'tenantry_slots_waiting',
    kind: 'gauge',
    labels: slotLabels,
    help: 'Requests that wait for a slot on this replica.',
    reason: 'The budget is used up: more tenants are busy than it allows.',
    read: (rooms) => ofSlots(rooms, ({ waiting }) => waiting),
  }),
  reading({
    name: 'tenantry_slot_evictions_total',
    kind: 'counter',
    labels: slotLabels,
    help: 'Idle connections that were closed because another pool needed their slot.',
    reason:
      'A high rate means that connections are opened again and again: the budget is too small for the number of busy tenants.',
    read: (rooms) => ofSlots(rooms, ({ evictions }) => evictions),
  }),
  reading({
    name: 'tenantry_slot_yields_total',
    kind: 'counter',
    labels: slotLabels,
    help: 'Busy connections that were closed after their request, because a tenant with fewer connections waited.',
    reason: 'As evictions, and more urgent: all connections are busy.',
    read: (rooms) => ofSlots(rooms, ({ yields }) => yields),
  }),
  reading({
    name: 'tenantry_slot_refusals_total',
    kind: 'counter',
    labels: slotLabels,
    help: 'Requests that were refused at once because too many waited for a slot. They got 503.',
    reason: 'The queue for connections is full.',
    read: (rooms) => ofSlots(rooms, ({ refused }) => refused),
  }),
  reading({
    name: 'tenantry_slot_timeouts_total',
    kind: 'counter',
    labels: slotLabels,
    help: 'Requests that got no slot before their deadline. They got 503.',
    reason: 'Clients see the lack of connections as errors.',
    read: (rooms) => ofSlots(rooms, ({ timedOut }) => timedOut),
  }),
  reading({
    name: 'tenantry_slots_starved',
    kind: 'gauge',
    labels: [],
    help: '1 if requests wait for a cluster to which this replica may open no connection at all, otherwise 0. The replica then says that it is not ready.',
    reason: 'The other replicas hold the whole budget, or the registry gives out no slots.',
    read: ({ governors }) => single(governors.starved() === undefined ? 0 : 1),
  }),
  reading({
    name: 'tenantry_lease_renewals_failing',
    kind: 'gauge',
    labels: [],
    help: '1 if the registry refused or did not answer the last renewal of the leases of slots, otherwise 0.',
    reason: 'The replica goes on with its open connections, and opens no more after a while.',
    read: ({ slotLeases }) => single(slotLeases.failing ? 1 : 0),
  }),
  reading({
    name: 'tenantry_lanes',
    kind: 'gauge',
    labels: ['cluster'],
    help: 'Open lanes: connections that the short reads of one tenant share.',
    reason: 'How many of the open connections are lanes.',
    read: (rooms) => ofClusters(rooms, ({ lane }) => lane.open),
  }),
  reading({
    name: 'tenantry_lane_reads_total',
    kind: 'counter',
    labels: ['cluster'],
    help: 'Reads that ran on a lane.',
    reason: 'The share of reads that need no connection of their own.',
    read: (rooms) => ofClusters(rooms, ({ lane }) => lane.reads),
  }),
  reading({
    name: 'tenantry_lane_overflows_total',
    kind: 'counter',
    labels: ['cluster'],
    help: 'Reads that could use a lane and took a connection of their own: the lane was full, too slow, or not open.',
    reason: 'A high share means slow reads, or a lack of slots for lanes.',
    read: (rooms) => ofClusters(rooms, ({ lane }) => lane.overflows),
  }),
  reading({
    name: 'tenantry_statements_cancelled_total',
    kind: 'counter',
    labels: ['cluster'],
    help: 'Statements of reading requests that the replica asked a server to cancel, because the client had left.',
    reason: 'Clients that give up before a slow read is answered: their timeouts are too short, or a list is too slow.',
    read: (rooms) => ofClusters(rooms, ({ departures }) => departures.cancelled),
  }),
  reading({
    name: 'tenantry_breakers_open',
    kind: 'gauge',
    labels: ['cluster', 'scope'],
    help: 'Open breakers: 1 with the scope `cluster` if the breaker of the server is open, and with the scope `tenant` the number of tenants on the server whose breaker is open.',
    reason: 'A server, or the databases of single tenants, are refused at once because they failed.',
    read: ({ governors, breakers }) => {
      const { breakers: all } = breakers.stats();
      const open = (cluster: string, scope: string): number =>
        all.filter((one) => one.cluster === cluster && one.scope === scope && one.state !== 'closed').length;
      const names = new Set([...governors.stats(), ...all].map(({ cluster }) => cluster));
      return [...names].flatMap((cluster) =>
        ['cluster', 'tenant'].map((scope) => ({ labels: { cluster, scope }, value: open(cluster, scope) })),
      );
    },
  }),
  reading({
    name: 'tenantry_breaker_openings_total',
    kind: 'counter',
    labels: ['scope'],
    help: 'How often breakers of the scope have opened on this replica.',
    reason: 'Databases that fail again and again show here, although their breakers close in between.',
    read: ({ breakers }) =>
      Object.entries(breakers.stats().opened).map(([scope, value]) => ({ labels: { scope }, value })),
  }),
  reading({
    name: 'tenantry_breaker_refusals_total',
    kind: 'counter',
    labels: [],
    help: 'Requests that open breakers refused. They got 503.',
    reason: 'How many requests a broken database costs.',
    read: ({ breakers }) => single(breakers.stats().refused),
  }),
];
