// Variables of the Redis that replicas share. src/replicas/redis-settings.ts checks the URL.
import { z } from 'zod';
import { wholeNumber } from '../parsers/number-parsers.js';
import type { Variable } from './variable-types.js';

export const redisVariables = {
  REDIS_URL: {
    schema: z.string(),
    default: '',
    unit: 'redis:// or rediss:// URL',
    description:
      'The Redis or Valkey that replicas share ([redis.md](redis.md)); `rediss://` is TLS. An outage stops no request. Not set: each process works alone. In production the URL must have a password.',
    secret: true,
  },
  REDIS_CA_FILE: {
    schema: z.string(),
    default: '',
    unit: 'file',
    description: "The CA certificates (PEM) to trust with `rediss://`; empty takes Node's own list.",
  },
  REDIS_TIMEOUT_MS: {
    schema: wholeNumber(10, 5_000),
    default: '250',
    unit: 'ms',
    description:
      'Longest wait for an answer of Redis. After a longer wait Redis counts as unavailable until it answers again.',
  },
} as const satisfies Record<string, Variable>;
