// Limits the requests of one user or operator, from all addresses together.
import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { Principal } from '../../src/auth/tokens.js';
import { RateLimited } from '../../src/errors.js';

const MINUTE = 60_000;

export const userRate = fp<{ max: number }>(
  async (app, { max }) => {
    const limiter = app.engine.counts.limiter('user', MINUTE);
    const settle = (request: FastifyRequest, key: string, wait: number): void => {
      app.noteQuota(request, limiter, key, max);
      if (wait > 0) throw new RateLimited('user', wait);
    };
    app.steps.userRate = (request) => {
      if (!request.principal) return undefined;
      const key = keyOf(request.principal);
      const wait = limiter.take(key, max);
      if (typeof wait !== 'number')
        return wait.then((after) => {
          settle(request, key, after);
        });
      settle(request, key, wait);
      return undefined;
    };
  },
  { name: 'user-rate', fastify: '5.x', dependencies: ['engine', 'quotas', 'authentication'] },
);

/** Ids of users are unique within one tenant only. */
function keyOf(principal: Principal): string {
  return principal.kind === 'user' ? `${principal.tenantId} ${principal.userId}` : `operator ${principal.operatorId}`;
}
