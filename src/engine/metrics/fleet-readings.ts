// Readings about the whole fleet: tenants, standby databases and unfinished work, as the registry counts them.
import { unfinishedKinds } from '../../../db/registry/status-queries.js';
import type { Sample } from '../../observability/metrics.js';
import type { FleetCounts } from './fleet-numbers.js';
import { reading, single, type ReadRooms, type Reading } from './reading-types.js';

/** No samples while the registry does not answer. */
async function ofFleet<L extends string>(
  { fleetNumbers }: ReadRooms,
  samples: (numbers: FleetCounts) => Sample<L>[],
): Promise<Sample<L>[]> {
  const numbers = await fleetNumbers.read();
  return numbers ? samples(numbers) : [];
}

const STATUSES = ['provisioning', 'active', 'suspended', 'deleted', 'deleting'] as const;

export const fleetReadings: readonly Reading[] = [
  reading({
    name: 'tenantry_replicas_alive',
    kind: 'gauge',
    labels: [],
    help: 'Replicas that have written their row in the registry within the last 15 seconds, as this replica reads it; no series while the registry does not answer.',
    reason: 'A replica that is alive, and that Prometheus does not scrape; or fewer replicas than were started.',
    read: async ({ fleetStatus }) => single(await fleetStatus.replicasAlive()),
  }),
  reading({
    name: 'tenantry_fleet_readable',
    kind: 'gauge',
    labels: [],
    help: '1 if this replica could count the fleet in the registry, otherwise 0. While it is 0, the metrics of the fleet have no series.',
    reason: 'Whether the registry answers, as seen from this replica.',
    read: async ({ fleetNumbers }) => single((await fleetNumbers.read()) ? 1 : 0),
  }),
  reading({
    name: 'tenantry_tenants',
    kind: 'gauge',
    labels: ['status'],
    help: 'Tenants by their status, in the whole fleet. The registry is asked at most every 30 seconds, here and below.',
    reason: 'The size of the fleet. Tenants that stay in `provisioning` or `deleting` are unfinished work.',
    read: (rooms) =>
      ofFleet(rooms, ({ tenants }) =>
        STATUSES.map((status) => ({
          labels: { status },
          value: tenants.filter((row) => row.status === status).reduce((sum, row) => sum + row.tenants, 0),
        })),
      ),
  }),
  reading({
    name: 'tenantry_tenants_by_schema_version',
    kind: 'gauge',
    labels: ['version'],
    help: 'Active and suspended tenants by the newest migration of their databases, in the whole fleet.',
    reason: 'Which tenants a rollout has not reached: more than one version, long after the rollout.',
    read: (rooms) =>
      ofFleet(rooms, ({ tenants }) => {
        const byVersion = new Map<string, number>();
        for (const { status, schemaVersion, tenants: count } of tenants)
          if (status === 'active' || status === 'suspended')
            byVersion.set(schemaVersion, (byVersion.get(schemaVersion) ?? 0) + count);
        return [...byVersion].map(([version, value]) => ({ labels: { version }, value }));
      }),
  }),
  reading({
    name: 'tenantry_standby_databases',
    kind: 'gauge',
    labels: ['cluster', 'state'],
    help: 'Standby databases of a cluster: `ready` to be claimed, `making`, or `outdated` because they have another schema version than this build.',
    reason: 'With none ready, the next tenant is made from the template, which takes longer.',
    read: (rooms) =>
      ofFleet(rooms, ({ standby }) =>
        standby.flatMap(({ cluster, ready, making, outdated }) =>
          Object.entries({ ready, making, outdated }).map(([state, value]) => ({ labels: { cluster, state }, value })),
        ),
      ),
  }),
  reading({
    name: 'tenantry_standby_databases_wanted',
    kind: 'gauge',
    labels: ['cluster'],
    help: 'Standby databases that the cluster should have ready; 0 if it accepts no tenants.',
    reason: 'What the number of ready standby databases is compared with.',
    read: (rooms) =>
      ofFleet(rooms, ({ standby }) => standby.map(({ cluster, wanted }) => ({ labels: { cluster }, value: wanted }))),
  }),
  reading({
    name: 'tenantry_unfinished_work',
    kind: 'gauge',
    labels: ['kind'],
    help: 'Work that was begun and has not ended: tenants in `making`, `adoption`, `removing` and `restoring`, deleted tenants that are due for `purge`, changes of passwords (`rotation`), and `standby` databases in the making.',
    reason: 'What a crash or an unreachable server left for the jobs.',
    read: (rooms) =>
      ofFleet(rooms, ({ unfinished }) =>
        unfinishedKinds.map((kind) => ({
          labels: { kind },
          value: unfinished.find((work) => work.kind === kind)?.count ?? 0,
        })),
      ),
  }),
  reading({
    name: 'tenantry_unfinished_work_oldest_seconds',
    kind: 'gauge',
    labels: ['kind'],
    help: 'Seconds since the oldest unfinished work of a kind began; no series if there is none.',
    reason: 'Whether unfinished work is only under way, or stuck.',
    read: (rooms) =>
      ofFleet(rooms, ({ unfinished }) =>
        unfinished.map(({ kind, oldestFor }) => ({ labels: { kind }, value: oldestFor / 1_000 })),
      ),
  }),
  reading({
    name: 'tenantry_unfinished_work_needs_person',
    kind: 'gauge',
    labels: ['kind'],
    help: 'Unfinished work that began more than an hour ago: the jobs try again every minute at least, so it does not end by itself. `evidence` and `orphan` are databases that were left as they are: their evidence contradicts their row, or no row names them.',
    reason:
      'A person must find out what is in the way: a server that is away, or a database that the service must not touch.',
    read: (rooms) =>
      ofFleet(rooms, ({ unfinished, reports }) => [
        ...unfinishedKinds.map((kind) => ({
          labels: { kind },
          value: unfinished.find((work) => work.kind === kind)?.overdue ?? 0,
        })),
        ...(['evidence', 'orphan'] as const).map((kind) => ({ labels: { kind }, value: reports.get(kind) ?? 0 })),
      ]),
  }),
  reading({
    name: 'tenantry_job_last_success_timestamp_seconds',
    kind: 'gauge',
    labels: ['job'],
    help: "When the job last succeeded on any replica, in seconds since 1970 by the registry's clock; no series before that.",
    reason: 'A job runs once in the fleet, on one replica at a time. This must not get old.',
    read: (rooms) =>
      ofFleet(rooms, ({ jobs }) =>
        jobs.flatMap(({ name: job, lastSuccessAt }) =>
          lastSuccessAt === null ? [] : [{ labels: { job }, value: Math.round(lastSuccessAt) }],
        ),
      ),
  }),
  reading({
    name: 'tenantry_job_failures_in_a_row',
    kind: 'gauge',
    labels: ['job'],
    help: 'Runs of the job that have failed since its last success, on all replicas together.',
    reason: 'One failure is repeated soon; several in a row need a look at the log.',
    read: (rooms) =>
      ofFleet(rooms, ({ jobs }) =>
        jobs.map(({ name: job, failuresInARow }) => ({ labels: { job }, value: failuresInARow })),
      ),
  }),
];
