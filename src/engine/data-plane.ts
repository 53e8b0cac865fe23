// The way to tenants' databases: which servers there are, how many connections this replica may open to each, and a pool for each
// tenant.
import type { Logger } from 'pino';
import { openPool } from '../../db/driver/client.js';
import { probeDatabase } from '../../db/driver/probe.js';
import { recordOlderSchema } from '../../db/registry/tenant-queries.js';
import { NEWEST_SILENT_SCHEMA, schemaIs, SERVED_SCHEMAS } from '../../db/tenant/served-schemas.js';
import { endIdleSessions, findSessions } from '../../db/server/server-sessions.js';
import type { Config } from '../config/index.js';
import { createBreakers, type Breakers } from '../connections/breakers.js';
import { createClusterDirectory, type ClusterDirectory } from '../clusters/cluster-directory.js';
import { createGovernors, type ClusterBudget, type Governors } from '../connections/governors.js';
import { connectionsOf } from '../clusters/dead-replicas.js';
import { createTenantDirectory, type TenantDirectory } from '../tenants/tenant-directory.js';
import { createEffectiveBudgets } from '../connections/effective-budget.js';
import { createEnvelope, type Envelope } from '../secrets/envelope.js';
import { limitsInForce } from '../tenants/tenant-limits.js';
import { poolLimits } from '../tenants/pool-options.js';
import { createTenantPools, type TenantPools } from '../connections/tenant-pools.js';
import { PROBES, probeTurn } from '../connections/probe-turn.js';
import { createServerLooks, placeOf, type ServerLooks } from '../clusters/server-looks.js';
import { createSlotLeases, type SlotLeases } from '../connections/slot-leases.js';
import type { SecurityEvents } from '../observability/security-events.js';
import type { Closing } from './closing.js';
import type { Replica } from './replica.js';

export interface DataPlane {
  readonly clusterDirectory: ClusterDirectory;
  readonly governors: Governors;
  readonly slotLeases: Pick<SlotLeases, 'failing'>;
  /** Looks at servers, over connections that take no slot. */
  readonly serverLooks: ServerLooks;
  readonly tenantDirectory: TenantDirectory;
  readonly breakers: Breakers;
  readonly tenantPools: TenantPools;
  /** Seals and opens the passwords of tenants' databases. */
  readonly envelope: Envelope;
}

export function createDataPlane(
  replica: Replica,
  config: Config,
  log: Logger,
  security: SecurityEvents,
  closing: Closing,
): DataPlane {
  const { registry, events } = replica;
  const { provisioner, clusterBudget } = config.tenants;
  const clusterDirectory = createClusterDirectory({
    registry,
    events,
    envelope: createEnvelope(config.encryptionKeys, 'clusters.provisioner_password'),
    default: { connection: provisioner, budget: clusterBudget },
    onError: (err) => {
      log.warn({ err }, 'could not read the clusters from the registry');
    },
  });
  const governed = governorsOfClusters(replica, clusterDirectory, config, log, closing);
  const tenantDirectory = createTenantDirectory(registry, events, config.tenants.registryOutageGrace, (place) =>
    clusterDirectory.find(place),
  );
  const envelope = createEnvelope(config.encryptionKeys);
  const rooms = { clusterDirectory, ...governed, tenantDirectory, envelope };
  return { ...rooms, ...createPools(replica, rooms, config, log, security, closing) };
}

/**
 * The governors of all clusters. Their slots are leased from the registry, so that all replicas together stay within a budget.
 */
function governorsOfClusters(
  { replicaId, destinations, registryConnections }: Replica,
  directory: ClusterDirectory,
  config: Config,
  log: Logger,
  closing: Closing,
): Pick<DataPlane, 'governors' | 'slotLeases' | 'serverLooks'> {
  const { clusterBudget, pool } = config.tenants;
  // Tenants that are older than the clusters may be on a server that is not a cluster. Such a server has the default cluster's
  // budget.
  const budgetOf = (cluster: string): ClusterBudget => directory.peek(placeOf(cluster))?.budget ?? clusterBudget;
  const effective = createEffectiveBudgets(budgetOf, (change) => {
    if (change.room === undefined) log.info(change, 'a cluster has its full connection budget again');
    else log.warn(change, 'a cluster allows fewer connections than its budget: the budget is lowered for now');
  });
  const looks = createServerLooks(directory, pool.connectTimeout, destinations);
  const slotLeases = createSlotLeases({
    registry: registryConnections.leases,
    replicaId,
    budget: (cluster) => effective.of(cluster, budgetOf(cluster)),
    openConnections: (cluster, replicas) => connectionsOf(looks, cluster, replicas),
    onError: (err, context) => {
      log.warn({ err, ...context }, 'could not renew or release leases of connection slots');
    },
  });
  const governors = createGovernors(
    budgetOf,
    (cluster, kind) => effective.source(cluster, kind, slotLeases.source(cluster, kind)),
    (cluster) => ({
      sessions: async () => {
        const server = looks.at(cluster);
        return server && findSessions(server, replicaId);
      },
      endIdle: async (sessions) => {
        const server = looks.at(cluster);
        if (server) await endIdleSessions(server, sessions);
      },
    }),
    (err, context) => {
      log.warn({ err, ...context }, 'could not ask a server about cut connections: their slots stay in use');
    },
  );
  closing.add('governors', async () => {
    governors.close();
    effective.close();
    await slotLeases.close();
    await looks.close();
    await registryConnections.close('leases');
  });
  return { governors, slotLeases, serverLooks: looks };
}

function createPools(
  { registry, replicaId, destinations, events }: Replica,
  { clusterDirectory, governors, tenantDirectory, envelope }: Omit<DataPlane, 'breakers' | 'tenantPools'>,
  config: Config,
  log: Logger,
  { record }: SecurityEvents,
  closing: Closing,
): Pick<DataPlane, 'breakers' | 'tenantPools'> {
  const { connectTimeout } = config.tenants.pool;
  const breakers = createBreakers({
    probe: ({ tenant }) => tenantPools.probe(tenant.id),
    neighbour: ({ id, cluster }) => {
      const others = tenantPools.inspectAll().filter((pool) => pool.cluster === cluster && pool.tenantId !== id);
      const [latest] = others.sort((one, other) => one.unusedFor - other.unusedFor);
      return latest && { id: latest.tenantId, cluster };
    },
    onChange: (change) => {
      log.warn(change, `a breaker is ${change.state}`);
    },
  });
  const tenantPools: TenantPools = createTenantPools({
    directory: tenantDirectory,
    envelope,
    // Tenants that are older than the clusters may be on a server that is not a cluster.
    tls: (place) => (clusterDirectory.peek(place) ?? config.tenants.provisioner).tls,
    closeAfter: config.tenants.closePoolAfter,
    breakers,
    openPool: (tenantId, connection, tenant, options) => {
      const limits = limitsInForce(tenant.limits, config.tenants.limits);
      const { tenants, lane: laneCounts, departures } = governors.at(connection);
      return openPool(connection, poolLimits(tenant.poolOptions, config.tenants.pool, limits), {
        applicationName: `tenantry ${replicaId}`,
        preparedStatements: config.tenants.preparedStatements,
        lane: true,
        laneCounts,
        departures,
        sharesLimit: limits.connections !== undefined,
        destinations,
        ...options,
        admit: (closeIdle) => tenants.join(tenantId, closeIdle),
      });
    },
    probe: async (connection, password) => {
      const { tenants } = governors.at(connection);
      await probeTurn(tenants, connectTimeout);
      await probeDatabase(
        connection,
        // A probe waits until its connection is open.
        connectTimeout,
        // A probe takes a slot of the tenants, not of the reserve. A broken server leaves enough of the tenants' slots. A replica
        // that was killed may hold the whole reserve for half a minute.
        (closeIdle) => tenants.join(PROBES, closeIdle),
        password,
        replicaId,
        destinations,
      );
    },
    onError: (err, { tenantId, step }) => {
      if (step === 'marker') record('wrong-database', { tenantId, err });
      else record('password-unreadable', { tenantId, err });
    },
    onSchemaChange: (tenantId, schema) => {
      if (!schema) {
        log.info({ tenantId }, 'a tenant is served again: this build serves the schema of its database');
        return;
      }
      // Otherwise the next migration would take a database that was restored from a backup for a migrated one.
      if (schemaIs(schema) === 'too-old')
        recordOlderSchema(registry, tenantId, schema.name ?? NEWEST_SILENT_SCHEMA).catch((err: unknown) => {
          log.warn(
            { err, tenantId },
            "could not record that a tenant's database has an older schema than its row says",
          );
        });
      log.warn(
        { tenantId, schemaVersion: schema.name ?? null, needs: schema.needs ?? null, served: SERVED_SCHEMAS },
        schemaIs(schema) === 'too-old'
          ? 'a tenant is not served: its database is older than the schemas that this build serves'
          : 'a tenant is not served: its database needs a newer build',
      );
    },
  });
  closing.add('tenant pools', async () => {
    breakers.close();
    await tenantPools.close();
  });
  clusterDirectory.onTlsChange(({ host, port }) => {
    for (const { tenantId, cluster } of tenantPools.inspectAll())
      if (cluster === `${host}:${port}`) void tenantPools.retire(tenantId);
  });
  // Do not leave this to the tenant's next request, which may never come: a suspended tenant must have no connections open.
  events.subscribe((change) => {
    // If the tenant cannot be looked up now, its next request checks the pool.
    if (change.kind === 'tenant') tenantPools.recheck(change.tenantId).catch(() => undefined);
  });
  return { breakers, tenantPools };
}
