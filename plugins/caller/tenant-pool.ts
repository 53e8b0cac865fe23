// The tenant pool: `request.tenantDb` is the Kysely of the tenant's database. A read has a Kysely that
// drops its work when the client leaves. A write has one that checks the caller again after a long wait for a connection
// (plugins/caller/admission.ts).
import fp from 'fastify-plugin';
import type { Kysely } from 'kysely';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { isRead } from '../../src/http/admission-steps.js';
import type { KeyedWrite } from '../../src/tenants/keyed-write.js';
import type { Requester } from '../../src/lib/requester.js';
import { admitted } from '../../src/connections/tenant-pools.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** The database of the tenant that the token names. Throws on a request without a tenant. */
    readonly tenantDb: Kysely<TenantDatabase>;
    /** The Kysely of `tenantDb` on a write, after its first use. */
    watchedTenantDb: Kysely<TenantDatabase> | null;
    /** The transaction of a write with an Idempotency-Key (plugins/caller/idempotency.ts). */
    keyedWrite: KeyedWrite | null;
    /** The tenant's row at admission; null on a request without a tenant. */
    tenant: TenantRecord | null;
    /** The client, for work that ends when it leaves; undefined before admission. */
    requester: Requester | undefined;
  }
}

export const tenantPool = fp(
  async (app) => {
    const { tenantDirectory: directory, tenantPools: pools } = app.engine;

    app.decorateRequest('watchedTenantDb', null);
    app.decorateRequest('keyedWrite', null);
    app.decorateRequest('tenantDb', {
      getter() {
        if (this.keyedWrite) return this.keyedWrite.db;
        if (this.tenant && isRead(this)) return pools.databaseOf(this.tenant, this.requester);
        return (this.watchedTenantDb ??= pools.database(this.tenantId, app.watchOf(this)));
      },
    });

    app.decorateRequest('tenant', null);
    app.decorateRequest('requester', undefined);

    // Refused here and not by the first query: a handler may act before it uses its database.
    app.steps.tenant = (request, reply) => {
      if (reply) request.requester = reply.raw;
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
    };
  },
  { name: 'tenant-pool', fastify: '5.x', dependencies: ['engine', 'authentication'] },
);
