// The tenant pool: gives each request of a tenant's user the Kysely of that tenant's database, as `request.tenantDb`. Reads
// share one for each tenant. A write has its own, which looks at the caller again when a connection was waited for
// (plugins/admission.ts).
import fp from 'fastify-plugin';
import type { Kysely } from 'kysely';
import type { TenantRecord } from '../db/central/tenants.js';
import { openPool } from '../db/client.js';
import { probeDatabase } from '../db/probe.js';
import type { TenantDatabase } from '../db/tenant/schema.js';
import { isRead, type AdmissionStep } from '../src/admission.js';
import type { Config } from '../src/config.js';
import { PROBES, probeTurn } from '../src/tenancy/probe-turn.js';
import { createBreakers, type Breakers } from '../src/tenancy/breakers.js';
import { createTenantDirectory, type TenantDirectory } from '../src/tenancy/directory.js';
import type { Envelope } from '../src/tenancy/envelope.js';
import { limitsInForce } from '../src/tenancy/limits.js';
import { poolLimits } from '../src/tenancy/pool-options.js';
import { admitted, createTenantPools, type TenantPools } from '../src/tenancy/pools.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly breakers: Breakers;
    readonly tenantDirectory: TenantDirectory;
    readonly tenantPools: TenantPools;
    /** Sets `request.tenant`; refuses a tenant that is not served. */
    readonly admitTenant: AdmissionStep;
  }
  interface FastifyRequest {
    /** The database of the tenant that the token names. Throws on a request that belongs to no tenant. */
    readonly tenantDb: Kysely<TenantDatabase>;
    /** What `tenantDb` is on a write, after its first use. */
    watchedTenantDb: Kysely<TenantDatabase> | null;
    /** The tenant's row as it was admitted; null on a request that belongs to no tenant. */
    tenant: TenantRecord | null;
  }
}

export const tenantPool = fp<{ config: Config; envelope: Envelope }>(
  async (app, { config, envelope }) => {
    const { clusters, clusterDirectory, replicaId } = app;
    const { connectTimeout } = config.tenants.pool;
    const directory = createTenantDirectory(app.registry, app.events, config.tenants.registryOutageGrace, (place) =>
      clusterDirectory.find(place),
    );
    const breakers = createBreakers({
      probe: ({ tenant }) => pools.probe(tenant.id),
      neighbour: ({ id, cluster }) => {
        const others = pools.inspectAll().filter((pool) => pool.cluster === cluster && pool.tenantId !== id);
        const [latest] = others.sort((one, other) => one.unusedFor - other.unusedFor);
        return latest && { id: latest.tenantId, cluster };
      },
      onChange: (change) => {
        app.log.warn(change, `a breaker is ${change.state}`);
      },
    });
    const pools: TenantPools = createTenantPools({
      directory,
      envelope,
      // Tenants from before there were clusters may stand on a server that is none.
      tls: (place) => (clusterDirectory.peek(place) ?? config.tenants.provisioner).tls,
      closeAfter: config.tenants.closePoolAfter,
      breakers,
      openPool: (tenantId, connection, tenant, options) => {
        const limits = limitsInForce(tenant.limits, config.tenants.limits);
        return openPool(connection, poolLimits(tenant.poolOptions, config.tenants.pool, limits), {
          applicationName: `tenantry ${replicaId}`,
          preparedStatements: config.tenants.preparedStatements,
          lane: true,
          sharesLimit: limits.connections !== undefined,
          destinations: app.destinations,
          ...options,
          admit: (closeIdle) => clusters.at(connection).tenants.join(tenantId, closeIdle),
        });
      },
      probe: async (connection, password) => {
        const { tenants } = clusters.at(connection);
        await probeTurn(tenants, connectTimeout);
        await probeDatabase(
          connection,
          // The opening of its connection is what a probe waits for.
          connectTimeout,
          // Of the tenants' slots, of which a broken server leaves plenty: a replica that was killed holds its share of the
          // reserve for half a minute, which may be all of it.
          (closeIdle) => tenants.join(PROBES, closeIdle),
          password,
          replicaId,
          app.destinations,
        );
      },
      onError: (err, context) => {
        app.log.error({ err, ...context }, 'could not build a tenant pool');
      },
    });
    app.decorate('breakers', breakers);
    app.decorate('tenantDirectory', directory);
    app.decorate('tenantPools', pools);
    app.addHook('onClose', async () => {
      breakers.close();
      await pools.close();
    });

    clusterDirectory.onTlsChange(({ host, port }) => {
      for (const { tenantId, cluster } of pools.inspectAll())
        if (cluster === `${host}:${port}`) void pools.retire(tenantId);
    });

    // Not left to the tenant's next request, which may never come: a suspended tenant has no connections open.
    app.events.subscribe((change) => {
      // What cannot be looked up now is looked at by the tenant's next request.
      if (change.kind === 'tenant') pools.recheck(change.tenantId).catch(() => undefined);
    });

    app.decorateRequest('watchedTenantDb', null);
    app.decorateRequest('tenantDb', {
      getter() {
        if (isRead(this)) return pools.database(this.tenantId);
        return (this.watchedTenantDb ??= pools.database(this.tenantId, app.watchOf(this)));
      },
    });

    app.decorateRequest('tenant', null);

    // Refused here and not by the first query: a handler may do something before it asks for its database.
    app.decorate('admitTenant', (request) => {
      if (request.principal?.kind !== 'user') return undefined;
      const known = directory.peek(request.tenantId);
      if (!known?.active)
        return directory
          .find(request.tenantId)
          .then(admitted)
          .then((tenant) => {
            request.tenant = tenant;
          });
      request.tenant = known;
      return undefined;
    });
  },
  { name: 'tenant-pool', fastify: '5.x', dependencies: ['authentication', 'events', 'clusters'] },
);
