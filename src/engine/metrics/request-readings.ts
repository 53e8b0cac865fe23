// Readings about requests: those under way, those whose client left, and those of the busiest tenants.
import type { Sample } from '../../observability/metrics.js';
import type { TenantTally } from '../../observability/busy-tenants.js';
import { reading, single, type ReadRooms, type Reading } from './reading-types.js';

/** The label of all tenants that have no series of their own. It is no id of a tenant. */
const OTHER = 'other';

function ofTenants({ busyTenants }: ReadRooms, value: (tally: TenantTally) => number): Sample<'tenant'>[] {
  const samples = [...busyTenants.series()].map(([tenant, tally]) => ({ labels: { tenant }, value: value(tally) }));
  return [...samples, { labels: { tenant: OTHER }, value: value(busyTenants.other) }];
}

const BUSIEST = 'Only the busiest tenants have a series, as METRICS_TENANTS says; the others are `other`.';

export const requestReadings: readonly Reading[] = [
  reading({
    name: 'tenantry_http_requests_in_flight',
    kind: 'gauge',
    labels: [],
    help: 'Requests that have arrived and are not answered yet.',
    reason: 'Requests pile up when something that they wait for hangs.',
    read: ({ traffic }) => single(traffic.inFlight),
  }),
  reading({
    name: 'tenantry_http_requests_aborted_total',
    kind: 'counter',
    labels: [],
    help: 'Requests whose client left before the answer was sent. They have no status, and count in no other metric of requests.',
    reason: 'Clients that give up: the answers are too slow for them, or a balancer cuts them.',
    read: ({ traffic }) => single(traffic.aborted),
  }),
  reading({
    name: 'tenantry_overloaded',
    kind: 'gauge',
    labels: [],
    help: '1 while this replica refuses requests with `overloaded`, otherwise 0. Each refusal also counts as a request of the route `none`.',
    reason: 'The fleet needs another replica, or one client sends too much.',
    read: ({ traffic }) => single(traffic.overloaded ? 1 : 0),
  }),
  reading({
    name: 'tenantry_tenant_requests_total',
    kind: 'counter',
    labels: ['tenant'],
    help: `Answered requests of the users of a tenant. ${BUSIEST}`,
    reason: 'Which tenant makes the load.',
    read: (rooms) => ofTenants(rooms, ({ requests }) => requests),
  }),
  reading({
    name: 'tenantry_tenant_errors_total',
    kind: 'counter',
    labels: ['tenant'],
    help: `Answers with a status of 500 or more to the users of a tenant. ${BUSIEST}`,
    reason: 'Whether a fault has one tenant or all.',
    read: (rooms) => ofTenants(rooms, ({ errors }) => errors),
  }),
  reading({
    name: 'tenantry_tenant_request_seconds_total',
    kind: 'counter',
    labels: ['tenant'],
    help: `Time in seconds that the answered requests of a tenant took together. ${BUSIEST}`,
    reason: 'Divided by the requests it is the mean duration: a tenant whose database is slow.',
    read: (rooms) => ofTenants(rooms, ({ seconds }) => seconds),
  }),
  reading({
    name: 'tenantry_tenant_pool_connections',
    kind: 'gauge',
    labels: ['tenant'],
    help: `Connections of a tenant's pool on this replica that are open or opening. ${BUSIEST}`,
    reason: 'Which tenant holds the connections.',
    read: ({ busyTenants, tenantPools, poolTotals }) => {
      const all = [...poolTotals().values()].reduce((sum, { open }) => sum + open, 0);
      const samples = [...busyTenants.series().keys()].map((tenant) => ({
        labels: { tenant },
        value: tenantPools.inspect(tenant)?.total ?? 0,
      }));
      const theirs = samples.reduce((sum, { value }) => sum + value, 0);
      return [...samples, { labels: { tenant: OTHER }, value: all - theirs }];
    },
  }),
];
