// A service on its own registry, in a prepared cluster: a copy of the migrated registry, and the app built on it. It depends on no
// test runner; tests/support/app.ts is the same for tests.
import type { FastifyInstance, LightMyRequestResponse } from 'fastify';
import { sql } from 'kysely';
import { randomBytes } from 'node:crypto';
import type { DestinationStream } from 'pino';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findOperatorByEmail, findOperatorCredentials, insertOperator } from '../../db/registry/operator-queries.js';
import { createDatabase, type ConnectionSettings, type DatabaseHandle } from '../../db/driver/client.js';
import { findCredentials } from '../../db/tenant/user-queries.js';
import { buildApp } from '../../src/app.js';
import { parseTokenKeys, signingKey } from '../../src/auth/keyring.js';
import { OPERATORS } from '../../src/auth/passwords.js';
import type { Account } from '../../src/auth/accounts.js';
import type { Grant } from '../../src/auth/session-rules.js';
import { completeConfig, parseKeyring, readSettings, type Config } from '../../src/config/index.js';
import { createEngine, type EngineOptions } from '../../src/engine/index.js';
import { createLogger } from '../../src/observability/logger.js';
import type { TestCluster } from './cluster.js';

export const OPERATOR = { email: 'operator@example.com', password: 'operator-password-1' };
export const ADMIN = {
  email: 'admin@example.com',
  password: 'admin-password-123',
  firstName: 'Ada',
  lastName: 'Admin',
};

/** An Ed25519 key in the form of JWT_KEYS. */
export const TOKEN_KEY = 'test:MC4CAQAwBQYDK2VwBCIEIEBBQkNERUZHSElKS0xNTk9QUVJTVFVWV1hZWltcXV5f';

const limits = { max: 2, acquireTimeout: 10_000, timeout: 60_000, idleTimeoutMillis: 1_000 };

/** Settings as from the environment; `env` wins. */
export function configFor(
  cluster: TestCluster,
  registryDatabase: string,
  env: Readonly<Record<string, string>> = {},
): Config {
  const settings = readSettings({
    NODE_ENV: 'test',
    LOG_LEVEL: 'silent',
    RATE_LIMIT_MAX: '1000000',
    SIGN_IN_LIMIT: '1000000',
    SIGN_IN_FAILURES_ACCOUNT: '1000000',
    SIGN_IN_FAILURES_ADDRESS: '1000000',
    SIGN_IN_FAILURES_TENANT: '1000000',
    PASSWORD_BUDGET_ACCOUNT: '1000000',
    PASSWORD_BUDGET_TENANT: '1000000',
    STANDBY_DATABASES: '0',
    // Tests share the processor with other tests.
    MAX_EVENT_LOOP_DELAY_MS: '0',
    ...env,
  });
  return completeConfig(settings, {
    registry: { ...cluster.superuser, ...cluster.registryService, database: registryDatabase },
    provisioner: cluster.provisioner,
    tokenKeys: settings.auth.keys ?? parseTokenKeys(TOKEN_KEY),
    encryptionKeys: parseKeyring(`test:${Buffer.alloc(32, 7).toString('base64')}`),
  });
}

/** The keys that sign tokens, as texts that must not occur in any output: as in a JWK, and as in PEM. */
export function tokenSecretsOf({ auth }: Config): { readonly jwk: string; readonly pem: string } {
  const key = signingKey(auth.keys)?.signs;
  const { d: jwk = '' } = key?.export({ format: 'jwk' }) ?? {};
  if (!key || jwk === '') throw new Error('a private key signs the tokens of the tests');
  return { jwk, pem: key.export({ type: 'pkcs8', format: 'der' }).toString('base64') };
}

/**
 * A connection as the superuser, to read or break what the service cannot. Close it.
 *
 * @param max connections at once
 */
export function connectTo<DB>(
  { superuser }: TestCluster,
  database: string,
  as: Partial<ConnectionSettings> = {},
  max = limits.max,
): DatabaseHandle<DB> {
  return createDatabase<DB>(
    { ...superuser, ...as, database },
    { ...limits, max },
    {
      applicationName: 'tests',
      preparedStatements: false,
    },
  );
}

export function urlOf({ user, password, host, port, database }: ConnectionSettings): string {
  return `postgres://${user}:${encodeURIComponent(password)}@${host}:${port}/${database}`;
}

/** Makes a registry, copied from the migrated one. Returns the database's name. */
export async function createRegistryIn(cluster: TestCluster): Promise<string> {
  const name = await createRegistryDatabase(cluster, cluster.registryTemplate);
  // Services that share a server must not mistake each other's databases for their own.
  const registry = connectTo<Registry>(cluster, name);
  try {
    await sql`update installation set id = gen_random_uuid()`.execute(registry.db);
  } finally {
    await registry.close(0);
  }
  return name;
}

/** Makes the database of a registry. Without a template it is empty: it must be migrated. Returns its name. */
export async function createRegistryDatabase(cluster: TestCluster, template = 'template1'): Promise<string> {
  const { registryOwner, registryService } = cluster;
  const name = `registry_${randomBytes(6).toString('hex')}`;
  const database = sql.id(name);
  const handle = connectTo<unknown>(cluster, 'postgres');
  try {
    await sql`create database ${database} owner ${sql.id(registryOwner.user)} template ${sql.id(template)}`.execute(
      handle.db,
    );
    // A copy takes over the rights inside the template, and not those on it: PUBLIC has CONNECT again, and no other role has.
    await sql`revoke all on database ${database} from public`.execute(handle.db);
    await sql`grant connect on database ${database} to ${sql.id(registryService.user)}`.execute(handle.db);
  } finally {
    await handle.close(0);
  }
  return name;
}

export interface Answer<T = Record<string, unknown>> {
  readonly status: number;
  readonly headers: LightMyRequestResponse['headers'];
  readonly body: T;
  readonly text: string;
}

/** The answer of a list. */
export interface PageOf<Row> {
  readonly data: Row[];
  readonly nextCursor: string | null;
}

/** The part of a problem document on which clients branch. */
export interface Problem {
  readonly code: string;
  readonly errors: { path: string; message: string }[];
}

/** Sends one request; `token` goes into the Authorization header, `body` as JSON. */
export type Send = <T = Record<string, unknown>>(
  method: 'GET' | 'POST' | 'PATCH' | 'DELETE',
  url: string,
  options?: { token?: string | undefined; body?: unknown; headers?: Record<string, string> },
) => Promise<Answer<T>>;

export interface TestService {
  readonly app: FastifyInstance;
  readonly config: Config;
  readonly send: Send;
  /** An operator's access token. */
  readonly operatorToken: string;
  /** Makes a tenant with ADMIN as its first admin and signs that admin in. */
  createTenant(slug?: string): Promise<TestTenant>;
  /** Adds a user to a tenant and signs it in. */
  createUser(
    tenant: TestTenant,
    email: string,
    roles?: readonly string[],
  ): Promise<{ id: string; token: string; email: string; password: string }>;
  close(): Promise<void>;
}

export interface TestTenant {
  readonly id: string;
  readonly slug: string;
  readonly adminToken: string;
  readonly adminId: string;
}

let tenants = 0;

/** The hash of OPERATOR's password: computed once, for all services of this process. */
let operatorHash: Promise<string> | undefined;

export interface ServiceOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly overrides?: AppOverrides;
  /** An existing registry. Without it the service has one of its own, whose databases are dropped when it closes. */
  readonly registry?: string;
  /** False if the registry has the operator already. */
  readonly operator?: boolean;
}

export interface AppOverrides extends EngineOptions {
  /** The stream for log lines, instead of standard output. */
  readonly logStream?: DestinationStream;
}

/** The service over its own engine. Close it. */
export async function openApp(config: Config, { logStream, ...options }: AppOverrides = {}): Promise<FastifyInstance> {
  const engine = await createEngine(config, createLogger(config.log, logStream), options);
  try {
    return await buildApp(engine);
  } catch (error) {
    await engine.close();
    throw error;
  }
}

/** Begins a session for an active account, without the account's password. */
export async function beginGrant(app: FastifyInstance, account: Account): Promise<Grant> {
  const found =
    account.kind === 'user'
      ? await findCredentials(app.engine.tenantPools.database(account.tenantId), { id: account.userId })
      : await findOperatorCredentials(app.engine.registry, account.operatorId);
  const origin = { address: '127.0.0.1', userAgent: 'tests' };
  const tenant = account.kind === 'user' ? await app.engine.tenantDirectory.find(account.tenantId) : undefined;
  const proof = { passwordHash: found?.passwordHash ?? '', generation: tenant?.sessionsGeneration ?? null };
  const grant = await app.engine.sessions.begin(account, proof, origin);
  if (!grant) throw new Error('there is no such active account');
  return grant;
}

/** An access token of such a session. @param signedInAgo ms */
export async function beginSession(app: FastifyInstance, account: Account, signedInAgo = 0): Promise<string> {
  const { principal } = await beginGrant(app, account);
  return app.tokens.sign(principal, signedInAgo);
}

/** Builds the app on its own registry. Close it. */
export async function startServiceIn(cluster: TestCluster, options: ServiceOptions = {}): Promise<TestService> {
  const config = configFor(cluster, options.registry ?? (await createRegistryIn(cluster)), options.env);
  const app = await openApp(config, options.overrides);
  const send = sender(app);
  if (options.operator !== false) {
    const passwordHash = await (operatorHash ??= app.engine.passwords.hash(OPERATOR.password, OPERATORS));
    await insertOperator(app.engine.registry, { email: OPERATOR.email, passwordHash });
  }
  const operator = await findOperatorByEmail(app.engine.registry, OPERATOR.email);
  if (!operator) throw new Error('the registry has no operator');
  const operatorToken = await beginSession(app, { kind: 'operator', operatorId: operator.id });

  // Without the password: verifying it takes longer than most of what is tested with the session.
  async function signIn(tenantId: string, email: string): Promise<{ token: string; id: string }> {
    const user = await findCredentials(app.engine.tenantPools.database(tenantId), { email });
    if (!user) throw new Error(`the tenant has no user ${email}`);
    return { token: await beginSession(app, { kind: 'user', tenantId, userId: user.id }), id: user.id };
  }

  return {
    app,
    config,
    send,
    operatorToken,
    async createTenant(slug = `tenant-${(tenants += 1)}`) {
      const made = await send<{ id: string }>('POST', '/tenants', {
        token: operatorToken,
        body: { name: `Tenant ${slug}`, slug, admin: ADMIN },
      });
      if (made.status !== 201) throw new Error(`POST /tenants answered ${made.status}: ${made.text}`);
      const admin = await signIn(made.body.id, ADMIN.email);
      return { id: made.body.id, slug, adminToken: admin.token, adminId: admin.id };
    },
    async createUser(tenant, email, roles = ['member']) {
      const password = 'user-password-123';
      const made = await send('POST', '/users', {
        token: tenant.adminToken,
        body: { email, password, firstName: 'Uma', lastName: 'User', roles },
      });
      if (made.status !== 201) throw new Error(`POST /users answered ${made.status}: ${made.text}`);
      return { ...(await signIn(tenant.id, email)), email, password };
    },
    async close() {
      await app.close();
      if (options.registry === undefined) await dropDatabases(cluster, config.registry.connection.database);
    },
  };
}

/** Drops a registry and the databases in its rows, so that a run needs less room. What another session uses stays. */
async function dropDatabases(cluster: TestCluster, registry: string): Promise<void> {
  const names = [registry];
  const rows = connectTo<Registry>(cluster, registry, {}, 1);
  const server = connectTo<unknown>(cluster, 'postgres', {}, 1);
  try {
    const databases = await sql<{ name: string }>`
      select datname as name from pg_database
      where datname in (select db_name from tenants union select db_name from standby_databases)`.execute(rows.db);
    names.push(...databases.rows.map(({ name }) => name));
    await rows.close(0);
    for (const name of names)
      await sql`drop database if exists ${sql.id(name)}`.execute(server.db).catch(() => undefined);
  } catch {
    // A test may have taken the registry or its server away.
  } finally {
    await rows.close(0);
    await server.close(0);
  }
}

export function sender(app: FastifyInstance): Send {
  return async (method, url, { token, body, headers = {} } = {}) => {
    const response = await app.inject({
      method,
      url,
      headers: { ...headers, ...(token !== undefined && { authorization: `Bearer ${token}` }) },
      ...(body !== undefined && { payload: body as object }),
    });
    const text = response.payload;
    return {
      status: response.statusCode,
      headers: response.headers,
      text,
      body: (text === '' ? undefined : JSON.parse(text)) as never,
    };
  };
}
