// Readings about this replica: what it caches, its hashing, its connections to the registry, the feed, Redis, and its jobs.
import { packageVersion } from '../../lib/package-version.js';
import { reading, single, type Reading } from './reading-types.js';

export const replicaReadings: readonly Reading[] = [
  reading({
    name: 'tenantry_build_info',
    kind: 'gauge',
    labels: ['version', 'node'],
    help: 'Always 1; the labels are the version of the service and the version of Node.js.',
    reason: 'Which replicas run which version, for example during a rolling deployment.',
    read: () => [{ labels: { version: packageVersion(), node: process.version }, value: 1 }],
  }),
  reading({
    name: 'tenantry_clock_skew_seconds',
    kind: 'gauge',
    labels: [],
    help: "Seconds by which this replica's clock is ahead of the registry's, as far as that is certain; negative if it is behind. No series while the feed is not live.",
    reason: 'A replica whose clock is wrong by more than 2.5 seconds is not ready.',
    read: ({ replicaClock }) => {
      const skew = replicaClock.compare();
      return single(skew === undefined ? undefined : skew / 1_000);
    },
  }),
  reading({
    name: 'tenantry_sessions_cached',
    kind: 'gauge',
    labels: [],
    help: 'Sessions that this replica caches, at most 50,000.',
    reason: 'Near the maximum, requests of known callers ask the database again.',
    read: ({ sessions }) => single(sessions.cached),
  }),
  reading({
    name: 'tenantry_standings_cached',
    kind: 'gauge',
    labels: [],
    help: 'Users and operators whose permissions this replica caches.',
    reason: 'As for sessions.',
    read: ({ standings }) => single(standings.cached),
  }),
  reading({
    name: 'tenantry_password_hashes_running',
    kind: 'gauge',
    labels: [],
    help: 'Slots for password hashes that are in use: a slot also rests after a hash while other requests need the processor. At most HASH_CONCURRENCY.',
    reason: 'Whether hashing is at its bound.',
    read: ({ passwords }) => single(passwords.load.running),
  }),
  reading({
    name: 'tenantry_password_hashes_waiting',
    kind: 'gauge',
    labels: [],
    help: 'Password hashes that wait for their turn.',
    reason: 'A flood of sign-ins: clients wait for their sign-in, and are refused when the queue is full.',
    read: ({ passwords }) => single(passwords.load.waiting),
  }),
  reading({
    name: 'tenantry_registry_connections',
    kind: 'gauge',
    labels: ['pool', 'state'],
    help: 'Connections of this replica to the registry, by pool. `open` is all that are open or opening, `idle` the part of them that no work uses.',
    reason: 'A pool that is never idle delays its work: requests, leases, changes, or jobs.',
    read: ({ registryConnections }) =>
      Object.entries(registryConnections.stats()).flatMap(([pool, { total, idle }]) => [
        { labels: { pool, state: 'open' }, value: total },
        { labels: { pool, state: 'idle' }, value: idle },
      ]),
  }),
  reading({
    name: 'tenantry_registry_waiting',
    kind: 'gauge',
    labels: ['pool'],
    help: 'Work that waits for a connection to the registry, by pool.',
    reason: 'The registry is slow, or the pool is too small.',
    read: ({ registryConnections }) =>
      Object.entries(registryConnections.stats()).map(([pool, { waiting }]) => ({ labels: { pool }, value: waiting })),
  }),
  reading({
    name: 'tenantry_feed_live',
    kind: 'gauge',
    labels: [],
    help: '1 if this replica knows every change that was committed more than half a second ago, otherwise 0.',
    reason: 'While it is 0, the replica does not trust what it caches and asks the databases.',
    read: ({ events }) => single(events.live ? 1 : 0),
  }),
  reading({
    name: 'tenantry_feed_lag_seconds',
    kind: 'gauge',
    labels: [],
    help: 'Seconds since the registry last answered what has changed; no series until the first answer. Normally below 0.2.',
    reason: 'How old the knowledge of this replica is.',
    read: ({ events }) => single(events.stats().lag),
  }),
  reading({
    name: 'tenantry_feed_gaps_total',
    kind: 'counter',
    labels: [],
    help: 'How often this replica may have missed changes, and dropped everything that it caches. The first reading is no gap.',
    reason:
      'Each gap makes all callers ask the databases once. Many gaps mean a registry that is away or was restored.',
    read: ({ events }) => single(events.stats().gaps),
  }),
  reading({
    name: 'tenantry_feed_changes_total',
    kind: 'counter',
    labels: ['kind'],
    help: 'Changes that this replica has read from the feed, its own included. `any` stands for many changes at once.',
    reason: 'What changes in the fleet, and how fast the caches lose their entries.',
    read: ({ events }) => Object.entries(events.stats().changes).map(([kind, value]) => ({ labels: { kind }, value })),
  }),
  reading({
    name: 'tenantry_feed_unpublished',
    kind: 'gauge',
    labels: [],
    help: 'Changes of this replica that are stored and not published yet.',
    reason: 'Other replicas do not know these changes: revoked rights may still work there for up to half a minute.',
    read: ({ events }) => single(events.stats().unpublished),
  }),
  reading({
    name: 'tenantry_notify_queue_usage_ratio',
    kind: 'gauge',
    labels: [],
    help: "How full the NOTIFY queue of the registry's server is, from 0 to 1.",
    reason:
      'A full queue fails every commit that notifies, in all databases of that server. A healthy queue is almost empty.',
    read: ({ events }) => single(events.queueUsage),
  }),
  reading({
    name: 'tenantry_redis_available',
    kind: 'gauge',
    labels: [],
    help: '1 if this replica uses Redis, 0 if Redis is away; no series without REDIS_URL.',
    reason: 'Without Redis each replica counts its limits alone, with a part of each limit.',
    read: ({ sharedStore }) => single(sharedStore && (sharedStore.available ? 1 : 0)),
  }),
  reading({
    name: 'tenantry_redis_failures_total',
    kind: 'counter',
    labels: ['reason'],
    help: 'Commands and connections to Redis that failed; no series without REDIS_URL.',
    reason: 'Why Redis is away: no answer in time, no connection, full, read-only, or a wrong password.',
    read: ({ sharedStore }) =>
      Object.entries(sharedStore?.failures ?? {}).map(([reason, value]) => ({ labels: { reason }, value })),
  }),
  reading({
    name: 'tenantry_job_running',
    kind: 'gauge',
    labels: ['job'],
    help: '1 while the job runs on this replica, otherwise 0.',
    reason: 'Where a job runs, and whether it never ends.',
    read: ({ housekeeping }) =>
      housekeeping
        .stats()
        .map(({ name: job, runningFor }) => ({ labels: { job }, value: runningFor === undefined ? 0 : 1 })),
  }),
];
