// Requests of one user or operator, from whatever addresses they come.
import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { AdmissionStep } from '../src/admission.js';
import type { Principal } from '../src/auth/tokens.js';
import { AppError } from '../src/errors.js';

declare module 'fastify' {
  interface FastifyInstance {
    /** Takes one request from the caller's rate. */
    readonly admitUserRate: AdmissionStep;
  }
}

const MINUTE = 60_000;

export const userRate = fp<{ max: number }>(
  async (app, { max }) => {
    const limiter = app.counts.limiter('user', MINUTE);
    const settle = (request: FastifyRequest, key: string, wait: number): void => {
      app.noteQuota(request, limiter, key, max);
      if (wait > 0) throw new AppError('rate-limited', { retryAfter: Math.ceil(wait / 1_000) });
    };
    app.decorate('admitUserRate', (request) => {
      if (!request.principal) return undefined;
      const key = keyOf(request.principal);
      const wait = limiter.take(key, max);
      if (typeof wait !== 'number')
        return wait.then((after) => {
          settle(request, key, after);
        });
      settle(request, key, wait);
      return undefined;
    });
  },
  { name: 'user-rate', fastify: '5.x', dependencies: ['counts', 'quotas', 'authentication'] },
);

/** Ids of users are unique within one tenant only. */
function keyOf(principal: Principal): string {
  return principal.kind === 'user' ? `${principal.tenantId} ${principal.userId}` : `operator ${principal.operatorId}`;
}
