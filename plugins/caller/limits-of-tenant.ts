// Tenant limits: checks each request of a tenant's user against the tenant's limits. Runs after the tenant's admission, before
// any database query and before the body is read.
import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { StoredLimits } from '../../db/registry/registry-schema.js';
import { isRead } from '../../src/http/admission-steps.js';
import type { AppError } from '../../src/errors.js';
import { limitExceeded, limitsInForce } from '../../src/tenants/tenant-limits.js';
import { poolLimits } from '../../src/tenants/pool-options.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** The limits of the tenant that the token names. Throws on a request without a tenant. */
    readonly tenantLimits: StoredLimits;
  }
}

/** Seconds after which a connection may be free. */
const RETRY_AFTER = 1;

export const tenantLimits = fp(
  async (app) => {
    const { limits: defaults, pool: poolDefaults } = app.engine.config.tenants;
    const { requestRates: rates, storageGauge: gauge, tenantPools } = app.engine;
    app.decorateRequest('tenantLimits', {
      getter() {
        if (!this.tenant) throw new Error('this request belongs to no tenant');
        return limitsInForce(this.tenant.limits, defaults);
      },
    });

    const settle = (request: FastifyRequest, tenantId: string, rate: number, wait: number): void => {
      app.noteQuota(request, rates.limiter, tenantId, rate);
      if (wait > 0) throw limitExceeded('requestsPerSecond', rate, Math.ceil(wait / 1_000));
    };
    app.steps.tenantRate = (request) => {
      const { tenant } = request;
      const rate = tenant?.limits.requestsPerSecond ?? defaults.requestsPerSecond;
      if (!tenant || rate === undefined) return undefined;
      const wait = rates.take(tenant.id, rate);
      if (typeof wait !== 'number')
        return wait.then((after) => {
          settle(request, tenant.id, rate, after);
        });
      settle(request, tenant.id, rate, wait);
      return undefined;
    };

    // After authorization and validation, because this check may query the database. Only requests that write need it.
    app.addHook('preHandler', (request, _reply, done) => {
      const { method, tenant } = request;
      const limit = tenant?.limits.storageBytes ?? defaults.storageBytes;
      if (isRead(request) || method === 'DELETE' || !tenant || limit === undefined || !writes(request)) {
        done();
        return;
      }
      const decide = (within: boolean): void => {
        done(within ? undefined : limitExceeded('storageBytes', limit));
      };
      const within = gauge.within(tenant.id, limit);
      if (typeof within === 'boolean') decide(within);
      else within.then(decide, done);
    });

    // A failure that a limit caused names the limit, instead of looking like an outage.
    app.faultReaders.push((fault, { tenant }): AppError | undefined => {
      if (!tenant) return undefined;
      const { connections, statementTimeout } = limitsInForce(tenant.limits, defaults);
      const wanted = poolLimits(tenant.poolOptions, poolDefaults);
      if (fault.kind === 'timeout' && statementTimeout !== undefined && statementTimeout < wanted.timeout)
        return limitExceeded('statementTimeout', statementTimeout);
      if (connections === undefined) return undefined;
      const full = fault.kind === 'busy' && (tenantPools.inspect(tenant.id)?.total ?? 0) >= connections;
      // This is the limit of the role; a full server is `busy`.
      const refused = fault.kind === 'unavailable' && fault.reason === '53300';
      return full || refused ? limitExceeded('connections', connections, RETRY_AFTER) : undefined;
    });
  },
  { name: 'tenant-limits', fastify: '5.x', dependencies: ['engine', 'errors', 'quotas', 'tenant-pool'] },
);

/** Whether a request may make the tenant's database larger. Signing out and similar requests must always work. */
function writes(request: { readonly routeOptions: { readonly config: { readonly access?: unknown } } }): boolean {
  const access = request.routeOptions.config.access as { scope: string; permission?: string } | undefined;
  return access?.scope === 'tenant' && access.permission !== 'self';
}
