// Variables of the limits of each tenant. A tenant's own limits in the registry come first.
import { limitBounds } from '../../tenants/tenant-limits.js';
import { optionalLimit } from '../parsers/number-parsers.js';
import type { Variable } from './variable-types.js';

export const tenantLimitVariables = {
  TENANT_REQUESTS_PER_SECOND: {
    schema: optionalLimit(limitBounds.requestsPerSecond),
    default: '0',
    unit: 'requests a second',
    description:
      "Requests of one tenant. In this section 0 means no limit, and the tenant's own limit comes first: here `limits.requestsPerSecond` ([limits.md](limits.md)).",
  },
  TENANT_CONNECTIONS: {
    schema: optionalLimit(limitBounds.connections),
    default: '0',
    unit: 'connections',
    description: 'Connections of one tenant in all processes together; `limits.connections`.',
  },
  TENANT_STATEMENT_TIMEOUT_MS: {
    schema: optionalLimit(limitBounds.statementTimeout),
    default: '0',
    unit: 'ms',
    description:
      "Longest run of a tenant's statement, also if `poolOptions.timeout` is longer; `limits.statementTimeout`.",
  },
  TENANT_USERS: {
    schema: optionalLimit(limitBounds.users),
    default: '0',
    unit: 'users',
    description: 'Users of one tenant; `limits.users`.',
  },
  TENANT_PRODUCTS: {
    schema: optionalLimit(limitBounds.products),
    default: '0',
    unit: 'products',
    description: 'Products of one tenant; `limits.products`.',
  },
  TENANT_STORAGE_BYTES: {
    schema: optionalLimit(limitBounds.storageBytes),
    default: '0',
    unit: 'bytes',
    description: "Size of one tenant's database. Above it, only reads and deletes are accepted; `limits.storageBytes`.",
  },
} as const satisfies Record<string, Variable>;
