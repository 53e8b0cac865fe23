// Everything that runs by itself. Each job runs on one replica at a time (src/jobs/housekeeping.ts).
import type { Logger } from 'pino';
import { sweepRequestKeys } from '../../db/registry/idempotency-keys.js';
import { deleteExpiredRequests } from '../../db/registry/request-answers.js';
import { freeRequestKeys } from '../../db/registry/operations/operation-keys.js';
import { sweepOperations } from '../../db/registry/operations/operation-lists.js';
import { sweepRollouts } from '../../db/registry/rollouts/rollout-rows.js';
import { setStandbyTarget } from '../../db/registry/standby-rows.js';
import type { Config } from '../config/index.js';
import { createFeedSweep, SWEEP_EVERY } from '../replicas/feed-sweep.js';
import type { HousekeepingJob } from '../jobs/housekeeping.js';
import { createAuditRetention } from '../clusters/audit-retention.js';
import { createNotifyRelief } from '../clusters/notify-relief.js';
import { warnOfServers } from '../clusters/server-room.js';
import { createStorageRelief } from '../clusters/storage-relief.js';
import type { DataPlane } from './data-plane.js';
import { REFILLING, type Operations } from './operations.js';
import type { Replica } from './replica.js';

type Rooms = Replica & DataPlane & Operations;

const SECOND = 1_000;
const MINUTE = 60 * SECOND;

/** The deadline of a job that asks every server. A job that only asks the registry has the default one. */
const LONG = 10 * MINUTE;

/** `every` is the pause (ms) between two runs, on all replicas together. */
export function jobsOf(rooms: Rooms, config: Config, log: Logger): readonly HousekeepingJob[] {
  const { registry, provisioners, doorDrift, lifecycle, orphans, standby, reencryption, rotation } = rooms;
  const { limits: defaults, reconcileEvery } = config.tenants;
  const relieveStorage = createStorageRelief({
    registry,
    provisioners,
    defaults,
    onError: (err, context) => {
      log.warn({ err, ...context }, "could not free the space of deleted rows in a tenant's database");
    },
  });
  const removeExpiredAudit = createAuditRetention({
    registry,
    provisioners,
    keepDays: config.auditKeepDays,
    onError: (err, context) => {
      log.warn({ err, ...context }, "could not remove expired rows of a tenant's audit");
    },
  });
  const relieveNotify = createNotifyRelief({
    ...rooms,
    place: config.registry.connection,
    onRelief: (relief) => {
      log.warn(relief, "the registry's NOTIFY queue was filling up: ended sessions of tenants' database roles");
    },
  });
  return [
    // Records operations for what a former build left unfinished. The runner itself finds operations that a crash left.
    { name: 'leftovers', every: reconcileEvery, run: (signal) => rooms.leftovers.record(signal) },
    // Looks at every server for databases without a row.
    { name: 'reconciler', every: reconcileEvery, deadline: LONG, run: (signal) => orphans.dropAll(signal) },
    // Compares databases with their rows, for changes that recorded no operation.
    { name: 'lifecycle settle', every: 10 * SECOND, deadline: LONG, run: (signal) => doorDrift.settleAll(signal) },
    { name: 'lifecycle purge', every: MINUTE, deadline: LONG, run: (signal) => lifecycle.purgeDue(signal) },
    { name: REFILLING, every: 30 * SECOND, run: (signal) => standby.refill(signal) },
    { name: 'rotation', every: 30 * SECOND, deadline: LONG, run: (signal) => rotation.run(signal) },
    { name: 'reencryption', every: MINUTE, deadline: 6 * LONG, run: (signal) => reencryption.run(signal) },
    {
      name: 'connection-limits',
      every: MINUTE,
      deadline: LONG,
      run: (signal) => rooms.connectionLimits.applyAll(signal),
    },
    // Rewrites tables, each for up to a minute.
    { name: 'storage-relief', every: MINUTE, deadline: 3 * LONG, run: relieveStorage },
    { name: 'audit retention', every: MINUTE, deadline: LONG, run: removeExpiredAudit },
    { name: 'notify-relief', every: 5 * SECOND, run: relieveNotify },
    { name: 'feed-sweep', every: SWEEP_EVERY, run: createFeedSweep(registry) },
    {
      name: 'idempotency keys',
      every: 60 * MINUTE,
      run: async (signal) => {
        await freeRequestKeys(registry);
        // Former builds have a table of their own for keys.
        await sweepRequestKeys(registry);
        await sweep(() => deleteExpiredRequests(registry, SWEPT_AT_ONCE), signal);
      },
    },
    {
      name: 'operations sweep',
      every: 60 * MINUTE,
      run: async (signal) => {
        await sweep(() => sweepOperations(registry, SWEPT_AT_ONCE), signal);
        await sweep(() => sweepRollouts(registry, SWEPT_AT_ONCE), signal);
      },
    },
  ];
}

/** Rows in one statement, so that no statement takes long. */
const SWEPT_AT_ONCE = 1_000;

/** @param some deletes at most SWEPT_AT_ONCE rows */
async function sweep(some: () => Promise<number>, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) if ((await some()) < SWEPT_AT_ONCE) return;
}

/** What each replica does once, when it begins to serve. A failure here does not keep the replica from serving. */
export async function whenServing(rooms: Rooms, config: Config, log: Logger): Promise<void> {
  // Each replica does this at its start. A job would run on the first free replica, and at any time: it would overwrite what an
  // operator sets later for this cluster. The operator's value counts until the next start.
  await rooms.defaultCluster
    .configure()
    .then((id) => setStandbyTarget(rooms.registry, id, config.tenants.standbyDatabases))
    .catch((err: unknown) => {
      log.warn({ err }, 'could not set the number of standby databases');
    });
  await rooms.reencryption.begin().catch((err: unknown) => {
    log.warn({ err }, 'could not read which keys encrypt the database passwords');
  });
  // Do not wait for this: a server that hangs must not delay the start.
  void warnOfServers(rooms, log).catch(() => undefined);
}
