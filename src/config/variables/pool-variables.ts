// Variables of connections to PostgreSQL and their pools. A tenant's own `poolOptions` in the registry come first.
import { wholeNumber } from '../parsers/number-parsers.js';
import { oneOf } from '../parsers/text-parsers.js';
import type { Variable } from './variable-types.js';

export const poolVariables = {
  REGISTRY_POOL_MAX: {
    schema: wholeNumber(2, 1_000),
    default: '10',
    unit: 'connections',
    description: 'Connections of this process to the registry.',
  },
  PROVISIONER_POOL_MAX: {
    schema: wholeNumber(1, 100),
    default: '3',
    unit: 'connections',
    description: 'Connections of this process for creating and dropping tenant databases.',
  },
  POOL_MAX: {
    schema: wholeNumber(1, 1_000),
    default: '5',
    unit: 'connections',
    description: 'Connections of one tenant pool. `poolOptions.max` of a tenant comes first.',
  },
  POOL_ACQUIRE_TIMEOUT_MS: {
    schema: wholeNumber(100, 60_000),
    default: '5000',
    unit: 'ms',
    description: 'Longest wait for a connection; `poolOptions.acquireTimeout`.',
  },
  CONNECT_TIMEOUT_MS: {
    schema: wholeNumber(500, 60_000),
    default: '4000',
    unit: 'ms',
    description:
      'Longest time to open one connection to a PostgreSQL server: TCP, TLS, authentication and the first query together. That is about 7 round trips. `acquireTimeout` bounds it too.',
  },
  POOL_STATEMENT_TIMEOUT_MS: {
    schema: wholeNumber(100, 600_000),
    default: '15000',
    unit: 'ms',
    description: 'Longest run of a statement; `poolOptions.timeout`.',
  },
  POOL_IDLE_TIMEOUT_MS: {
    schema: wholeNumber(100, 3_600_000),
    default: '30000',
    unit: 'ms',
    description: 'An idle connection closes after this time; `poolOptions.idleTimeoutMillis`.',
  },
  CONNECTION_MAX_AGE_MS: {
    schema: wholeNumber(1_000, 86_400_000),
    default: '1200000',
    unit: 'ms',
    description:
      'An unused connection that is older is closed. Each connection has its own random deviation of up to 20 % ([pools.md](pools.md#after-a-failover)).',
  },
  POOL_CLOSE_AFTER_MS: {
    schema: wholeNumber(100, 86_400_000),
    default: '300000',
    unit: 'ms',
    description: 'A tenant pool that is not used for this long is closed.',
  },
  PREPARED_STATEMENTS: {
    schema: oneOf('on', 'off'),
    default: 'on',
    unit: 'on, off',
    description: 'Named prepared statements. PgBouncer in session mode works with `on` and with `off`.',
  },
} as const satisfies Record<string, Variable>;
