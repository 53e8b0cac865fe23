// The tenant pool: gives each request of a tenant's user the Kysely of that tenant's database, as `request.tenantDb`.
import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { Kysely } from 'kysely';
import type { TenantRecord } from '../db/central/tenants.js';
import { createDatabase } from '../db/client.js';
import type { TenantDatabase } from '../db/tenant/schema.js';
import type { Config } from '../src/config.js';
import { AppError } from '../src/errors.js';
import { createTenantDirectory, type TenantDirectory } from '../src/tenancy/directory.js';
import type { Envelope } from '../src/tenancy/envelope.js';
import { poolLimits } from '../src/tenancy/pool-options.js';
import { createTenantPools, type TenantPools } from '../src/tenancy/pools.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly tenantDirectory: TenantDirectory;
    readonly tenantPools: TenantPools;
  }
  interface FastifyRequest {
    /** The database of the tenant that the token names. Throws on a request that belongs to no tenant. */
    readonly tenantDb: Kysely<TenantDatabase>;
  }
}

export const tenantPool = fp<{ config: Config; envelope: Envelope }>(
  async (app, { config, envelope }) => {
    const directory = createTenantDirectory(app.registry, app.events, config.tenants.registryOutageGrace);
    const pools = createTenantPools({
      envelope,
      tls: config.tenants.provisioner.tls,
      closeAfter: config.tenants.closePoolAfter,
      createDatabase: (connection, own) =>
        createDatabase<TenantDatabase>(connection, poolLimits(own, config.tenants.pool), {
          applicationName: 'tenantry',
          preparedStatements: config.tenants.preparedStatements,
        }),
      onError: (err, context) => {
        app.log.error({ err, ...context }, 'a tenant pool could not be built');
      },
    });
    app.decorate('tenantDirectory', directory);
    app.decorate('tenantPools', pools);
    app.addHook('onClose', () => pools.close());

    // Not left to the tenant's next request, which may never come: a suspended tenant has no connections open.
    app.events.subscribe((change) => {
      if (change.kind !== 'tenant' || !pools.has(change.tenantId)) return;
      directory.find(change.tenantId).then(
        (tenant) => {
          pools.keepOnly(change.tenantId, tenant?.active ? tenant.epoch : undefined);
        },
        () => undefined,
      );
    });

    const databases = new WeakMap<FastifyRequest, Kysely<TenantDatabase>>();
    app.decorateRequest('tenantDb', {
      getter(this: FastifyRequest) {
        const db = databases.get(this);
        if (!db) throw new Error('this request has no tenant database');
        return db;
      },
    });

    // A warm tenant waits for nothing; a cold one for the registry and its pool.
    app.addHook('preParsing', (request, _reply, _payload, done) => {
      if (request.principal?.kind !== 'user') {
        done();
        return;
      }
      const tenant = directory.peek(request.tenantId);
      const warm = tenant?.active && pools.peek(tenant);
      if (warm) {
        databases.set(request, warm);
        done();
        return;
      }
      acquire(request.tenantId).then((db) => {
        databases.set(request, db);
        done();
      }, done);
    });

    async function acquire(tenantId: string): Promise<Kysely<TenantDatabase>> {
      return pools.acquire(admitted(await directory.find(tenantId)));
    }
  },
  { name: 'tenant-pool', fastify: '5.x', dependencies: ['authentication', 'events'] },
);

function admitted(tenant: TenantRecord | undefined): TenantRecord {
  if (tenant?.active) return tenant;
  if (tenant?.status === 'suspended') throw new AppError('tenant-suspended');
  throw new AppError('forbidden', { detail: 'The tenant of this token does not exist any more.' });
}
