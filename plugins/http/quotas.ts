// RateLimit and RateLimit-Policy, only on answers to requests that are near a limit. On every answer the headers would cost more
// than the counting.
import fp from 'fastify-plugin';
import { quotaHeaders, type NotedQuota } from '../../src/http/quota-headers.js';
import type { Limiter } from '../../src/replicas/counts.js';

declare module 'fastify' {
  interface FastifyInstance {
    /** Call it after a request was counted: if less than half of the limit is left, the answer has the headers. */
    readonly noteQuota: (request: FastifyRequest, limiter: Limiter, key: string, size: number) => void;
  }
  interface FastifyRequest {
    /** Limits with less than half left. */
    quotas: NotedQuota[] | undefined;
  }
}

export const quotas = fp(
  async (app) => {
    app.decorateRequest('quotas', undefined);
    app.decorate('noteQuota', (request, limiter, key, size) => {
      const quota = limiter.look(key, size);
      if (quota.left >= size / 2) return;
      (request.quotas ??= []).push({ ...quota, name: limiter.name, size, refill: limiter.refill });
    });
    app.addHook('onSend', (request, reply, _payload, done) => {
      if (request.quotas) reply.headers(quotaHeaders(request.quotas));
      done();
    });
  },
  { name: 'quotas', fastify: '5.x' },
);
