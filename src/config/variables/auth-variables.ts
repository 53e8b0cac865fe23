// Variables of authentication: claims and lifetimes of tokens and sessions, password hashing, the first operator.
import { availableParallelism } from 'node:os';
import { z } from 'zod';
import { wholeNumber } from '../parsers/number-parsers.js';
import type { Variable } from './variable-types.js';

export const authVariables = {
  JWT_ISSUER: {
    schema: z.string(),
    default: 'tenantry',
    unit: 'text',
    description: 'The `iss` claim of every access token. A token with another `iss` is refused.',
  },
  JWT_AUDIENCE: {
    schema: z.string(),
    default: 'tenantry',
    unit: 'text',
    description: 'The `aud` claim of every access token. A token with another `aud` is refused.',
  },
  ACCESS_TOKEN_TTL: {
    schema: wholeNumber(10, 86_400),
    default: '900',
    unit: 's',
    description: 'How long an access token is valid.',
  },
  SESSION_IDLE_TTL: {
    schema: wholeNumber(60, 31_536_000),
    default: '1209600',
    unit: 's',
    description: 'A session ends if it is not refreshed for this long.',
  },
  SESSION_TTL: {
    schema: wholeNumber(60, 31_536_000),
    default: '7776000',
    unit: 's',
    description: 'A session ends this long after its sign-in, even if it is refreshed.',
  },
  HASH_CONCURRENCY: {
    schema: wholeNumber(1, 64),
    default: { rule: 'the number of cores, at most 2', derive: () => Math.min(availableParallelism(), 2) },
    unit: 'hashes',
    description:
      'Passwords hashed at the same time. Hashing shares the threads of libuv with DNS and files: raise UV_THREADPOOL_SIZE too.',
  },
  OPERATOR_EMAIL: {
    schema: z.email('must be an e-mail address').toLowerCase(),
    default: '',
    unit: 'address',
    description:
      'The first operator, created if the registry has none. Not set (and not in production): operator@tenantry.local.',
  },
  OPERATOR_PASSWORD: {
    schema: z.string().min(12, 'must have at least 12 characters').max(200),
    default: '',
    unit: 'text',
    description:
      "The first operator's password; not one that a guesser tries first. Not set (and not in production): generated on the first start, and shown once on its terminal or written to `operator.env` in `DATA_DIR`.",
    secret: true,
  },
} as const satisfies Record<string, Variable>;
