// Rate limits by client address, kept in this process. Sign-in has a stricter one, declared on its routes.
import rateLimitPlugin from '@fastify/rate-limit';
import fp from 'fastify-plugin';
import { AppError } from '../src/errors.js';

const MINUTE = 60_000;

/** Addresses counted at once; the least recently seen is forgotten first. */
const MAX_ADDRESSES = 100_000;

export const rateLimit = fp<{ max: number }>(
  async (app, { max }) => {
    await app.register(rateLimitPlugin, {
      global: true,
      max,
      timeWindow: MINUTE,
      cache: MAX_ADDRESSES,
      // Writing them on every answer costs more than counting; Retry-After on a 429 is sent with the problem.
      addHeaders: {
        'x-ratelimit-limit': false,
        'x-ratelimit-remaining': false,
        'x-ratelimit-reset': false,
        'retry-after': false,
      },
      addHeadersOnExceeding: { 'x-ratelimit-limit': false, 'x-ratelimit-remaining': false, 'x-ratelimit-reset': false },
      errorResponseBuilder: (_request, { ttl }) => new AppError('rate-limited', { retryAfter: Math.ceil(ttl / 1_000) }),
    });
  },
  { name: 'rate-limit', fastify: '5.x' },
);
