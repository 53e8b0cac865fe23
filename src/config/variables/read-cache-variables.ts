// Variables of the cache of answers.
import { wholeNumber } from '../parsers/number-parsers.js';
import { oneOf } from '../parsers/text-parsers.js';
import type { Variable } from './variable-types.js';

export const readCacheVariables = {
  READ_CACHE: {
    schema: oneOf('on', 'off'),
    default: 'off',
    unit: 'on, off',
    description:
      'Whether answers to reads are cached ([read-cache.md](../inside/read-cache.md)): in Redis, or in the process if it is the only one. Set it on all replicas alike.',
  },
  READ_CACHE_TTL_MS: {
    schema: wholeNumber(1_000, 600_000),
    default: '60000',
    unit: 'ms',
    description: 'How long an answer is cached at most. A change by hand in SQL shows after this time.',
  },
  READ_CACHE_MEMORY_BYTES: {
    schema: wholeNumber(1_048_576, 17_179_869_184),
    default: '67108864',
    unit: 'bytes',
    description: 'Room for answers in the process, without Redis.',
  },
  READ_CACHE_REDIS_BYTES: {
    schema: wholeNumber(1_048_576, 274_877_906_944),
    default: '268435456',
    unit: 'bytes',
    description:
      'While Redis uses more memory than this, for anything, no answer is stored. Set it well below `maxmemory`: counts and sessions need the rest.',
  },
} as const satisfies Record<string, Variable>;
