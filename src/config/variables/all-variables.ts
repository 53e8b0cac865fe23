// Every variable of the service, in the order of docs/reference/configuration.md. To add one, add it to the file of its subject.
import { auditVariables } from './audit-variables.js';
import { authVariables } from './auth-variables.js';
import { clusterVariables } from './cluster-variables.js';
import { databaseVariables } from './database-variables.js';
import { httpVariables } from './http-variables.js';
import { keyVariables } from './key-variables.js';
import { lifecycleVariables } from './lifecycle-variables.js';
import { metricsVariables } from './metrics-variables.js';
import { poolVariables } from './pool-variables.js';
import { processVariables } from './process-variables.js';
import { readCacheVariables } from './read-cache-variables.js';
import { redisVariables } from './redis-variables.js';
import { requestLimitVariables } from './request-limit-variables.js';
import { signInLimitVariables } from './sign-in-limit-variables.js';
import { tenantLimitVariables } from './tenant-limit-variables.js';
import type { Variable, VariableGroup } from './variable-types.js';

export const variableGroups: readonly VariableGroup[] = [
  { subject: 'Process', variables: processVariables },
  { subject: 'HTTP', variables: httpVariables },
  { subject: 'Limits on requests', variables: requestLimitVariables },
  { subject: 'Limits on sign-in and passwords', variables: signInLimitVariables },
  { subject: 'Limits of each tenant', variables: tenantLimitVariables },
  { subject: 'Databases', variables: databaseVariables },
  { subject: 'Connection pools', variables: poolVariables },
  { subject: 'Clusters', variables: clusterVariables },
  { subject: 'Lifecycle of tenants', variables: lifecycleVariables },
  { subject: 'Audit', variables: auditVariables },
  { subject: 'Redis', variables: redisVariables },
  { subject: 'Cached answers', variables: readCacheVariables },
  { subject: 'Metrics', variables: metricsVariables },
  { subject: 'Keys', variables: keyVariables },
  { subject: 'Tokens, sessions and the first operator', variables: authVariables },
];

/** Every variable by its name. The groups again, because their types give the configuration its types. */
export const variables = {
  ...processVariables,
  ...httpVariables,
  ...requestLimitVariables,
  ...signInLimitVariables,
  ...tenantLimitVariables,
  ...databaseVariables,
  ...poolVariables,
  ...clusterVariables,
  ...lifecycleVariables,
  ...auditVariables,
  ...redisVariables,
  ...readCacheVariables,
  ...metricsVariables,
  ...keyVariables,
  ...authVariables,
} as const satisfies Record<string, Variable>;

/** Names of the variables that a file can hold. */
export const secretVariables = Object.entries<Variable>(variables)
  .filter(([, { secret }]) => secret)
  .map(([name]) => name);
