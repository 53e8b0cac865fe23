// Variables of clusters: how many connections a PostgreSQL server gets, and which servers may be registered.
import { hostList } from '../parsers/address-parsers.js';
import { wholeNumber } from '../parsers/number-parsers.js';
import type { Variable } from './variable-types.js';

export const clusterVariables = {
  CLUSTER_CONNECTION_BUDGET: {
    schema: wholeNumber(2, 100_000),
    default: '90',
    unit: 'connections',
    description:
      'Connections that the tenant pools of all replicas together may hold to one PostgreSQL server. CLUSTER_CONNECTION_BUDGET + CLUSTER_CONNECTION_RESERVE + the number of replicas must be below its `max_connections`.',
  },
  CLUSTER_CONNECTION_RESERVE: {
    schema: wholeNumber(2, 1_000),
    default: '6',
    unit: 'connections',
    description:
      'Connections of all replicas to one PostgreSQL server for creating, changing and removing tenants. They are not part of the budget.',
  },
  CLUSTER_HOSTS: {
    schema: hostList,
    default: '',
    unit: 'hosts',
    description:
      'Host names, addresses and CIDRs that may be registered as clusters, separated by commas. The host of TENANT_DATABASE_URL always may ([clusters.md](clusters.md)).',
  },
} as const satisfies Record<string, Variable>;
