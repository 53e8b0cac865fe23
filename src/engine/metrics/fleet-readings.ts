// Readings about the whole fleet: tenants, standby databases and unfinished operations, as the registry counts them.
import { itemStates } from '../../../db/registry/rollouts/rollouts-table.js';
import { PURGE, type UnfinishedWork } from '../../../db/registry/status-queries.js';
import type { Sample } from '../../observability/metrics.js';
import { operationKinds } from '../../operations/runner/operation-kinds.js';
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
    reason: 'The size of the fleet. Tenants that stay in `provisioning` or `deleting` have an unfinished operation.',
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
    name: 'tenantry_operations',
    kind: 'gauge',
    labels: ['kind', 'state'],
    help: 'Unfinished operations (work of more than one step), in the whole fleet: `running`, `undoing` what was done, `waiting` to be tried again, or `needs-person`.',
    reason: 'Work that waits was left by a crash, or its server does not answer.',
    read: (rooms) =>
      ofFleet(rooms, ({ unfinished }) =>
        operationsOf(unfinished).flatMap(({ kind, states }) =>
          UNFINISHED_STATES.map((state) => ({ labels: { kind, state }, value: states[state] ?? 0 })),
        ),
      ),
  }),
  reading({
    name: 'tenantry_operation_oldest_seconds',
    kind: 'gauge',
    labels: ['kind'],
    help: 'Seconds since the oldest unfinished operation of a kind was recorded; no series if there is none. `purge`: since the first deleted tenant became due, if its removal has not begun.',
    reason: 'Whether unfinished work is only under way, or stuck.',
    read: (rooms) =>
      ofFleet(rooms, ({ unfinished }) =>
        unfinished.map(({ kind, oldestFor }) => ({ labels: { kind }, value: oldestFor / 1_000 })),
      ),
  }),
  reading({
    name: 'tenantry_operations_need_person',
    kind: 'gauge',
    labels: ['kind'],
    help: 'Operations that have stopped until a person acts, and operations that were recorded more than an hour ago: they are tried again every 30 seconds at least, so they do not end by themselves. `purge`: deleted tenants that have been due for an hour.',
    reason:
      'A person must find out what is in the way: a server that is away, or a database that the service must not touch.',
    read: (rooms) =>
      ofFleet(rooms, ({ unfinished }) => [
        ...operationsOf(unfinished).map(({ kind, needsPerson }) => ({ labels: { kind }, value: needsPerson })),
        {
          labels: { kind: PURGE },
          value: unfinished.find(({ kind }) => kind === PURGE)?.needsPerson ?? 0,
        },
      ]),
  }),
  reading({
    name: 'tenantry_databases_left',
    kind: 'gauge',
    labels: ['kind'],
    values: { kind: ['evidence', 'orphan'] },
    help: 'Databases and roles that were left as they are: their `evidence` contradicts their row, or no row names them (`orphan`).',
    reason: 'Each may hold the data of a tenant, so that only a person decides about it.',
    read: (rooms) =>
      ofFleet(rooms, ({ reports }) =>
        (['evidence', 'orphan'] as const).map((kind) => ({ labels: { kind }, value: reports.get(kind) ?? 0 })),
      ),
  }),
  reading({
    name: 'tenantry_rollout_items',
    kind: 'gauge',
    labels: ['state'],
    values: { state: itemStates },
    help: 'Tenants of the rollout that is under way: `pending`, `running`, `done`, `failed` after two attempts, or `skipped`. All are 0 if none is under way.',
    reason: 'How far a schema change is, and whether tenants fail.',
    read: (rooms) =>
      ofFleet(rooms, ({ rollout }) =>
        itemStates.map((state) => ({ labels: { state }, value: rollout?.items[state] ?? 0 })),
      ),
  }),
  reading({
    name: 'tenantry_rollout_stopped',
    kind: 'gauge',
    labels: [],
    help: '1 if the rollout that is under way has stopped: more tenants failed than its budget allows, or a schema differs from the template. Otherwise 0.',
    reason: 'A stopped rollout stays as it is until an operator acts.',
    read: (rooms) => ofFleet(rooms, ({ rollout }) => single(rollout?.state === 'stopped' ? 1 : 0)),
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

const UNFINISHED_STATES = ['running', 'undoing', 'waiting', 'needs-person'] as const;

/** Every kind of this build, and those of a newer build that are unfinished. */
function operationsOf(
  unfinished: FleetCounts['unfinished'],
): Pick<UnfinishedWork, 'kind' | 'states' | 'needsPerson'>[] {
  const byKind = new Map(unfinished.map((work) => [work.kind, work]));
  byKind.delete(PURGE);
  const kinds = new Set([...operationKinds, ...byKind.keys()]);
  return [...kinds].map((kind) => byKind.get(kind) ?? { kind, states: {}, needsPerson: 0 });
}
