// Tenant limits: each request of a tenant's user against what the tenant may use. Runs behind the tenant's admission, before
// anything is asked of a database or read from the body.
import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { StoredLimits } from '../db/central/schema.js';
import { measureStorage } from '../db/tenant/counts.js';
import { isRead, type AdmissionStep } from '../src/admission.js';
import type { Config } from '../src/config/index.js';
import type { AppError } from '../src/errors.js';
import { limitExceeded, limitsInForce } from '../src/tenancy/limits.js';
import { poolLimits } from '../src/tenancy/pool-options.js';
import { RATE_REFILL, RequestRates } from '../src/tenancy/request-rates.js';
import { createStorageGauge, type StorageGauge } from '../src/tenancy/storage.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly requestRates: RequestRates;
    readonly storageGauge: StorageGauge;
    /** Takes one request from the tenant's rate. */
    readonly admitRate: AdmissionStep;
  }
  interface FastifyRequest {
    /** The limits of the tenant that the token names. Throws on a request that belongs to no tenant. */
    readonly tenantLimits: StoredLimits;
  }
}

/** Seconds after which a connection may be free. */
const RETRY_AFTER = 1;

export const tenantLimits = fp<{ config: Config }>(
  async (app, { config }) => {
    const { limits: defaults, pool: poolDefaults } = config.tenants;
    const rates = new RequestRates(app.counts.limiter('tenant', RATE_REFILL));
    const gauge = createStorageGauge((tenantId) => measureStorage(app.tenantPools.database(tenantId)));
    app.decorate('requestRates', rates);
    app.decorate('storageGauge', gauge);
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
    app.decorate('admitRate', (request) => {
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
    });

    // Behind authorization and validation: it may have to ask the database, and only for what would be written.
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

    // What a limit made fail says so, instead of looking like an outage.
    app.faultReaders.push((fault, { tenant }): AppError | undefined => {
      if (!tenant) return undefined;
      const { connections, statementTimeout } = limitsInForce(tenant.limits, defaults);
      const wanted = poolLimits(tenant.poolOptions, poolDefaults);
      if (fault.kind === 'timeout' && statementTimeout !== undefined && statementTimeout < wanted.timeout)
        return limitExceeded('statementTimeout', statementTimeout);
      if (connections === undefined) return undefined;
      const full = fault.kind === 'busy' && (app.tenantPools.inspect(tenant.id)?.total ?? 0) >= connections;
      // The role's limit; a server that is full is `busy`.
      const refused = fault.kind === 'unavailable' && fault.reason === '53300';
      return full || refused ? limitExceeded('connections', connections, RETRY_AFTER) : undefined;
    });
  },
  { name: 'tenant-limits', fastify: '5.x', dependencies: ['errors', 'counts', 'quotas', 'tenant-pool'] },
);

/** Whether a request may make the tenant's database larger; signing out and the like must always work. */
function writes(request: { readonly routeOptions: { readonly config: { readonly access?: unknown } } }): boolean {
  const access = request.routeOptions.config.access as { scope: string; permission?: string } | undefined;
  return access?.scope === 'tenant' && access.permission !== 'self';
}
