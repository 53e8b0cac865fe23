// Rate limits by client address: @fastify/rate-limit decides, and counts in the counters that all replicas share.
import rateLimitPlugin from '@fastify/rate-limit';
import type { FastifyRateLimitStore, FastifyRateLimitStoreCtor, RateLimitOptions } from '@fastify/rate-limit';
import type { preHandlerAsyncHookHandler } from 'fastify';
import fp from 'fastify-plugin';
import { RateLimited, type RateLimitName } from '../../src/errors.js';
import type { Limiter } from '../../src/replicas/counts.js';

declare module 'fastify' {
  interface FastifyInstance {
    /**
     * A hook with its own limit, which replaces the general limit.
     *
     * @param name the name of the limit in RateLimit-Policy
     * @param max requests for each minute and address
     */
    readonly limitByAddress: (name: RateLimitName, max: number) => preHandlerAsyncHookHandler;
  }
}

const MINUTE = 60_000;

export const rateLimit = fp<{ max: number }>(
  async (app, { max }) => {
    const { counts } = app.engine;
    const options = (name: RateLimitName, limiter: Limiter, size: number): RateLimitOptions => {
      const note: RateLimitOptions['onExceeding'] = (request, key) => {
        app.noteQuota(request, limiter, key, size);
      };
      return {
        max: size,
        timeWindow: MINUTE,
        store: storeOver(limiter),
        onExceeding: note,
        onExceeded: note,
        errorResponseBuilder: (_request, { ttl }) => new RateLimited(name, ttl),
      };
    };
    await app.register(rateLimitPlugin, {
      global: true,
      ...options('address', counts.limiter('address', MINUTE), max),
      // The plugin's own headers have the form of 2021; plugins/http/quotas.ts writes the current form.
      addHeaders: {
        'x-ratelimit-limit': false,
        'x-ratelimit-remaining': false,
        'x-ratelimit-reset': false,
        'retry-after': false,
      },
      addHeadersOnExceeding: { 'x-ratelimit-limit': false, 'x-ratelimit-remaining': false, 'x-ratelimit-reset': false },
    });
    app.decorate('limitByAddress', (name, size) => app.rateLimit(options(name, counts.limiter(name, MINUTE), size)));
  },
  { name: 'rate-limit', fastify: '5.x', dependencies: ['engine', 'quotas'] },
);

/** Counts with `limiter`, by the key that the plugin makes from an address: an IPv4 address, or an IPv6 /64. */
function storeOver(limiter: Limiter): FastifyRateLimitStoreCtor {
  return class Store implements FastifyRateLimitStore {
    incr(key: string, callback: Parameters<FastifyRateLimitStore['incr']>[1], _window: number, max: number): void {
      const answer = (wait: number): void => {
        callback(null, { current: wait > 0 ? max + 1 : max, ttl: wait });
      };
      const wait = limiter.take(key, max);
      if (typeof wait === 'number') answer(wait);
      else wait.then(answer, callback);
    }

    /** For a route with its own options: `limitByAddress` gives them a store. */
    child(options: object): FastifyRateLimitStore {
      const { store } = options as { readonly store?: FastifyRateLimitStoreCtor };
      if (!store) throw new Error('a route has its own limit by limitByAddress, and not by its config');
      return new store({});
    }
  };
}
