// Connection limits: what a tenant's limits say of its role reaches the cluster at once where it can, and later otherwise.
import fp from 'fastify-plugin';
import { within } from '../db/deadline.js';
import { DatabaseFault } from '../db/errors.js';
import type { Config } from '../src/config.js';
import { createConnectionLimits } from '../src/tenancy/connection-limits.js';

declare module 'fastify' {
  interface FastifyInstance {
    /** Gives a tenant's role its limit now; where that fails, the next run of the job does. Never rejects. */
    readonly applyConnectionLimit: (tenantId: string) => Promise<void>;
  }
}

/** Between two runs (ms) of the job. */
const EVERY = 60_000;

/** Longest wait (ms) of whoever changes a limit, for a cluster that does not answer. */
const PATIENCE = 2_000;

export const connectionLimits = fp<{ config: Config }>(
  async (app, { config }) => {
    const limits = createConnectionLimits({
      registry: app.registry,
      provisioners: app.provisioners,
      defaults: config.tenants.limits,
      onError: (err, context) => {
        app.log.warn({ err, ...context }, "could not apply the connection limits of tenants' database roles");
      },
    });
    app.decorate('applyConnectionLimit', async (tenantId: string) => {
      try {
        await within(limits.apply(tenantId), PATIENCE, () => new DatabaseFault('timeout', 'no answer'));
      } catch (err) {
        app.log.warn({ err, tenantId }, "could not apply a tenant's connection limit at once; a job applies it later");
      }
    });
    app.housekeeping.add({ name: 'connection-limits', every: EVERY, run: (signal) => limits.applyAll(signal) });
  },
  { name: 'connection-limits', fastify: '5.x', dependencies: ['registry', 'housekeeping', 'provisioning'] },
);
