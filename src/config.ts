// The environment, read once into one frozen, typed Config. This is the sole reader of process.env. Each variable stands
// here with its meaning, unit and default; docs/reference/configuration.md is the same table, and a test keeps the two equal.
import { KeyObject, X509Certificate } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import type { StoredLimits } from '../db/central/schema.js';
import type { ConnectionSettings, PoolLimits } from '../db/client.js';
import type { SessionLifetimes } from '../db/sessions.js';
import { isPem, keyOfSecret, parseTokenKeys, signingKey, type TokenKey } from './auth/keyring.js';
import type { PasswordBudgetLimits } from './auth/password-budgets.js';
import type { ThrottleLimits } from './auth/throttle.js';
import { parseRedisUrl, type RedisSettings } from './replicas/redis-settings.js';
import { withSecretFiles } from './secret-files.js';
import type { ClusterBudget } from './tenancy/clusters.js';
import { limitBounds } from './tenancy/limits.js';

/** Everything that the service can be told. Times in milliseconds unless the name says otherwise. */
export interface Config {
  readonly production: boolean;
  readonly http: {
    readonly host: string;
    readonly port: number;
    /** '' or '/v1': where the API stands; health and docs stay at the root. */
    readonly apiPrefix: string;
    /** Addresses of proxies whose X-Forwarded-For is believed; empty believes none. */
    readonly trustProxy: readonly string[];
    readonly corsOrigins: readonly string[];
    /** Requests a minute and address. */
    readonly rateLimitMax: number;
    /** Requests a minute of one user or operator. */
    readonly userRateLimitMax: number;
    /** Sign-in attempts a minute and address. */
    readonly signInLimit: number;
    readonly requestTimeout: number;
    readonly keepAliveTimeout: number;
    /** Bytes. */
    readonly bodyLimit: number;
  };
  readonly log: { readonly level: string; readonly pretty: boolean };
  readonly registry: { readonly connection: ConnectionSettings; readonly pool: Required<PoolLimits> };
  /** What replicas share counts and sessions in; undefined: each works for itself. */
  readonly redis: RedisSettings | undefined;
  readonly tenants: {
    /** The cluster that new tenants' databases are made on, entered as its provisioner. */
    readonly provisioner: ConnectionSettings;
    readonly provisionerPool: Required<PoolLimits>;
    readonly pool: Required<PoolLimits>;
    /** Of a tenant that has none of its own; what is absent is not limited. */
    readonly limits: StoredLimits;
    /** A tenant pool that nobody used for this long is closed. */
    readonly closePoolAfter: number;
    /** How long a known tenant is served while the registry does not answer. */
    readonly registryOutageGrace: number;
    readonly preparedStatements: boolean;
    /** From a tenant's deletion until it is purged. */
    readonly deletionGrace: number;
    /** A tenant's database password older than this is changed; 0 never. */
    readonly rotatePasswordsAfter: number;
    /** Standby databases to keep ready on the default cluster. */
    readonly standbyDatabases: number;
    /** Between two rounds of the reconciler. */
    readonly reconcileEvery: number;
    /** Connections to the default cluster; another one's row has its own. */
    readonly clusterBudget: ClusterBudget;
    /** Names, addresses and CIDRs that may be registered as clusters, besides the host of the default one. */
    readonly clusterHosts: readonly string[];
  };
  readonly auth: {
    /** Keys of access tokens: the first that can sign signs, all verify. */
    readonly keys: readonly TokenKey[];
    readonly issuer: string;
    readonly audience: string;
    /** Seconds. */
    readonly accessTokenTtl: number;
    readonly sessions: SessionLifetimes;
    /** Of refresh tokens, before those that ENCRYPTION_KEYS give: the first signs, all verify. */
    readonly refreshTokenKeys: readonly EncryptionKey[];
    readonly hashConcurrency: number;
    readonly passwordBudgets: PasswordBudgetLimits;
  };
  /** After how many failures sign-in asks for patience. */
  readonly throttle: ThrottleLimits;
  /** Keys for db_password at rest: the first encrypts, all decrypt. */
  readonly encryptionKeys: readonly EncryptionKey[];
  readonly shutdown: { readonly drain: number; readonly timeout: number };
  /** Of any connection to PostgreSQL, 20 % more or less. */
  readonly connectionMaxAge: number;
}

/** A 256-bit key and the id under which ciphertext names it. */
export interface EncryptionKey {
  readonly kid: string;
  readonly key: Buffer;
}

/** What the environment says, before the gaps that a first start may fill are filled. */
export interface Settings extends Omit<Config, 'registry' | 'tenants' | 'auth' | 'encryptionKeys'> {
  readonly dataDir: string;
  /** Threads of libuv, which reads it by itself. */
  readonly threadPoolSize: number;
  readonly registry: {
    readonly connection: ConnectionSettings | undefined;
    /** As its owner, for migrations; never part of the config that the app is built on. */
    readonly owner: ConnectionSettings | undefined;
    readonly pool: Required<PoolLimits>;
  };
  readonly tenants: Omit<Config['tenants'], 'provisioner'> & { readonly provisioner: ConnectionSettings | undefined };
  readonly auth: Omit<Config['auth'], 'keys'> & { readonly keys: readonly TokenKey[] | undefined };
  readonly encryptionKeys: readonly EncryptionKey[] | undefined;
  readonly firstOperator: { readonly email: string; readonly password: string | undefined } | undefined;
}

/** Everything that is wrong with the environment, in one readable list. */
export class ConfigError extends Error {
  constructor(readonly problems: readonly string[]) {
    super(['The configuration is not usable:', ...problems.map((problem) => `  - ${problem}`)].join('\n'));
    this.name = 'ConfigError';
  }
}

/** One environment variable. */
export interface Variable {
  readonly schema: z.ZodType;
  /** What counts where the variable is not set, as it would be written in the environment; '' where nothing does. */
  readonly default: string | DerivedDefault;
  readonly unit: string;
  readonly description: string;
  /** Whether a file can hold it instead, which the variable's name with `_FILE` names. */
  readonly secret?: true;
}

/** A default that depends on the machine or on NODE_ENV: documentation shows the rule and not what it gives here. */
export interface DerivedDefault {
  readonly rule: string;
  readonly derive: (production: boolean) => number;
}

const integer = (minimum: number, maximum: number): z.ZodType<number> =>
  z
    .string()
    .regex(/^\d{1,12}$/, 'must be a whole number')
    .transform(Number)
    .pipe(z.number().min(minimum, `must be at least ${minimum}`).max(maximum, `must be at most ${maximum}`));

/** Where a tenant may have no limit of its own: 0 sets none here either. */
const limit = ([minimum, maximum]: readonly [number, number]): z.ZodType<number | undefined> =>
  z
    .string()
    .regex(/^\d{1,16}$/, 'must be a whole number')
    .transform((text) => Number(text) || undefined)
    .refine(
      (value) => value === undefined || (value >= minimum && value <= maximum),
      `must be 0 for no limit, or from ${minimum} to ${maximum}`,
    );

const oneOf = <const T extends readonly [string, ...string[]]>(...values: T): z.ZodType<T[number]> =>
  z.enum(values, `must be one of ${values.join(', ')}`);

const list = z.string().transform((text) =>
  text
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== ''),
);

const MINUTE = 60_000;
const environments = ['development', 'test', 'production'] as const;
const levels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;
const cidr = z.union([z.cidrv4(), z.cidrv6(), z.ipv4(), z.ipv6()], 'must be addresses or CIDRs, separated by commas');
const hostName = /^[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*$/i;
const clusterHost = z
  .string()
  .refine(
    (text) => cidr.safeParse(text).success || (text.length <= 253 && hostName.test(text)),
    'must be names, addresses and CIDRs, separated by commas',
  );
const origin = z
  .string()
  .refine(
    (text) => URL.canParse(text) && new URL(text).origin === text,
    'must be origins such as https://app.example.com, separated by commas',
  );

/** Every variable that the service reads. */
export const variables = {
  NODE_ENV: {
    schema: oneOf(...environments),
    default: 'development',
    unit: environments.join(', '),
    description: 'With `production` nothing is invented: a missing or weak setting stops the start.',
  },
  HOST: { schema: z.string(), default: '127.0.0.1', unit: 'address', description: 'The address to listen on.' },
  PORT: {
    schema: integer(0, 65_535),
    default: '3000',
    unit: 'port',
    description: 'The port to listen on; 0 takes a free one.',
  },
  API_PREFIX: {
    schema: z.string().regex(/^(?:\/[a-z0-9-]+)+$/, 'must look like /v1'),
    default: '',
    unit: 'path',
    description: 'Where the API stands. Health, docs and the JWK Set stay at the root.',
  },
  LOG_LEVEL: {
    schema: oneOf(...levels),
    default: 'info',
    unit: levels.join(', '),
    description: 'The least severe level that is written.',
  },
  TRUST_PROXY: {
    schema: list.pipe(z.array(cidr)),
    default: '',
    unit: 'CIDRs',
    description: 'Proxies whose X-Forwarded-For is believed, separated by commas. Empty believes none.',
  },
  CORS_ORIGINS: {
    schema: list.pipe(z.array(origin)),
    default: '',
    unit: 'origins',
    description: 'Origins that browsers may call from, separated by commas. Empty allows none.',
  },
  RATE_LIMIT_MAX: {
    schema: integer(1, 1_000_000_000),
    default: '1000',
    unit: 'requests a minute',
    description:
      'Requests that one address may make, IPv6 by /64, on all replicas together; here and below ([limits.md](limits.md)).',
  },
  USER_RATE_LIMIT_MAX: {
    schema: integer(1, 1_000_000_000),
    default: '',
    unit: 'requests a minute',
    description:
      'Requests that one user or operator may make, from all addresses together. Not set: as many as RATE_LIMIT_MAX.',
  },
  SIGN_IN_LIMIT: {
    schema: integer(1, 1_000_000_000),
    default: '10',
    unit: 'attempts a minute',
    description: 'Sign-in attempts that one address may make.',
  },
  SIGN_IN_FAILURES_ACCOUNT: {
    schema: integer(1, 1_000_000_000),
    default: '5',
    unit: 'failures',
    description:
      'Failed sign-ins on one account that cost no waiting; each further one doubles the wait, from 1 s to 5 min.',
  },
  SIGN_IN_FAILURES_ADDRESS: {
    schema: integer(1, 1_000_000_000),
    default: '30',
    unit: 'failures',
    description: 'The same from one address, IPv6 by /64.',
  },
  SIGN_IN_FAILURES_TENANT: {
    schema: integer(1, 1_000_000_000),
    default: '300',
    unit: 'failures',
    description: 'The same within one tenant.',
  },
  SIGN_IN_FORGET_MS: {
    schema: integer(1_000, 86_400_000),
    default: '900000',
    unit: 'ms',
    description: 'Time in which as many failures are forgotten as cost no waiting, one after the other.',
  },
  PASSWORD_BUDGET_ACCOUNT: {
    schema: integer(1, 1_000_000_000),
    default: '20',
    unit: 'requests in 30 s',
    description:
      'Requests of one account that check or set a password, all of them at once if need be. Signing in is not counted.',
  },
  PASSWORD_BUDGET_TENANT: {
    schema: integer(1, 1_000_000_000),
    default: '60',
    unit: 'requests in 30 s',
    description: 'The same of all users of one tenant, and of all operators together.',
  },
  REQUEST_TIMEOUT_MS: {
    schema: integer(1_000, 600_000),
    default: '30000',
    unit: 'ms',
    description: 'Longest time for a whole request to arrive.',
  },
  KEEP_ALIVE_TIMEOUT_MS: {
    schema: integer(0, 600_000),
    default: '72000',
    unit: 'ms',
    description: 'How long an idle connection stays open: longer than the load balancer keeps it.',
  },
  DATABASE_URL: {
    schema: z.string(),
    default: '',
    unit: 'postgres:// URL',
    description:
      'The registry, entered as the role that reads and writes it. Not set (and not in production): an embedded PostgreSQL starts by itself.',
    secret: true,
  },
  MIGRATION_DATABASE_URL: {
    schema: z.string(),
    default: '',
    unit: 'postgres:// URL',
    description:
      'The registry, entered as its owner: for `npm run migrate` only, which gives the role of DATABASE_URL its rights. Not set: that role is the owner, and the audit is not protected from it.',
    secret: true,
  },
  TENANT_DATABASE_URL: {
    schema: z.string(),
    default: '',
    unit: 'postgres:// URL',
    description:
      "The server for tenant databases, entered as its provisioner. Not set: the registry's server and role.",
    secret: true,
  },
  DATABASE_TLS: {
    schema: oneOf('off', 'verify-full'),
    default: 'off',
    unit: 'off, verify-full',
    description: 'TLS to PostgreSQL: `verify-full` checks certificate and host name. Production wants it said.',
  },
  DATABASE_CA_FILE: {
    schema: z.string(),
    default: '',
    unit: 'file',
    description: "The CA certificates (PEM) to trust with `verify-full`; empty takes Node's own list.",
  },
  REDIS_URL: {
    schema: z.string(),
    default: '',
    unit: 'redis:// or rediss:// URL',
    description:
      'The Redis or Valkey that replicas share ([redis.md](redis.md)); `rediss://` is TLS. It may be away at any time. Not set: each process works for itself. Production wants a password in it.',
    secret: true,
  },
  REDIS_CA_FILE: {
    schema: z.string(),
    default: '',
    unit: 'file',
    description: "The CA certificates (PEM) to trust with `rediss://`; empty takes Node's own list.",
  },
  REDIS_TIMEOUT_MS: {
    schema: integer(10, 5_000),
    default: '250',
    unit: 'ms',
    description:
      'Longest wait for an answer of Redis. Without one by then Redis counts as away, until it answers again.',
  },
  REGISTRY_POOL_MAX: {
    schema: integer(2, 1_000),
    default: '10',
    unit: 'connections',
    description: 'Connections of this process to the registry.',
  },
  PROVISIONER_POOL_MAX: {
    schema: integer(1, 100),
    default: '3',
    unit: 'connections',
    description: 'Connections of this process for creating and dropping tenant databases.',
  },
  POOL_MAX: {
    schema: integer(1, 1_000),
    default: '5',
    unit: 'connections',
    description: "Connections of one tenant pool, where the tenant's `poolOptions.max` does not say otherwise.",
  },
  POOL_ACQUIRE_TIMEOUT_MS: {
    schema: integer(100, 60_000),
    default: '5000',
    unit: 'ms',
    description: 'Longest wait for a connection; `poolOptions.acquireTimeout`.',
  },
  CONNECT_TIMEOUT_MS: {
    schema: integer(500, 60_000),
    default: '4000',
    unit: 'ms',
    description:
      'Longest time that opening one connection to a PostgreSQL server takes: TCP, TLS, authentication and the first query together. About 7 round trips, and never more than `acquireTimeout`.',
  },
  POOL_STATEMENT_TIMEOUT_MS: {
    schema: integer(100, 600_000),
    default: '15000',
    unit: 'ms',
    description: 'Longest run of a statement; `poolOptions.timeout`.',
  },
  POOL_IDLE_TIMEOUT_MS: {
    schema: integer(100, 3_600_000),
    default: '30000',
    unit: 'ms',
    description: 'An idle connection closes after this time; `poolOptions.idleTimeoutMillis`.',
  },
  CONNECTION_MAX_AGE_MS: {
    schema: integer(1_000, 86_400_000),
    default: '1200000',
    unit: 'ms',
    description:
      'A connection to PostgreSQL that is older is closed when it is unused, 20 % earlier or later by chance ([pools.md](pools.md#after-a-failover)).',
  },
  POOL_CLOSE_AFTER_MS: {
    schema: integer(100, 86_400_000),
    default: '300000',
    unit: 'ms',
    description: 'A tenant pool that nobody used for this long is closed.',
  },
  TENANT_DELETION_GRACE_MS: {
    schema: integer(0, 31_536_000_000),
    default: '604800000',
    unit: 'ms',
    description:
      'How long a deleted tenant can be restored: then it is purged, with its database ([lifecycle.md](lifecycle.md)).',
  },
  TENANT_REQUESTS_PER_SECOND: {
    schema: limit(limitBounds.requestsPerSecond),
    default: '0',
    unit: 'requests a second',
    description:
      'Limit of each tenant, where its `limits.requestsPerSecond` does not say otherwise; 0 is none, here and below ([limits.md](limits.md)).',
  },
  TENANT_CONNECTIONS: {
    schema: limit(limitBounds.connections),
    default: '0',
    unit: 'connections',
    description: 'Connections of one tenant in all processes together; `limits.connections`.',
  },
  TENANT_STATEMENT_TIMEOUT_MS: {
    schema: limit(limitBounds.statementTimeout),
    default: '0',
    unit: 'ms',
    description: 'Longest run of a statement, whatever `poolOptions.timeout` says; `limits.statementTimeout`.',
  },
  TENANT_USERS: {
    schema: limit(limitBounds.users),
    default: '0',
    unit: 'users',
    description: 'Users of one tenant; `limits.users`.',
  },
  TENANT_PRODUCTS: {
    schema: limit(limitBounds.products),
    default: '0',
    unit: 'products',
    description: 'Products of one tenant; `limits.products`.',
  },
  TENANT_STORAGE_BYTES: {
    schema: limit(limitBounds.storageBytes),
    default: '0',
    unit: 'bytes',
    description: "Size of one tenant's database, beyond which nothing is written; `limits.storageBytes`.",
  },
  REGISTRY_OUTAGE_GRACE_MS: {
    schema: integer(0, 86_400_000),
    default: '300000',
    unit: 'ms',
    description: 'How long tenants that are already known are served while the registry does not answer.',
  },
  CLUSTER_CONNECTION_BUDGET: {
    schema: integer(2, 100_000),
    default: '90',
    unit: 'connections',
    description:
      'Connections that the tenant pools of all replicas together may hold to one PostgreSQL server. With CLUSTER_CONNECTION_RESERVE, and one for each replica, below its `max_connections`.',
  },
  CLUSTER_CONNECTION_RESERVE: {
    schema: integer(2, 1_000),
    default: '6',
    unit: 'connections',
    description:
      'Connections of all replicas to one PostgreSQL server for making, changing and removing tenants, besides the budget.',
  },
  CLUSTER_HOSTS: {
    schema: list.pipe(z.array(clusterHost)),
    default: '',
    unit: 'hosts',
    description:
      'Names, addresses and CIDRs that may be registered as clusters, separated by commas, besides the host of TENANT_DATABASE_URL ([clusters.md](clusters.md)).',
  },
  STANDBY_DATABASES: {
    schema: integer(0, 1_000),
    default: '2',
    unit: 'databases',
    description:
      'Databases kept ready for the next tenants on the default cluster ([provisioning.md](provisioning.md)). Each takes some 8 MB.',
  },
  RECONCILE_EVERY_MS: {
    schema: integer(100, 3_600_000),
    default: '15000',
    unit: 'ms',
    description: 'How often one replica looks for what a crash left half-made, and finishes or undoes it.',
  },
  PREPARED_STATEMENTS: {
    schema: oneOf('on', 'off'),
    default: 'on',
    unit: 'on, off',
    description: 'Named prepared statements; `off` for a pooler that cannot track them.',
  },
  JWT_KEYS: {
    schema: z.string().transform(parseTokenKeys),
    default: '',
    unit: 'kid:base64,…',
    description:
      'Keys of access tokens, Ed25519 or P-256 in DER: the first private one signs, all verify ([keys.md](keys.md)). Neither this nor JWT_SECRET set (and not in production): made on the first start.',
    secret: true,
  },
  JWT_SECRET: {
    schema: z
      .string()
      .min(32, 'must have at least 32 characters')
      .refine((text) => !isPem(text), 'must be no key in PEM: JWT_KEYS takes keys'),
    default: '',
    unit: 'text',
    description:
      'A key of access tokens by HS256, behind those of JWT_KEYS: at least 32 characters, random. Signs where JWT_KEYS has no private key.',
    secret: true,
  },
  JWT_ISSUER: {
    schema: z.string(),
    default: 'tenantry',
    unit: 'text',
    description: 'The `iss` claim, given and demanded.',
  },
  JWT_AUDIENCE: {
    schema: z.string(),
    default: 'tenantry',
    unit: 'text',
    description: 'The `aud` claim, given and demanded.',
  },
  ACCESS_TOKEN_TTL: {
    schema: integer(10, 86_400),
    default: '900',
    unit: 's',
    description: 'How long an access token is valid.',
  },
  SESSION_IDLE_TTL: {
    schema: integer(60, 31_536_000),
    default: '1209600',
    unit: 's',
    description: 'A session ends when it is not refreshed for this long.',
  },
  SESSION_TTL: {
    schema: integer(60, 31_536_000),
    default: '7776000',
    unit: 's',
    description: 'A session ends this long after its sign-in, however often it is refreshed.',
  },
  REFRESH_TOKEN_KEYS: {
    schema: z.string().transform(parseKeyring),
    default: '',
    unit: 'kid:base64,…',
    description:
      'Keys of 32 bytes for refresh tokens; the first signs, all verify ([keys.md](keys.md#keys-of-refresh-tokens)). Not set: derived from ENCRYPTION_KEYS.',
    secret: true,
  },
  HASH_CONCURRENCY: {
    schema: integer(1, 64),
    default: { rule: 'the number of cores, at most 2', derive: () => Math.min(availableParallelism(), 2) },
    unit: 'hashes',
    description:
      'Passwords hashed at once. Hashing shares the threads of libuv with DNS and files: raise UV_THREADPOOL_SIZE with it.',
  },
  UV_THREADPOOL_SIZE: {
    schema: integer(1, 1_024),
    default: '4',
    unit: 'threads',
    description: 'Threads of libuv, for hashing, DNS and files. On Linux they have a lower priority than requests.',
  },
  ENCRYPTION_KEYS: {
    schema: z.string().transform(parseKeyring),
    default: '',
    unit: 'kid:base64,…',
    description:
      'Keys of 32 bytes that encrypt database passwords at rest; the first is the current one. Not set (and not in production): made on the first start.',
    secret: true,
  },
  DB_PASSWORD_ROTATE_AFTER_MS: {
    schema: integer(0, 315_360_000_000),
    default: '0',
    unit: 'ms',
    description:
      "A tenant's database password that is older is changed by itself ([keys.md](keys.md)); 0 leaves that to operators.",
  },
  OPERATOR_EMAIL: {
    schema: z.email('must be an e-mail address').toLowerCase(),
    default: '',
    unit: 'address',
    description:
      'The first operator, made when the registry has none. Not set (and not in production): operator@tenantry.local.',
  },
  OPERATOR_PASSWORD: {
    schema: z.string().min(12, 'must have at least 12 characters').max(200),
    default: '',
    unit: 'text',
    description:
      "The first operator's password. Not set (and not in production): made on the first start and printed once.",
    secret: true,
  },
  DATA_DIR: {
    schema: z.string(),
    default: '.data',
    unit: 'folder',
    description: 'Where the embedded PostgreSQL and the secrets made on the first start are kept.',
  },
  SHUTDOWN_DRAIN_MS: {
    schema: integer(0, 600_000),
    default: { rule: '5000 in production, otherwise 0', derive: (production) => (production ? 5_000 : 0) },
    unit: 'ms',
    description: 'How long `/health/ready` says no before the server stops accepting.',
  },
  SHUTDOWN_TIMEOUT_MS: {
    schema: integer(100, 600_000),
    default: '30000',
    unit: 'ms',
    description: 'Longest wait for running requests on shutdown.',
  },
} as const satisfies Record<string, Variable>;

/** The names of those that a file can hold. */
export const secretVariables = Object.entries<Variable>(variables)
  .filter(([, { secret }]) => secret)
  .map(([name]) => name);

type Name = keyof typeof variables;
type Values = { [K in Name]: z.output<(typeof variables)[K]['schema']> | undefined };

/** Bytes of a request body, at most. */
const BODY_LIMIT = 64 * 1024;

/** The process's environment. */
export function processEnvironment(): NodeJS.ProcessEnv {
  return process.env;
}

/**
 * Reads and checks the environment. An empty variable counts as not set.
 *
 * @throws ConfigError with everything that is wrong, not only the first thing
 */
export function readSettings(given: NodeJS.ProcessEnv): Settings {
  const problems: string[] = [];
  const env = withSecretFiles(given, secretVariables, problems);
  const values = parseVariables(env, problems);
  const value = <K extends Name>(name: K): NonNullable<Values[K]> =>
    (values[name] ?? defaults[name]) as NonNullable<Values[K]>;
  const production = value('NODE_ENV') === 'production';

  const tls = value('DATABASE_TLS') === 'verify-full' && readCa('DATABASE_CA_FILE', values.DATABASE_CA_FILE, problems);
  if (!tls && values.DATABASE_CA_FILE)
    problems.push('DATABASE_CA_FILE is set and DATABASE_TLS is off: set DATABASE_TLS=verify-full');
  const registry = parseDatabaseUrl('DATABASE_URL', values.DATABASE_URL, tls, problems);
  const owner = parseDatabaseUrl('MIGRATION_DATABASE_URL', values.MIGRATION_DATABASE_URL, tls, problems);
  const provisioner = parseDatabaseUrl('TENANT_DATABASE_URL', values.TENANT_DATABASE_URL, tls, problems);
  for (const name of ['TENANT_DATABASE_URL', 'MIGRATION_DATABASE_URL']) {
    if (env[name] && !env['DATABASE_URL'])
      problems.push(`${name} is set and DATABASE_URL is not: set both, or neither`);
  }
  const redis = parseRedisUrl(
    values.REDIS_URL,
    { ...readCa('REDIS_CA_FILE', values.REDIS_CA_FILE, problems), timeout: value('REDIS_TIMEOUT_MS'), production },
    problems,
  );
  if (env['OPERATOR_PASSWORD'] && !env['OPERATOR_EMAIL'])
    problems.push('OPERATOR_PASSWORD is set and OPERATOR_EMAIL is not: set both, or neither');
  if (value('SESSION_IDLE_TTL') < value('ACCESS_TOKEN_TTL'))
    problems.push('SESSION_IDLE_TTL is below ACCESS_TOKEN_TTL: a session would end before its access token');
  if (value('SESSION_TTL') < value('SESSION_IDLE_TTL'))
    problems.push('SESSION_TTL is below SESSION_IDLE_TTL: no session could be idle for that long');
  const tokenKeys = keysOf(values, problems);
  if (production) checkProduction(env, values, problems);
  if (problems.length > 0) throw new ConfigError(problems);

  const acquireTimeout = value('POOL_ACQUIRE_TIMEOUT_MS');
  const pool = (max: number): Required<PoolLimits> => ({
    max,
    acquireTimeout,
    connectTimeout: value('CONNECT_TIMEOUT_MS'),
    timeout: value('POOL_STATEMENT_TIMEOUT_MS'),
    idleTimeoutMillis: value('POOL_IDLE_TIMEOUT_MS'),
  });
  return deepFreeze<Settings>({
    production,
    http: {
      host: value('HOST'),
      port: value('PORT'),
      apiPrefix: values.API_PREFIX ?? '',
      trustProxy: values.TRUST_PROXY ?? [],
      corsOrigins: values.CORS_ORIGINS ?? [],
      rateLimitMax: value('RATE_LIMIT_MAX'),
      userRateLimitMax: values.USER_RATE_LIMIT_MAX ?? value('RATE_LIMIT_MAX'),
      signInLimit: value('SIGN_IN_LIMIT'),
      requestTimeout: value('REQUEST_TIMEOUT_MS'),
      keepAliveTimeout: value('KEEP_ALIVE_TIMEOUT_MS'),
      bodyLimit: BODY_LIMIT,
    },
    log: { level: value('LOG_LEVEL'), pretty: process.stdout.isTTY },
    dataDir: path.resolve(value('DATA_DIR')),
    threadPoolSize: value('UV_THREADPOOL_SIZE'),
    registry: { connection: registry, owner, pool: pool(value('REGISTRY_POOL_MAX')) },
    redis,
    tenants: {
      provisioner: provisioner ?? registry,
      // Copying a template takes as long as the disk does: it is not held to a request's bound.
      provisionerPool: { ...pool(value('PROVISIONER_POOL_MAX')), timeout: MINUTE },
      pool: pool(value('POOL_MAX')),
      limits: withoutGaps({
        requestsPerSecond: values.TENANT_REQUESTS_PER_SECOND,
        connections: values.TENANT_CONNECTIONS,
        statementTimeout: values.TENANT_STATEMENT_TIMEOUT_MS,
        users: values.TENANT_USERS,
        products: values.TENANT_PRODUCTS,
        storageBytes: values.TENANT_STORAGE_BYTES,
      }),
      closePoolAfter: value('POOL_CLOSE_AFTER_MS'),
      registryOutageGrace: value('REGISTRY_OUTAGE_GRACE_MS'),
      deletionGrace: value('TENANT_DELETION_GRACE_MS'),
      preparedStatements: value('PREPARED_STATEMENTS') === 'on',
      rotatePasswordsAfter: value('DB_PASSWORD_ROTATE_AFTER_MS'),
      standbyDatabases: value('STANDBY_DATABASES'),
      reconcileEvery: value('RECONCILE_EVERY_MS'),
      clusterBudget: {
        tenants: value('CLUSTER_CONNECTION_BUDGET'),
        reserve: value('CLUSTER_CONNECTION_RESERVE'),
      },
      clusterHosts: values.CLUSTER_HOSTS ?? [],
    },
    auth: {
      keys: tokenKeys,
      issuer: value('JWT_ISSUER'),
      audience: value('JWT_AUDIENCE'),
      accessTokenTtl: value('ACCESS_TOKEN_TTL'),
      sessions: { idle: value('SESSION_IDLE_TTL'), absolute: value('SESSION_TTL') },
      refreshTokenKeys: values.REFRESH_TOKEN_KEYS ?? [],
      hashConcurrency: value('HASH_CONCURRENCY'),
      passwordBudgets: { account: value('PASSWORD_BUDGET_ACCOUNT'), tenant: value('PASSWORD_BUDGET_TENANT') },
    },
    throttle: {
      account: value('SIGN_IN_FAILURES_ACCOUNT'),
      address: value('SIGN_IN_FAILURES_ADDRESS'),
      tenant: value('SIGN_IN_FAILURES_TENANT'),
      forget: value('SIGN_IN_FORGET_MS'),
    },
    encryptionKeys: values.ENCRYPTION_KEYS,
    firstOperator: values.OPERATOR_EMAIL
      ? { email: values.OPERATOR_EMAIL, password: values.OPERATOR_PASSWORD }
      : undefined,
    shutdown: {
      drain: value('SHUTDOWN_DRAIN_MS'),
      timeout: value('SHUTDOWN_TIMEOUT_MS'),
    },
    connectionMaxAge: value('CONNECTION_MAX_AGE_MS'),
  });
}

/** The parts that a first start fills in where the environment leaves them open. */
export interface FilledGaps {
  readonly registry: ConnectionSettings;
  readonly provisioner: ConnectionSettings;
  readonly tokenKeys: readonly TokenKey[];
  readonly encryptionKeys: readonly EncryptionKey[];
}

/** Settings with every gap filled. */
export function completeConfig(settings: Settings, gaps: FilledGaps): Config {
  const { production, http, log, redis, throttle, shutdown, connectionMaxAge } = settings;
  return deepFreeze<Config>({
    production,
    http,
    log,
    redis,
    throttle,
    shutdown,
    connectionMaxAge,
    registry: { pool: settings.registry.pool, connection: gaps.registry },
    tenants: { ...settings.tenants, provisioner: gaps.provisioner },
    auth: { ...settings.auth, keys: gaps.tokenKeys },
    encryptionKeys: gaps.encryptionKeys,
  });
}

/**
 * Keys in the form of ENCRYPTION_KEYS, `kid:base64,kid:base64`.
 *
 * @throws Error (or a zod issue, inside a schema) where an id repeats or a key has not 32 bytes
 */
export function parseKeyring(text: string, ctx?: { addIssue(message: string): void }): readonly EncryptionKey[] {
  const keys = text.split(',').map((entry) => {
    const [kid = '', encoded = ''] = entry.trim().split(':', 2);
    return { kid, key: Buffer.from(encoded, 'base64') };
  });
  const valid = keys.every(({ kid, key }) => /^[\w-]{1,32}$/.test(kid) && key.length === 32);
  if (!valid || new Set(keys.map(({ kid }) => kid)).size !== keys.length) {
    const message = 'must be kid:base64 pairs with different ids and keys of 32 bytes (openssl rand -base64 32)';
    if (!ctx) throw new Error(`ENCRYPTION_KEYS ${message}`);
    ctx.addIssue(message);
  }
  return keys;
}

/** The documented defaults, parsed: what stands in the table is what runs. */
const defaults = parseVariables({}, []);

function parseVariables(env: NodeJS.ProcessEnv, problems: string[]): Values {
  const values: Partial<Record<Name, unknown>> = {};
  const production = env['NODE_ENV'] === 'production';
  for (const [name, variable] of Object.entries(variables) as [Name, Variable][]) {
    const byDefault =
      typeof variable.default === 'string' ? variable.default : String(variable.default.derive(production));
    const text = env[name] === undefined || env[name] === '' ? byDefault : env[name];
    if (text === '') continue;
    const result = variable.schema.safeParse(text);
    if (result.success) values[name] = result.data;
    // The value itself is not repeated: it may be a secret.
    else problems.push(...new Set(result.error.issues.map((issue) => `${name} ${issue.message}`)));
  }
  return values as Values;
}

function checkProduction(env: NodeJS.ProcessEnv, values: Values, problems: string[]): void {
  const required: Partial<Record<Name, string>> = {
    DATABASE_URL: 'the registry has no embedded stand-in in production',
    DATABASE_TLS: 'say verify-full, or off where the network is private',
    ...(!env['JWT_SECRET'] && {
      JWT_KEYS: 'make one with: echo "k1:$(openssl genpkey -algorithm ed25519 -outform DER | openssl base64 -A)"',
    }),
    ENCRYPTION_KEYS: 'make one with: echo "k1:$(openssl rand -base64 32)"',
  };
  for (const [name, hint] of Object.entries(required)) {
    if (!env[name]) problems.push(`${name} is not set (${hint})`);
  }
  const secret = values.JWT_SECRET;
  if (secret && new Set(secret).size < 10) problems.push('JWT_SECRET is weak: make one with: openssl rand -base64 48');
  for (const { kid, alg, verifies } of values.JWT_KEYS ?? []) {
    if (alg === 'HS256' && new Set(verifies.export()).size < 10)
      problems.push(`JWT_KEYS: the secret ${kid} is weak: make one with: openssl rand -base64 48`);
  }
  for (const name of ['ENCRYPTION_KEYS', 'REFRESH_TOKEN_KEYS'] as const) {
    for (const { kid, key } of values[name] ?? []) {
      if (new Set(key).size < 10)
        problems.push(`${name}: the key ${kid} is weak: make one with: openssl rand -base64 32`);
    }
  }
  if (env['OPERATOR_EMAIL'] && !env['OPERATOR_PASSWORD'])
    problems.push('OPERATOR_EMAIL is set and OPERATOR_PASSWORD is not: set both, or neither');
}

/** JWT_KEYS and, behind them, JWT_SECRET; undefined where neither is set. */
function keysOf({ JWT_KEYS, JWT_SECRET }: Values, problems: string[]): readonly TokenKey[] | undefined {
  if (!JWT_KEYS && !JWT_SECRET) return undefined;
  const keys = [...(JWT_KEYS ?? []), ...(JWT_SECRET ? [keyOfSecret(JWT_SECRET)] : [])];
  if (!signingKey(keys)) problems.push('JWT_KEYS has public keys only: nothing could sign');
  return keys;
}

/**
 * Takes a postgres:// URL apart. Options in its query are refused: pg would let some of them override the host or the
 * TLS mode behind the configuration's back.
 */
function parseDatabaseUrl(
  name: string,
  text: string | undefined,
  tls: ConnectionSettings['tls'],
  problems: string[],
): ConnectionSettings | undefined {
  if (text === undefined) return undefined;
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const usable =
    url && ['postgres:', 'postgresql:'].includes(url.protocol) && url.hostname !== '' && url.pathname.length > 1;
  // A "#" would cut the database's name short.
  if (!usable || url.hash !== '') {
    problems.push(`${name} must be a URL such as postgres://user:password@host:5432/database`);
    return undefined;
  }
  // Without them pg would take PGUSER and PGPASSWORD of whoever started the process.
  if (url.username === '' || url.password === '') problems.push(`${name} must hold a user and a password`);
  if (url.search !== '')
    problems.push(`${name} must have no options behind "?": TLS is set with DATABASE_TLS and DATABASE_CA_FILE`);
  try {
    return {
      host: url.hostname.replace(/^\[(.*)\]$/, '$1'),
      port: url.port === '' ? 5432 : Number(url.port),
      database: decodeURIComponent(url.pathname.slice(1)),
      user: decodeURIComponent(url.username),
      password: decodeURIComponent(url.password),
      tls,
    };
  } catch {
    problems.push(`${name} has a "%" in its user, password or database that must be written as %25`);
    return undefined;
  }
}

function readCa(name: Name, file: string | undefined, problems: string[]): { ca?: string } {
  if (file === undefined) return {};
  let ca: string;
  try {
    ca = readFileSync(file, 'utf8');
  } catch {
    problems.push(`${name} cannot be read: ${file}`);
    return {};
  }
  try {
    // TLS takes text without a certificate in silence, and then trusts no server.
    new X509Certificate(ca);
  } catch {
    problems.push(`${name} holds no certificate in PEM: ${file}`);
  }
  return { ca };
}

/** Laid over something else, a key that is undefined would hide what is below. */
function withoutGaps(limits: { readonly [Key in keyof StoredLimits]: number | undefined }): StoredLimits {
  return Object.fromEntries(Object.entries(limits).filter(([, value]) => value !== undefined));
}

function deepFreeze<T extends object>(value: T): T {
  for (const child of Object.values(value) as unknown[]) {
    // A Buffer cannot be frozen. A key never changes, and keeps what it was asked of itself.
    const leaf = typeof child !== 'object' || child === null || Buffer.isBuffer(child) || child instanceof KeyObject;
    if (!leaf) deepFreeze(child);
  }
  return Object.freeze(value);
}
