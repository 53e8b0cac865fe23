// Variables of the process: its mode, its address, its log, its files, its threads, and how it stops.
import { z } from 'zod';
import { wholeNumber } from '../parsers/number-parsers.js';
import { oneOf } from '../parsers/text-parsers.js';
import type { Variable } from './variable-types.js';

const modes = ['development', 'test', 'production'] as const;
const levels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;

export const processVariables = {
  NODE_ENV: {
    schema: oneOf(...modes),
    default: 'development',
    unit: modes.join(', '),
    description: 'With `production` nothing is generated: a missing or weak setting stops the start.',
  },
  HOST: { schema: z.string(), default: '127.0.0.1', unit: 'address', description: 'The address to listen on.' },
  PORT: {
    schema: wholeNumber(0, 65_535),
    default: '3000',
    unit: 'port',
    description: 'The port to listen on; 0 takes a free one.',
  },
  LOG_LEVEL: {
    schema: oneOf(...levels),
    default: 'info',
    unit: levels.join(', '),
    description: 'The least severe level that is logged.',
  },
  DATA_DIR: {
    schema: z.string(),
    default: '.data',
    unit: 'folder',
    description: 'The folder of the embedded PostgreSQL and of the secrets that the first start generates.',
  },
  UV_THREADPOOL_SIZE: {
    schema: wholeNumber(1, 1_024),
    default: '4',
    unit: 'threads',
    description: 'Threads of libuv, for hashing, DNS and files. On Linux they have a lower priority than requests.',
  },
  SHUTDOWN_DRAIN_MS: {
    schema: wholeNumber(0, 600_000),
    default: { rule: '5000 in production, otherwise 0', derive: (production) => (production ? 5_000 : 0) },
    unit: 'ms',
    description: 'How long `/health/ready` answers 503 on shutdown before the server stops accepting connections.',
  },
  SHUTDOWN_TIMEOUT_MS: {
    schema: wholeNumber(100, 600_000),
    default: '30000',
    unit: 'ms',
    description: 'Longest wait for running requests on shutdown.',
  },
} as const satisfies Record<string, Variable>;
