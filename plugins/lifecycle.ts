// The lifecycle: suspends, resumes, deletes, restores and purges tenants, and looks after those whose database does not agree
// with their row, or whose time is over.
import fp from 'fastify-plugin';
import type { Config } from '../src/config/index.js';
import { openRegistry } from '../src/registry.js';
import { createDoors } from '../src/tenancy/doors.js';
import { createTenantLocks, type TenantLocks } from '../src/tenancy/locks.js';
import { createTransitions, type Transitions } from '../src/tenancy/transitions.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly lifecycle: Transitions;
    /** For work on tenants that are there. */
    readonly tenantLocks: TenantLocks;
  }
}

/** One for the lock of each tenant whose database is being opened or closed, or its password changed. */
const LOCKS = { max: 4, acquireTimeout: 5_000, timeout: 10_000, idleTimeoutMillis: 5_000 };

/** How soon (ms) a database follows that could not when its tenant's state changed. */
const SETTLE_EVERY = 10_000;

/** How late (ms) a tenant is purged at most, as long as there are few. */
const PURGE_EVERY = 60_000;

export const lifecycle = fp<{ config: Config }>(
  async (app, { config }) => {
    // Its own, so that a server that hangs holds up no request that needs the registry, and nobody who makes a tenant.
    const { connection, pool } = config.registry;
    const limits = { ...LOCKS, connectTimeout: pool.connectTimeout };
    const options = { applicationName: 'tenantry lifecycle', preparedStatements: false };
    const locking = openRegistry(connection, limits, options, app.destinations);
    const locks = createTenantLocks(locking.db);
    app.decorate('tenantLocks', locks);
    const { registry, provisioners, removal, events, housekeeping } = app;
    const shared = {
      registry,
      locks,
      publish: (tenantId: string) => events.publish({ kind: 'tenant', tenantId }),
      onError: (err: unknown, context: object) => {
        app.log.error({ err, ...context }, "could not apply a tenant's status to its database");
      },
    };
    const doors = createDoors({ ...shared, provisioners, installation: app.installation, report: app.reportLeft });
    const transitions = createTransitions({ ...shared, doors, removal, grace: config.tenants.deletionGrace });
    app.decorate('lifecycle', transitions);
    housekeeping.add({
      name: 'lifecycle settle',
      every: SETTLE_EVERY,
      run: (signal) => doors.settleAll(signal),
    });
    housekeeping.add({ name: 'lifecycle purge', every: PURGE_EVERY, run: (signal) => transitions.purgeDue(signal) });
    app.addHook('onClose', async () => {
      // Its jobs work under the locks that close behind this.
      await housekeeping.close();
      await transitions.close();
      await locking.close(1_000);
    });
  },
  { name: 'lifecycle', fastify: '5.x', dependencies: ['registry', 'events', 'housekeeping', 'provisioning'] },
);
