// Which variable becomes which part of Settings.
import path from 'node:path';
import type { StoredLimits } from '../../db/registry/registry-schema.js';
import type { PoolLimits } from '../../db/driver/client.js';
import type { TokenKey } from '../auth/keyring.js';
import type { RedisSettings } from '../replicas/redis-settings.js';
import type { Settings } from './config-types.js';
import type { DatabaseConnections } from './database-connections.js';
import { valueOf, type ParsedVariables } from './parsed-variables.js';

/** What several variables give together. */
interface CombinedVariables {
  readonly databases: DatabaseConnections;
  readonly redis: RedisSettings | undefined;
  readonly tokenKeys: readonly TokenKey[] | undefined;
}

/** Largest body of a request (bytes). */
const BODY_LIMIT = 64 * 1024;

/** Longest run (ms) of a provisioner's statement. CREATE DATABASE copies a template, which takes longer than a request may. */
const PROVISIONER_STATEMENT_TIMEOUT = 60_000;

/** Settings from variables that were read without a problem. */
export function assembleSettings(
  values: ParsedVariables,
  { databases, redis, tokenKeys }: CombinedVariables,
): Settings {
  return {
    production: valueOf(values, 'NODE_ENV') === 'production',
    http: httpSettings(values),
    log: { level: valueOf(values, 'LOG_LEVEL'), pretty: process.stdout.isTTY },
    metrics: {
      host: valueOf(values, 'METRICS_HOST'),
      port: values.METRICS_PORT,
      tenants: valueOf(values, 'METRICS_TENANTS'),
    },
    dataDir: path.resolve(valueOf(values, 'DATA_DIR')),
    threadPoolSize: valueOf(values, 'UV_THREADPOOL_SIZE'),
    registry: {
      connection: databases.registry,
      owner: databases.owner,
      pool: poolLimits(values, valueOf(values, 'REGISTRY_POOL_MAX')),
    },
    redis,
    readCache: {
      on: valueOf(values, 'READ_CACHE') === 'on',
      ttl: valueOf(values, 'READ_CACHE_TTL_MS'),
      memoryBytes: valueOf(values, 'READ_CACHE_MEMORY_BYTES'),
      redisBytes: valueOf(values, 'READ_CACHE_REDIS_BYTES'),
    },
    tenants: tenantSettings(values, databases),
    auth: authSettings(values, tokenKeys),
    auditKeepDays: valueOf(values, 'AUDIT_KEEP_DAYS'),
    throttle: {
      account: valueOf(values, 'SIGN_IN_FAILURES_ACCOUNT'),
      address: valueOf(values, 'SIGN_IN_FAILURES_ADDRESS'),
      tenant: valueOf(values, 'SIGN_IN_FAILURES_TENANT'),
      forget: valueOf(values, 'SIGN_IN_FORGET_MS'),
    },
    encryptionKeys: values.ENCRYPTION_KEYS,
    firstOperator: values.OPERATOR_EMAIL
      ? { email: values.OPERATOR_EMAIL, password: values.OPERATOR_PASSWORD }
      : undefined,
    shutdown: { drain: valueOf(values, 'SHUTDOWN_DRAIN_MS'), timeout: valueOf(values, 'SHUTDOWN_TIMEOUT_MS') },
    connectionMaxAge: valueOf(values, 'CONNECTION_MAX_AGE_MS'),
  };
}

function httpSettings(values: ParsedVariables): Settings['http'] {
  const rateLimitMax = valueOf(values, 'RATE_LIMIT_MAX');
  return {
    host: valueOf(values, 'HOST'),
    port: valueOf(values, 'PORT'),
    apiPrefix: values.API_PREFIX ?? '',
    trustProxy: values.TRUST_PROXY ?? [],
    corsOrigins: values.CORS_ORIGINS ?? [],
    rateLimitMax,
    userRateLimitMax: values.USER_RATE_LIMIT_MAX ?? rateLimitMax,
    signInLimit: valueOf(values, 'SIGN_IN_LIMIT'),
    requestTimeout: valueOf(values, 'REQUEST_TIMEOUT_MS'),
    keepAliveTimeout: valueOf(values, 'KEEP_ALIVE_TIMEOUT_MS'),
    maxEventLoopDelay: valueOf(values, 'MAX_EVENT_LOOP_DELAY_MS'),
    bodyLimit: BODY_LIMIT,
  };
}

function tenantSettings(values: ParsedVariables, { provisioner }: DatabaseConnections): Settings['tenants'] {
  return {
    provisioner,
    provisionerPool: {
      ...poolLimits(values, valueOf(values, 'PROVISIONER_POOL_MAX')),
      timeout: PROVISIONER_STATEMENT_TIMEOUT,
    },
    pool: poolLimits(values, valueOf(values, 'POOL_MAX')),
    limits: withoutUndefined({
      requestsPerSecond: values.TENANT_REQUESTS_PER_SECOND,
      connections: values.TENANT_CONNECTIONS,
      statementTimeout: values.TENANT_STATEMENT_TIMEOUT_MS,
      users: values.TENANT_USERS,
      products: values.TENANT_PRODUCTS,
      storageBytes: values.TENANT_STORAGE_BYTES,
    }),
    closePoolAfter: valueOf(values, 'POOL_CLOSE_AFTER_MS'),
    registryOutageGrace: valueOf(values, 'REGISTRY_OUTAGE_GRACE_MS'),
    deletionGrace: valueOf(values, 'TENANT_DELETION_GRACE_MS'),
    preparedStatements: valueOf(values, 'PREPARED_STATEMENTS') === 'on',
    rotatePasswordsAfter: valueOf(values, 'DB_PASSWORD_ROTATE_AFTER_MS'),
    standbyDatabases: valueOf(values, 'STANDBY_DATABASES'),
    reconcileEvery: valueOf(values, 'RECONCILE_EVERY_MS'),
    clusterBudget: {
      tenants: valueOf(values, 'CLUSTER_CONNECTION_BUDGET'),
      reserve: valueOf(values, 'CLUSTER_CONNECTION_RESERVE'),
    },
    clusterHosts: values.CLUSTER_HOSTS ?? [],
  };
}

function authSettings(values: ParsedVariables, keys: readonly TokenKey[] | undefined): Settings['auth'] {
  return {
    keys,
    issuer: valueOf(values, 'JWT_ISSUER'),
    audience: valueOf(values, 'JWT_AUDIENCE'),
    accessTokenTtl: valueOf(values, 'ACCESS_TOKEN_TTL'),
    sessions: { idle: valueOf(values, 'SESSION_IDLE_TTL'), absolute: valueOf(values, 'SESSION_TTL') },
    refreshTokenKeys: values.REFRESH_TOKEN_KEYS ?? [],
    hashConcurrency: valueOf(values, 'HASH_CONCURRENCY'),
    passwordBudgets: {
      account: valueOf(values, 'PASSWORD_BUDGET_ACCOUNT'),
      tenant: valueOf(values, 'PASSWORD_BUDGET_TENANT'),
    },
  };
}

function poolLimits(values: ParsedVariables, max: number): Required<PoolLimits> {
  return {
    max,
    acquireTimeout: valueOf(values, 'POOL_ACQUIRE_TIMEOUT_MS'),
    connectTimeout: valueOf(values, 'CONNECT_TIMEOUT_MS'),
    timeout: valueOf(values, 'POOL_STATEMENT_TIMEOUT_MS'),
    idleTimeoutMillis: valueOf(values, 'POOL_IDLE_TIMEOUT_MS'),
  };
}

/** In `{ ...defaults, ...limits }` a key that is undefined would hide the default. */
function withoutUndefined(limits: { readonly [Key in keyof StoredLimits]: number | undefined }): StoredLimits {
  return Object.fromEntries(Object.entries(limits).filter(([, value]) => value !== undefined));
}
