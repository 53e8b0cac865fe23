// Rollouts of this process: what operators do with them, and the worker of a replica that serves.
import type { Logger } from 'pino';
import { listAllClusters } from '../../db/registry/cluster-queries.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import type { Place } from '../clusters/provisioners.js';
import type { Config } from '../config/index.js';
import { within } from '../lib/deadline.js';
import { createTemplateMaker } from '../operations/template/template-maker.js';
import { prepareFleet } from '../rollouts/fleet-preparation.js';
import { databasesAtOnce } from '../clusters/reserve-share.js';
import { FleetServers, type FleetServer, type OtherCluster } from '../rollouts/fleet-servers.js';
import { dropOlderTemplates } from '../rollouts/older-stock.js';
import { createRolling, type Rolling } from '../rollouts/rolling.js';
import { createRolloutActs, type RolloutActs } from '../rollouts/rollout-acts.js';
import { createRolloutWorker } from '../rollouts/rollout-worker.js';
import { createTenantLocks } from '../tenants/tenant-locks.js';
import type { Closing } from './closing.js';
import type { DataPlane } from './data-plane.js';
import type { Operations } from './operations.js';
import type { Replica } from './replica.js';
import type { SchemaDrift } from './schema-drift.js';

export interface Rollouts {
  /** What operators do with rollouts. */
  readonly rollouts: RolloutActs;
  /** The worker of a replica that serves. */
  readonly rolling: Rolling;
}

/** Longest wait (ms) until running items have come to their end when the process stops. Another worker continues what is cut. */
const CLOSE_DEADLINE = 10_000;

/** A rollout closes before everything that its items work with. */
export function createRollouts(
  {
    registry,
    lockSession,
    replicaId,
    installation,
    clusterDirectory,
    provisioners,
    runner,
    compareTenants,
  }: Replica & DataPlane & Operations & SchemaDrift,
  config: Config,
  log: Logger,
  closing: Closing,
): Rollouts {
  const { provisioner: ownPlace, provisionerPool } = config.tenants;
  const target = latestVersion(tenantMigrations);
  const locks = createTenantLocks(lockSession);
  const maker = createTemplateMaker({ registry, locks, runner, installation, worker: replicaId });

  async function at(place: Place): Promise<FleetServer> {
    const provisioner = await provisioners.at(place);
    const reserve = (await clusterDirectory.find(place))?.budget.reserve ?? 0;
    return { ...provisioner, atOnce: databasesAtOnce(reserve, provisionerPool.max) };
  }

  /** All servers as they are now. One that cannot be entered is left out. */
  async function allServers(): Promise<FleetServers> {
    const isOwn = ({ host, port }: Place): boolean => host === ownPlace.host && port === ownPlace.port;
    const places = (await listAllClusters(registry)).filter((row) => !isOwn(row));
    const others = places.map(({ host, port }): Promise<OtherCluster> =>
      at({ host, port }).then(
        (server) => ({ place: { host, port }, server }),
        (error: unknown) => ({ place: { host, port }, error }),
      ),
    );
    return new FleetServers(await at(ownPlace), ownPlace, await Promise.all(others));
  }

  const worker = createRolloutWorker({
    registry,
    locks,
    lockSession,
    worker: replicaId,
    installation,
    migrations: tenantMigrations,
    servers: { at },
    prepare: async () => {
      const servers = await allServers();
      const { failed } = await prepareFleet({ registry, locks, servers, installation: await installation(), maker });
      for (const { tenant, error: err } of failed)
        log.warn({ tenantId: tenant.id, err }, 'could not mark the database of a tenant');
      for (const { cluster, error: err } of servers.failed)
        log.warn({ cluster, err }, 'could not prepare a cluster for a rollout');
    },
    finish: async () => dropOlderTemplates(registry, await allServers(), await installation()),
    checkWave: compareTenants,
    onItem: ({ tenant, outcome, cause: err }) => {
      const tenantId = tenant?.id;
      if (outcome === 'done') log.debug({ tenantId }, 'migrated a tenant database');
      if (outcome === 'again')
        log.warn({ tenantId, err }, 'could not migrate a tenant database: it is tried again later');
      if (outcome === 'failed') log.error({ tenantId, err }, 'could not migrate a tenant database');
    },
    onAway: ({ host, port }, err) => {
      log.warn({ cluster: `${host}:${port}`, err }, 'a server of a rollout is away: its tenants are migrated later');
    },
    onStopped: ({ id: rolloutId, wave, reason }) => {
      log.error({ rolloutId, wave, reason }, 'a rollout has stopped');
    },
    onWave: ({ id: rolloutId, wave, state, reason }) => {
      if (state === 'stopped') log.error({ rolloutId, wave, reason }, 'a rollout has stopped');
      else if (state === 'running') log.info({ rolloutId, wave }, 'the next wave of a rollout begins');
      else log.info({ rolloutId, state }, 'a rollout has ended');
    },
    onCheckFailed: (err, { id: rolloutId, wave }) => {
      log.warn({ err, rolloutId, wave }, 'could not compare the schemas of a wave with the template');
    },
    onError: (err, context) => {
      log.warn({ err, ...context }, 'a rollout waits');
    },
  });
  const rolling = createRolling({
    registry,
    target,
    worker,
    onError: (err) => {
      log.warn({ err }, 'could not look for rollouts');
    },
  });
  closing.add('rollouts', () =>
    within(rolling.close(), CLOSE_DEADLINE, () => new Error('an item of a rollout did not end in time')),
  );
  const rollouts = createRolloutActs({
    registry,
    target,
    onChange: () => {
      rolling.wake();
    },
  });
  return { rollouts, rolling };
}
