// src/config: which environments are accepted, their settings, and the list of problems with the others.
import { KeyObject } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { keyOfSecret, makeTokenKey, parseTokenKeys, type TokenKey } from '../../src/auth/keyring.js';
import {
  completeConfig,
  ConfigError,
  parseKeyring,
  readSettings,
  variables,
  type Settings,
} from '../../src/config/index.js';
import { selfSigned } from '../support/certificate.js';

type Environment = Readonly<Record<string, string>>;

const KEY = Buffer.from(Array.from({ length: 32 }, (_, index) => index * 7)).toString('base64');
const OTHER_KEY = Buffer.from(Array.from({ length: 32 }, (_, index) => 255 - index)).toString('base64');
const SECRET = 'a-secret-with-many-different-characters';
const TOKEN_KEY = makeTokenKey('t1');
/** The public half of TOKEN_KEY. */
const PUBLIC_KEY = publicHalf(TOKEN_KEY);
const URL_OF_REGISTRY = 'postgres://owner:pw@db.internal:5433/registry';

const production: Environment = {
  NODE_ENV: 'production',
  DATABASE_URL: URL_OF_REGISTRY,
  DATABASE_TLS: 'off',
  JWT_KEYS: TOKEN_KEY,
  ENCRYPTION_KEYS: `k1:${KEY}`,
};

function publicHalf(text: string): string {
  const [key] = parseTokenKeys(text);
  return `${key?.kid ?? ''}:${key?.verifies.export({ type: 'spki', format: 'der' }).toString('base64') ?? ''}`;
}

/** The properties of keys that differ and are no secret. */
const shown = (keys: readonly TokenKey[] | undefined): unknown =>
  keys?.map(({ kid, alg, signs }) => [kid, alg, signs?.type ?? 'only verifies']);

/** The problems of an environment; empty if there are none. */
function problemsOf(env: Environment): readonly string[] {
  try {
    readSettings(env);
    return [];
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return error.problems;
  }
}

const without = (env: Environment, name: string): Environment =>
  Object.fromEntries(Object.entries(env).filter(([key]) => key !== name));

/** Whole numbers: name, smallest, largest, and the setting. */
const integers: readonly (readonly [string, number, number, (settings: Settings) => number])[] = [
  ['PORT', 0, 65_535, ({ http }) => http.port],
  ['METRICS_PORT', 0, 65_535, ({ metrics }) => metrics.port ?? -1],
  ['METRICS_TENANTS', 0, 200, ({ metrics }) => metrics.tenants],
  ['RATE_LIMIT_MAX', 1, 1_000_000_000, ({ http }) => http.rateLimitMax],
  ['USER_RATE_LIMIT_MAX', 1, 1_000_000_000, ({ http }) => http.userRateLimitMax],
  ['SIGN_IN_LIMIT', 1, 1_000_000_000, ({ http }) => http.signInLimit],
  ['SIGN_IN_FAILURES_ACCOUNT', 1, 1_000_000_000, ({ throttle }) => throttle.account],
  ['SIGN_IN_FAILURES_ADDRESS', 1, 1_000_000_000, ({ throttle }) => throttle.address],
  ['SIGN_IN_FAILURES_TENANT', 1, 1_000_000_000, ({ throttle }) => throttle.tenant],
  ['SIGN_IN_FORGET_MS', 1_000, 86_400_000, ({ throttle }) => throttle.forget],
  ['PASSWORD_BUDGET_ACCOUNT', 1, 1_000_000_000, ({ auth }) => auth.passwordBudgets.account],
  ['PASSWORD_BUDGET_TENANT', 1, 1_000_000_000, ({ auth }) => auth.passwordBudgets.tenant],
  ['REQUEST_TIMEOUT_MS', 1_000, 600_000, ({ http }) => http.requestTimeout],
  ['KEEP_ALIVE_TIMEOUT_MS', 0, 600_000, ({ http }) => http.keepAliveTimeout],
  ['MAX_EVENT_LOOP_DELAY_MS', 0, 60_000, ({ http }) => http.maxEventLoopDelay],
  ['READ_CACHE_TTL_MS', 1_000, 600_000, ({ readCache }) => readCache.ttl],
  ['READ_CACHE_MEMORY_BYTES', 1_048_576, 17_179_869_184, ({ readCache }) => readCache.memoryBytes],
  ['READ_CACHE_REDIS_BYTES', 1_048_576, 274_877_906_944, ({ readCache }) => readCache.redisBytes],
  ['REDIS_TIMEOUT_MS', 10, 5_000, ({ redis }) => redis?.timeout ?? 0],
  ['REGISTRY_POOL_MAX', 2, 1_000, ({ registry }) => registry.pool.max],
  ['PROVISIONER_POOL_MAX', 1, 100, ({ tenants }) => tenants.provisionerPool.max],
  ['STANDBY_DATABASES', 0, 1_000, ({ tenants }) => tenants.standbyDatabases],
  ['RECONCILE_EVERY_MS', 100, 3_600_000, ({ tenants }) => tenants.reconcileEvery],
  ['POOL_MAX', 1, 1_000, ({ tenants }) => tenants.pool.max],
  ['POOL_ACQUIRE_TIMEOUT_MS', 100, 60_000, ({ tenants }) => tenants.pool.acquireTimeout],
  ['CONNECT_TIMEOUT_MS', 500, 60_000, ({ tenants }) => tenants.pool.connectTimeout],
  ['POOL_STATEMENT_TIMEOUT_MS', 100, 600_000, ({ tenants }) => tenants.pool.timeout],
  ['POOL_IDLE_TIMEOUT_MS', 100, 3_600_000, ({ tenants }) => tenants.pool.idleTimeoutMillis],
  ['CONNECTION_MAX_AGE_MS', 1_000, 86_400_000, ({ connectionMaxAge }) => connectionMaxAge],
  ['POOL_CLOSE_AFTER_MS', 100, 86_400_000, ({ tenants }) => tenants.closePoolAfter],
  ['TENANT_DELETION_GRACE_MS', 0, 31_536_000_000, ({ tenants }) => tenants.deletionGrace],
  ['REGISTRY_OUTAGE_GRACE_MS', 0, 86_400_000, ({ tenants }) => tenants.registryOutageGrace],
  ['CLUSTER_CONNECTION_BUDGET', 2, 100_000, ({ tenants }) => tenants.clusterBudget.tenants],
  ['CLUSTER_CONNECTION_RESERVE', 2, 1_000, ({ tenants }) => tenants.clusterBudget.reserve],
  ['AUDIT_KEEP_DAYS', 0, 36_500, ({ auditKeepDays }) => auditKeepDays],
  ['DB_PASSWORD_ROTATE_AFTER_MS', 0, 315_360_000_000, ({ tenants }) => tenants.rotatePasswordsAfter],
  ['ACCESS_TOKEN_TTL', 10, 86_400, ({ auth }) => auth.accessTokenTtl],
  ['SESSION_IDLE_TTL', 60, 31_536_000, ({ auth }) => auth.sessions.idle],
  ['SESSION_TTL', 60, 31_536_000, ({ auth }) => auth.sessions.absolute],
  ['HASH_CONCURRENCY', 1, 64, ({ auth }) => auth.hashConcurrency],
  ['UV_THREADPOOL_SIZE', 1, 1_024, ({ threadPoolSize }) => threadPoolSize],
  ['SHUTDOWN_DRAIN_MS', 0, 600_000, ({ shutdown }) => shutdown.drain],
  ['SHUTDOWN_TIMEOUT_MS', 100, 600_000, ({ shutdown }) => shutdown.timeout],
];

/** Variables that must be set beside another, because its value is bounded by them or has no meaning without them. */
const room: Readonly<Record<string, Environment>> = {
  SESSION_IDLE_TTL: { ACCESS_TOKEN_TTL: '60', SESSION_TTL: '31536000' },
  SESSION_TTL: { ACCESS_TOKEN_TTL: '60', SESSION_IDLE_TTL: '60' },
  REDIS_TIMEOUT_MS: { REDIS_URL: 'redis://cache' },
};

/** All others: name, accepted values, their settings, and refused values with the expected reason. */
const others: readonly {
  name: string;
  good: readonly (readonly [text: string, value: unknown])[];
  read: (settings: Settings) => unknown;
  bad: readonly string[];
  reason?: string;
  alongside?: Environment;
}[] = [
  {
    name: 'NODE_ENV',
    good: [
      ['test', false],
      ['development', false],
    ],
    read: (settings) => settings.production,
    bad: ['prod', 'Production', 'staging'],
    reason: 'must be one of development, test, production',
  },
  { name: 'HOST', good: [['0.0.0.0', '0.0.0.0']], read: ({ http }) => http.host, bad: [] },
  {
    name: 'API_PREFIX',
    good: [
      ['/v1', '/v1'],
      ['/api/v2-beta', '/api/v2-beta'],
    ],
    read: ({ http }) => http.apiPrefix,
    bad: ['v1', '/', '/v1/', '//v1', '/V1', '/v1?x', '/:tenant'],
    reason: 'must look like /v1',
  },
  {
    name: 'LOG_LEVEL',
    good: [
      ['silent', 'silent'],
      ['trace', 'trace'],
    ],
    read: ({ log }) => log.level,
    bad: ['verbose', 'INFO', '30'],
    reason: 'must be one of fatal, error, warn, info, debug, trace, silent',
  },
  {
    name: 'TRUST_PROXY',
    good: [
      ['10.0.0.0/8, 192.168.1.7', ['10.0.0.0/8', '192.168.1.7']],
      ['fd00::/8,::1', ['fd00::/8', '::1']],
    ],
    read: ({ http }) => http.trustProxy,
    bad: ['true', '1', 'loopback', '10.0.0.0/33', '10.0.0.1,proxy.internal', '300.0.0.1'],
    reason: 'must be addresses or CIDRs, separated by commas',
  },
  {
    name: 'CORS_ORIGINS',
    good: [['https://a.example, http://localhost:5173', ['https://a.example', 'http://localhost:5173']]],
    read: ({ http }) => http.corsOrigins,
    bad: ['*', 'null', 'a.example', 'https://a.example/', 'https://a.example/path', 'https://A.example'],
    reason: 'must be origins such as https://app.example.com, separated by commas',
  },
  {
    name: 'DATABASE_URL',
    good: [['postgres://u:p@h/d', 'h']],
    read: ({ registry }) => registry.connection?.host,
    bad: ['not a url', 'mysql://u:p@h/d'],
    reason: 'must be a URL such as postgres://user:password@host:5432/database',
  },
  {
    name: 'MIGRATION_DATABASE_URL',
    good: [['postgres://owner:p@owned/registry', 'owned']],
    read: ({ registry }) => registry.owner?.host,
    bad: ['not a url', 'mysql://u:p@h/d'],
    reason: 'must be a URL such as postgres://user:password@host:5432/database',
    alongside: { DATABASE_URL: URL_OF_REGISTRY },
  },
  {
    name: 'TENANT_DATABASE_URL',
    good: [['postgresql://u:p@tenants/postgres', 'tenants']],
    read: ({ tenants }) => tenants.provisioner?.host,
    bad: ['not a url', 'http://u:p@h/d'],
    reason: 'must be a URL such as postgres://user:password@host:5432/database',
    alongside: { DATABASE_URL: URL_OF_REGISTRY },
  },
  {
    name: 'DATABASE_TLS',
    good: [
      ['off', false],
      ['verify-full', {}],
    ],
    read: ({ registry }) => registry.connection?.tls,
    bad: ['on', 'require', 'true', 'verify-ca'],
    reason: 'must be one of off, verify-full',
    alongside: { DATABASE_URL: URL_OF_REGISTRY },
  },
  {
    name: 'DATABASE_CA_FILE',
    good: [],
    read: ({ registry }) => registry.connection?.tls,
    bad: ['/there/is/no/such/file.pem'],
    reason: 'cannot be read: /there/is/no/such/file.pem',
    alongside: { DATABASE_URL: URL_OF_REGISTRY, DATABASE_TLS: 'verify-full' },
  },
  {
    name: 'REDIS_URL',
    good: [
      ['redis://cache', 'cache'],
      ['rediss://:pw@10.0.0.7:6380/1', '10.0.0.7'],
    ],
    read: ({ redis }) => redis?.host,
    bad: ['cache', 'cache:6379', 'http://cache', 'redis://', 'redis://cache/zero'],
    reason: 'must be a URL such as redis://:password@host:6379/0, or rediss://… for TLS',
  },
  {
    name: 'REDIS_CA_FILE',
    good: [],
    read: ({ redis }) => redis?.tls,
    bad: ['/there/is/no/such/file.pem'],
    reason: 'cannot be read: /there/is/no/such/file.pem',
    alongside: { REDIS_URL: 'rediss://cache' },
  },
  {
    name: 'CLUSTER_HOSTS',
    good: [
      ['db2.internal, 10.0.0.0/8,::1', ['db2.internal', '10.0.0.0/8', '::1']],
      ['pg', ['pg']],
    ],
    read: ({ tenants }) => tenants.clusterHosts,
    bad: ['*', 'db2.internal:5432', '10.0.0.0/33', 'postgres://db2', '/var/run/postgresql', 'a b', '-a', 'a..b'],
    reason: 'must be names, addresses and CIDRs, separated by commas',
  },
  {
    name: 'READ_CACHE',
    good: [
      ['on', true],
      ['off', false],
    ],
    read: ({ readCache }) => readCache.on,
    bad: ['true', '1', 'ON'],
    reason: 'must be one of on, off',
  },
  {
    name: 'PREPARED_STATEMENTS',
    good: [
      ['on', true],
      ['off', false],
    ],
    read: ({ tenants }) => tenants.preparedStatements,
    bad: ['true', '0', 'ON'],
    reason: 'must be one of on, off',
  },
  ...(
    [
      ['TENANT_REQUESTS_PER_SECOND', 'requestsPerSecond', 1, 100_000],
      ['TENANT_CONNECTIONS', 'connections', 1, 400],
      ['TENANT_STATEMENT_TIMEOUT_MS', 'statementTimeout', 100, 600_000],
      ['TENANT_USERS', 'users', 1, 1_000_000],
      ['TENANT_PRODUCTS', 'products', 1, 100_000_000],
      ['TENANT_STORAGE_BYTES', 'storageBytes', 1_048_576, 2 ** 50],
    ] as const
  ).map(([name, limit, minimum, maximum]) => ({
    name,
    good: [
      ['0', undefined],
      [String(minimum), minimum],
      [String(maximum), maximum],
    ] as const,
    read: ({ tenants }: Settings): unknown => tenants.limits[limit],
    bad: [String(maximum + 1), ...(minimum > 1 ? ['1', String(minimum - 1)] : [])],
    reason: `must be 0 for no limit, or from ${minimum} to ${maximum}`,
  })),
  {
    name: 'JWT_KEYS',
    good: [
      [TOKEN_KEY, [['t1', 'EdDSA', 'private']]],
      [
        `${makeTokenKey('new')}, ${PUBLIC_KEY},old-1:HS256:${KEY}`,
        [
          ['new', 'EdDSA', 'private'],
          ['t1', 'EdDSA', 'only verifies'],
          ['old-1', 'HS256', 'secret'],
        ],
      ],
    ],
    read: ({ auth }) => shown(auth.keys),
    bad: [
      SECRET,
      KEY,
      `k1:${KEY}`,
      `HS256:${KEY}`,
      `${TOKEN_KEY},`,
      `${TOKEN_KEY},${TOKEN_KEY}`,
      TOKEN_KEY.replace('t1', 't.1'),
      TOKEN_KEY.replace('t1', ''),
    ],
    reason:
      'must be kid:base64 pairs with different ids, of keys of Ed25519 or P-256 in DER (PKCS#8, or SPKI to verify only), or kid:HS256:base64 with at least 32 bytes',
  },
  {
    name: 'JWT_SECRET',
    good: [['x'.repeat(32), shown([keyOfSecret('x'.repeat(32))])]],
    read: ({ auth }) => shown(auth.keys),
    bad: ['x'.repeat(31), 'short'],
    reason: 'must have at least 32 characters',
  },
  {
    name: 'JWT_ISSUER',
    good: [['https://id.example', 'https://id.example']],
    read: ({ auth }) => auth.issuer,
    bad: [],
  },
  { name: 'JWT_AUDIENCE', good: [['shop', 'shop']], read: ({ auth }) => auth.audience, bad: [] },
  {
    name: 'ENCRYPTION_KEYS',
    good: [
      [
        `new:${OTHER_KEY}, old-1:${KEY}`,
        [
          { kid: 'new', key: Buffer.from(OTHER_KEY, 'base64') },
          { kid: 'old-1', key: Buffer.from(KEY, 'base64') },
        ],
      ],
    ],
    read: (settings) => settings.encryptionKeys,
    bad: [
      KEY,
      `:${KEY}`,
      `a.b:${KEY}`,
      `${'k'.repeat(33)}:${KEY}`,
      `k1:${Buffer.alloc(31, 1).toString('base64')}`,
      `k1:${Buffer.alloc(33, 1).toString('base64')}`,
      `k1:${KEY},k1:${OTHER_KEY}`,
      `k1:${KEY},`,
    ],
    reason: 'must be kid:base64 pairs with different ids and keys of 32 bytes (openssl rand -base64 32)',
  },
  {
    name: 'REFRESH_TOKEN_KEYS',
    good: [[`new:${OTHER_KEY}`, [{ kid: 'new', key: Buffer.from(OTHER_KEY, 'base64') }]]],
    read: ({ auth }) => auth.refreshTokenKeys,
    bad: [KEY, `k1:${KEY},k1:${OTHER_KEY}`, `k1:${Buffer.alloc(31, 1).toString('base64')}`],
    reason: 'must be kid:base64 pairs with different ids and keys of 32 bytes (openssl rand -base64 32)',
  },
  {
    name: 'OPERATOR_EMAIL',
    good: [['Root@Example.com', 'root@example.com']],
    read: ({ firstOperator }) => firstOperator?.email,
    bad: ['root', 'root@', '@example.com', 'a b@example.com'],
    reason: 'must be an e-mail address',
  },
  {
    name: 'OPERATOR_PASSWORD',
    good: [['x'.repeat(12), 'x'.repeat(12)]],
    read: ({ firstOperator }) => firstOperator?.password,
    bad: ['x'.repeat(11)],
    reason: 'must have at least 12 characters',
    alongside: { OPERATOR_EMAIL: 'root@example.com' },
  },
  { name: 'METRICS_HOST', good: [['0.0.0.0', '0.0.0.0']], read: ({ metrics }) => metrics.host, bad: [] },
  { name: 'DATA_DIR', good: [['/var/lib/x', '/var/lib/x']], read: (settings) => settings.dataDir, bad: [] },
];

describe('the table of this file', () => {
  it('has every variable that the service reads, so that each one is tested', () => {
    const listed = [...integers.map(([name]) => name), ...others.map(({ name }) => name)];
    expect(listed.sort()).toEqual(Object.keys(variables).sort());
  });
});

describe('a whole number in the environment', () => {
  describe.each(integers)('%s', (name, minimum, maximum, read) => {
    it('can be the smallest and the largest of its bounds', () => {
      expect(read(readSettings({ ...room[name], [name]: String(minimum) }))).toBe(minimum);
      expect(read(readSettings({ ...room[name], [name]: String(maximum) }))).toBe(maximum);
    });

    it('is refused just outside its bounds, with the bound', () => {
      const below = minimum > 0 ? `${name} must be at least ${minimum}` : `${name} must be a whole number`;
      expect(problemsOf({ [name]: String(minimum - 1) })).toEqual([below]);
      expect(problemsOf({ [name]: String(maximum + 1) })).toEqual([`${name} must be at most ${maximum}`]);
    });

    it('is refused if it is not written in digits', () => {
      for (const text of ['1.5', '1e3', '0x10', ' 100', '100 ', '+100', '-0', 'NaN', 'Infinity', '10s', '1_000'])
        expect(problemsOf({ [name]: text }), text).toEqual([`${name} must be a whole number`]);
    });
  });
});

describe('any other variable', () => {
  it.each(others.filter(({ good }) => good.length > 0))(
    '$name becomes the right setting',
    ({ name, good, read, alongside }) => {
      for (const [text, value] of good) expect(read(readSettings({ ...alongside, [name]: text })), text).toEqual(value);
    },
  );

  it.each(others.filter(({ bad }) => bad.length > 0))(
    '$name is refused if its value is invalid, with the valid values',
    ({ name, bad, reason, alongside }) => {
      for (const text of bad)
        expect(problemsOf({ ...alongside, [name]: text }), text).toEqual([`${name} ${reason ?? ''}`]);
    },
  );

  it('DATABASE_CA_FILE gives its certificates to every connection under verify-full', () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'tenantry-ca-'));
    onTestFinished(() => {
      rmSync(folder, { recursive: true });
    });
    const file = path.join(folder, 'ca.pem');
    const { certificate: ca } = selfSigned('db.internal');
    writeFileSync(file, ca);
    const { registry, tenants } = readSettings({
      DATABASE_URL: URL_OF_REGISTRY,
      TENANT_DATABASE_URL: 'postgres://p:p@tenants/postgres',
      MIGRATION_DATABASE_URL: 'postgres://o:p@db/registry',
      DATABASE_TLS: 'verify-full',
      DATABASE_CA_FILE: file,
    });
    expect(registry.connection?.tls).toEqual({ ca });
    expect(registry.owner?.tls).toEqual({ ca });
    expect(tenants.provisioner?.tls).toEqual({ ca });
  });

  it('DATABASE_CA_FILE without verify-full is refused, so that no connection is unencrypted by mistake', () => {
    expect(problemsOf({ DATABASE_CA_FILE: '/ca.pem', DATABASE_TLS: 'off' })).toEqual([
      'DATABASE_CA_FILE is set and DATABASE_TLS is off: set DATABASE_TLS=verify-full',
    ]);
  });
});

describe('an empty variable', () => {
  it.each(Object.keys(variables))('%s counts as not set', (name) => {
    expect(readSettings({ [name]: '' })).toEqual(readSettings({}));
  });

  it.each(['DATABASE_URL', 'DATABASE_TLS', 'JWT_KEYS', 'ENCRYPTION_KEYS'])(
    '%s counts as missing in production',
    (name) => {
      expect(problemsOf({ ...production, [name]: '' })).toEqual(problemsOf(without(production, name)));
    },
  );

  it('SHUTDOWN_DRAIN_MS keeps the default of production', () => {
    expect(readSettings({ ...production, SHUTDOWN_DRAIN_MS: '' }).shutdown.drain).toBe(5_000);
  });
});

describe('a variable that is not set', () => {
  it('has the default of the documentation', () => {
    const { http, tenants, auth, shutdown } = readSettings({});
    expect(http).toMatchObject({ host: '127.0.0.1', port: 3_000, apiPrefix: '', trustProxy: [], corsOrigins: [] });
    expect(tenants.limits).toEqual({});
    expect(tenants.pool).toEqual({
      max: 5,
      acquireTimeout: 5_000,
      connectTimeout: 4_000,
      timeout: 15_000,
      idleTimeoutMillis: 30_000,
    });
    expect(auth).toMatchObject({ issuer: 'tenantry', audience: 'tenantry', accessTokenTtl: 900, keys: undefined });
    expect(shutdown).toEqual({ drain: 0, timeout: 30_000 });
  });

  it('has a default within its own bounds', () => {
    for (const [name, variable] of Object.entries(variables)) {
      const { default: given } = variable;
      const texts = typeof given === 'string' ? [given] : [true, false].map((where) => String(given.derive(where)));
      for (const text of texts.filter((one) => one !== '')) expect(problemsOf({ [name]: text }), name).toEqual([]);
    }
  });

  it('makes hashing use at most two cores, and no more than there are', () => {
    expect(readSettings({}).auth.hashConcurrency).toBe(Math.min(availableParallelism(), 2));
  });

  it('makes draining last five seconds in production, and none elsewhere', () => {
    expect(readSettings(production).shutdown.drain).toBe(5_000);
    expect(readSettings({ ...production, SHUTDOWN_DRAIN_MS: '0' }).shutdown.drain).toBe(0);
    expect(readSettings({ NODE_ENV: 'test' }).shutdown.drain).toBe(0);
  });

  it('leaves registry, secrets and operator to the first start', () => {
    const settings = readSettings({});
    expect(settings.registry.connection).toBeUndefined();
    expect(settings.tenants.provisioner).toBeUndefined();
    expect(settings.encryptionKeys).toBeUndefined();
    expect(settings.firstOperator).toBeUndefined();
  });
});

describe('the problems of an environment', () => {
  it('are listed completely, one line each', () => {
    const env = {
      PORT: '70000',
      LOG_LEVEL: 'loud',
      TRUST_PROXY: 'everybody',
      DATABASE_URL: 'localhost',
      JWT_SECRET: 'short',
      OPERATOR_PASSWORD: 'long enough for us',
    };
    expect(problemsOf(env)).toHaveLength(6);
    expect(() => readSettings(env)).toThrow(
      [
        'The configuration is not usable:',
        '  - PORT must be at most 65535',
        '  - LOG_LEVEL must be one of fatal, error, warn, info, debug, trace, silent',
        '  - TRUST_PROXY must be addresses or CIDRs, separated by commas',
        '  - JWT_SECRET must have at least 32 characters',
        '  - DATABASE_URL must be a URL such as postgres://user:password@host:5432/database',
        '  - OPERATOR_PASSWORD is set and OPERATOR_EMAIL is not: set both, or neither',
      ].join('\n'),
    );
  });

  it('are one line for a variable with several bad entries', () => {
    expect(problemsOf({ TRUST_PROXY: 'a,b,c' })).toHaveLength(1);
  });

  it('never repeat a value, which may be a secret', () => {
    const canary = 'canary value';
    const everything = Object.fromEntries(Object.keys(variables).map((name) => [name, canary]));
    const problems = problemsOf(without(without(everything, 'DATABASE_CA_FILE'), 'REDIS_CA_FILE'));
    expect(problems.length).toBeGreaterThan(integers.length);
    expect(problems.join('\n')).not.toContain('canary');
  });

  it('never repeat a password of a database URL', () => {
    const urls = [
      'postgres://owner:canary@/registry',
      'postgres://owner:canary@host',
      'postgres://owner:canary@host/registry?sslmode=disable',
      'postgres://:canary@host/registry',
      'postgres://owner:canary%@host/registry',
      'postgres://owner:canary#@host/registry',
      'mysql://owner:canary@host/registry',
      'owner:canary@host/registry',
    ];
    for (const url of urls) {
      const problems = problemsOf({ DATABASE_URL: url });
      expect(problems, url).toHaveLength(1);
      expect(problems.join('\n')).not.toContain('canary');
    }
  });

  it('do not call a variable missing that has a bad value', () => {
    expect(problemsOf({ DATABASE_URL: 'x', TENANT_DATABASE_URL: 'postgres://u:p@h/d' })).toEqual([
      'DATABASE_URL must be a URL such as postgres://user:password@host:5432/database',
    ]);
    expect(problemsOf({ OPERATOR_EMAIL: 'x', OPERATOR_PASSWORD: 'x'.repeat(12) })).toEqual([
      'OPERATOR_EMAIL must be an e-mail address',
    ]);
  });

  it('include pairs of which one is missing', () => {
    expect(problemsOf({ TENANT_DATABASE_URL: 'postgres://u:p@h/d' })).toEqual([
      'TENANT_DATABASE_URL is set and DATABASE_URL is not: set both, or neither',
    ]);
    expect(problemsOf({ MIGRATION_DATABASE_URL: 'postgres://u:p@h/d' })).toEqual([
      'MIGRATION_DATABASE_URL is set and DATABASE_URL is not: set both, or neither',
    ]);
    expect(problemsOf({ OPERATOR_PASSWORD: 'x'.repeat(12) })).toEqual([
      'OPERATOR_PASSWORD is set and OPERATOR_EMAIL is not: set both, or neither',
    ]);
  });
});

describe('lifetimes that contradict each other', () => {
  it.each<[Environment, string[]]>([
    [
      { SESSION_IDLE_TTL: '899' },
      ['SESSION_IDLE_TTL is below ACCESS_TOKEN_TTL: a session would end before its access token'],
    ],
    [{ METRICS_PORT: '3000' }, ['METRICS_PORT is PORT: metrics need a port of their own, which clients cannot reach']],
    [{ PORT: '0', METRICS_PORT: '0' }, []],
    [{ SESSION_TTL: '1209599' }, ['SESSION_TTL is below SESSION_IDLE_TTL: no session could be idle for that long']],
    [{ ACCESS_TOKEN_TTL: '900', SESSION_IDLE_TTL: '900', SESSION_TTL: '900' }, []],
  ])('stop the start with a sentence, and equal ones do not: %j', (env, problems) => {
    expect(problemsOf(env)).toEqual(problems);
  });
});

describe('production', () => {
  it('starts if everything is set', () => {
    const settings = readSettings(production);
    expect(settings.production).toBe(true);
    expect(shown(settings.auth.keys)).toEqual([['t1', 'EdDSA', 'private']]);
    expect(settings.tenants.provisioner).toEqual(settings.registry.connection);
  });

  it.each([
    ['DATABASE_URL', 'production does not start an embedded PostgreSQL'],
    ['DATABASE_TLS', 'set verify-full, or off if the network is private'],
    ['JWT_KEYS', 'make one with: echo "k1:$(openssl genpkey -algorithm ed25519 -outform DER | openssl base64 -A)"'],
    ['ENCRYPTION_KEYS', 'make one with: echo "k1:$(openssl rand -base64 32)"'],
  ])('refuses to start without %s, with a hint', (name, hint) => {
    expect(problemsOf(without(production, name))).toEqual([`${name} is not set (${hint})`]);
  });

  it('lists everything that is missing at once', () => {
    expect(problemsOf({ NODE_ENV: 'production' })).toHaveLength(4);
  });

  it.each([
    ['one character', 'x'.repeat(64)],
    ['one word, again and again', 'password'.repeat(8)],
    ['digits only', '0123456789'.slice(0, 9).repeat(8)],
  ])('refuses a JWT_SECRET of %s', (_, secret) => {
    expect(problemsOf({ ...production, JWT_SECRET: secret })).toEqual([
      'JWT_SECRET is weak: make one with: openssl rand -base64 48',
    ]);
  });

  it('accepts JWT_SECRET instead of JWT_KEYS, as an older installation has it', () => {
    const former = { ...without(production, 'JWT_KEYS'), JWT_SECRET: SECRET };
    expect(shown(readSettings(former).auth.keys)).toEqual(shown([keyOfSecret(SECRET)]));
  });

  it('refuses a weak secret in any place of JWT_KEYS, and names its id', () => {
    const weak = Buffer.alloc(48, 'ab').toString('base64');
    expect(problemsOf({ ...production, JWT_KEYS: `${TOKEN_KEY},bad:HS256:${weak}` })).toEqual([
      'JWT_KEYS: the secret bad is weak: make one with: openssl rand -base64 48',
    ]);
  });

  it('refuses a short JWT_SECRET', () => {
    expect(problemsOf({ ...production, JWT_SECRET: 'Sh0rt!' })).toEqual([
      'JWT_SECRET must have at least 32 characters',
    ]);
  });

  it.each(['ENCRYPTION_KEYS', 'REFRESH_TOKEN_KEYS'])('refuses a weak key anywhere in %s, and names its id', (name) => {
    const weak = Buffer.alloc(32, 'ab').toString('base64');
    expect(problemsOf({ ...production, [name]: `good:${KEY},bad:${weak}` })).toEqual([
      `${name}: the key bad is weak: make one with: openssl rand -base64 32`,
    ]);
  });

  it('accepts the secrets that its hints produce', () => {
    // base64 of 48 and 32 random bytes, as openssl writes them.
    const secret = 'Zq2m0xv1lQ8b7yVd3kRr5WcGJtHfNsPa9oEuTiXhKjLwBzMn4YgUeS6CvAODpI+/';
    const key = 'gM3oV9qgZ0h0yXw7Yb5JpN2dTqkC1m8rUeS4iLfHtvE=';
    expect(problemsOf({ ...production, JWT_SECRET: secret, ENCRYPTION_KEYS: `k1:${key}` })).toEqual([]);
  });

  it('generates no password for the first operator', () => {
    expect(problemsOf({ ...production, OPERATOR_EMAIL: 'root@example.com' })).toEqual([
      'OPERATOR_EMAIL is set and OPERATOR_PASSWORD is not: set both, or neither',
    ]);
  });
});

describe('the keys of access tokens', () => {
  it('are those of JWT_KEYS, which sign, and then JWT_SECRET, which only verifies', () => {
    expect(shown(readSettings({ JWT_KEYS: TOKEN_KEY, JWT_SECRET: SECRET }).auth.keys)).toEqual(
      shown([...parseTokenKeys(TOKEN_KEY), keyOfSecret(SECRET)]),
    );
  });

  it('may all be public if JWT_SECRET is set, which then signs: so a replica learns the next key', () => {
    expect(problemsOf({ JWT_KEYS: PUBLIC_KEY, JWT_SECRET: SECRET })).toEqual([]);
    expect(problemsOf({ JWT_KEYS: PUBLIC_KEY })).toEqual([
      'JWT_KEYS has public keys only, which cannot sign: add a private key, or set JWT_SECRET',
    ]);
  });

  it('are refused in JWT_SECRET: with a public key as its secret, every client could sign', () => {
    const pem = `-----BEGIN PUBLIC KEY-----\n${PUBLIC_KEY.slice(3)}\n-----END PUBLIC KEY-----\n`;
    expect(problemsOf({ JWT_SECRET: pem })).toEqual(['JWT_SECRET must not be a key in PEM: set JWT_KEYS instead']);
  });
});

describe('a database URL', () => {
  const connectionOf = (url: string): Settings['registry']['connection'] =>
    readSettings({ DATABASE_URL: url }).registry.connection;

  it('is split into its parts', () => {
    expect(connectionOf('postgres://owner:pw@db.internal:5433/registry')).toEqual({
      host: 'db.internal',
      port: 5433,
      database: 'registry',
      user: 'owner',
      password: 'pw',
      tls: false,
    });
  });

  it('has port 5432 by default', () => {
    expect(connectionOf('postgresql://owner:pw@db/registry')?.port).toBe(5432);
  });

  it('is decoded, so that a password can have any character', () => {
    const password = 'p@ss:w/o?r#d %&+é\\"';
    const url = `postgres://${encodeURIComponent('o w@er')}:${encodeURIComponent(password)}@db/${encodeURIComponent('re/gistry')}`;
    expect(connectionOf(url)).toMatchObject({ user: 'o w@er', password, database: 're/gistry' });
  });

  it('may have an IPv6 host, which loses its brackets', () => {
    expect(connectionOf('postgres://owner:pw@[2001:db8::1]:6000/registry')).toMatchObject({
      host: '2001:db8::1',
      port: 6000,
    });
  });

  it.each(['sslmode=disable', 'host=evil.example', 'options=-c%20search_path=x', 'x'])(
    'is refused with ?%s: an option could override host or TLS',
    (query) => {
      expect(problemsOf({ DATABASE_URL: `${URL_OF_REGISTRY}?${query}` })).toEqual([
        'DATABASE_URL must have no options after "?": set TLS with DATABASE_TLS and DATABASE_CA_FILE',
      ]);
    },
  );

  it.each([
    'postgres://db/registry',
    'postgres://owner@db/registry',
    'postgres://owner:@db/registry',
    'postgres://:pw@db/registry',
  ])('is refused without a user and a password, which pg would take from PGUSER and PGPASSWORD: %s', (url) => {
    expect(problemsOf({ DATABASE_URL: url })).toEqual(['DATABASE_URL must have a user and a password']);
  });

  it.each([
    'postgres://owner:pw@/registry',
    'postgres://owner:pw@db',
    'postgres://owner:pw@db/',
    'postgres://owner:pw@db:99999/registry',
    'postgres://owner:pw@db/registry#2',
    'postgres:registry',
    'host=db user=owner',
  ])('is refused without a valid host or database: %s', (url) => {
    expect(problemsOf({ DATABASE_URL: url })).toEqual([
      'DATABASE_URL must be a URL such as postgres://user:password@host:5432/database',
    ]);
  });

  it('is refused with a bare "%", among the other problems', () => {
    expect(problemsOf({ DATABASE_URL: 'postgres://owner:100%@db/registry', PORT: 'x' })).toEqual([
      'PORT must be a whole number',
      'DATABASE_URL has a "%" in its user, password or database that must be written as %25',
    ]);
  });
});

describe('the complete configuration', () => {
  const gaps = {
    registry: { host: 'h', port: 1, database: 'd', user: 'u', password: 'p', tls: { ca: 'x' } } as const,
    provisioner: { host: 'h', port: 1, database: 'd', user: 'u', password: 'p', tls: false } as const,
    tokenKeys: parseTokenKeys(TOKEN_KEY),
    encryptionKeys: parseKeyring(`k1:${KEY}`),
  };

  /** Every object inside, apart from Buffers, which JavaScript cannot freeze, and keys, which never change. */
  function objectsIn(value: unknown): object[] {
    if (typeof value !== 'object' || value === null || Buffer.isBuffer(value) || value instanceof KeyObject) return [];
    return [value, ...Object.values(value).flatMap(objectsIn)];
  }

  it('is frozen at every depth', () => {
    const settings = readSettings({ ...production, TRUST_PROXY: '10.0.0.0/8' });
    for (const [config, atLeast] of [
      [settings, 12],
      [completeConfig(settings, gaps), 12],
    ] as const) {
      const objects = objectsIn(config);
      expect(objects.length).toBeGreaterThan(atLeast);
      expect(objects.filter((object) => !Object.isFrozen(object))).toEqual([]);
    }
  });

  it('has every gap filled, and no setting that only the first start needs', () => {
    const config = completeConfig(readSettings({ OPERATOR_EMAIL: 'root@example.com' }), gaps);
    expect(config.registry.connection).toEqual(gaps.registry);
    expect(config.tenants.provisioner).toEqual(gaps.provisioner);
    expect(config.auth.keys).toEqual(gaps.tokenKeys);
    expect(config.encryptionKeys).toEqual(gaps.encryptionKeys);
    expect(Object.keys(config)).not.toContain('firstOperator');
    expect(Object.keys(config)).not.toContain('dataDir');
    const owned = { DATABASE_URL: URL_OF_REGISTRY, MIGRATION_DATABASE_URL: 'postgres://owner:canary@db/registry' };
    expect(JSON.stringify(completeConfig(readSettings(owned), gaps))).not.toContain('canary');
  });
});

describe('a keyring that another part of the program reads', () => {
  it('is refused in the same words', () => {
    expect(() => parseKeyring('k1:short')).toThrow(/^ENCRYPTION_KEYS must be kid:base64 pairs/);
  });
});
