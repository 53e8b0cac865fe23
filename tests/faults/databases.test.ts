// Servers that fail under the running service: the registry stopped, the tenants' server killed, the tenants' server hanging.
// Registry and tenants have separate servers, so that they fail separately.
import type { FastifyInstance } from 'fastify';
import { sql } from 'kysely';
import { readFileSync } from 'node:fs';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { insertOperator } from '../../db/registry/operator-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant } from '../../db/registry/tenant-queries.js';
import { createDatabase, type ConnectionSettings, type DatabaseHandle } from '../../db/driver/client.js';
import { bootstrapCluster } from '../../db/server/server-admin.js';
import { scramVerifier } from '../../db/server/scram.js';
import { openApp } from '../support/service.js';
import { parseTokenKeys } from '../../src/auth/keyring.js';
import { OPERATORS } from '../../src/auth/passwords.js';
import { completeConfig, parseKeyring, readSettings, type Config } from '../../src/config/index.js';
import { startEmbeddedCluster, type EmbeddedCluster } from '../../src/embedded/embedded-cluster.js';
import { migrateAll } from '../../src/rollouts/migrate-fleet.js';
import { openProvisioner } from '../../src/clusters/provisioner-connections.js';
import { ADMIN, OPERATOR, sender, TOKEN_KEY, type Answer, type Send } from '../support/app.js';

const PASSWORD = 'password-of-the-fault-tests';
const OWNER = 'fault_registry';
const SERVICE = 'fault_service';
const PROVISIONER = 'fault_provisioner';
const SETTINGS = { max_connections: '100' };

interface Server {
  readonly home: string;
  cluster: EmbeddedCluster;
}

interface Service {
  readonly app: FastifyInstance;
  readonly send: Send;
}

interface Tenant {
  readonly id: string;
  readonly slug: string;
  readonly token: string;
}

let registryServer: Server;
let tenantServer: Server;
/** Makes the tenants; the services under test start cold, on the same registry. */
let home: Service;
let operatorToken: string;

const unhandled: unknown[] = [];
const collect = (error: unknown): void => {
  unhandled.push(error);
};

beforeAll(async () => {
  process.on('unhandledRejection', collect);
  process.on('uncaughtException', collect);
  [registryServer, tenantServer] = await Promise.all([startServer(), startServer()]);
  for (const server of [registryServer, tenantServer]) await bootstrap(server);
  const registry = open<Registry>(registryServer, OWNER, OWNER);
  const provisioner = openProvisioner(at(tenantServer, PROVISIONER, 'postgres'), limits);
  const registryRoles = { registry: registry.db, registryService: SERVICE };
  await migrateAll({ ...registryRoles, ...provisioner, provisioner: PROVISIONER });
  await Promise.all([registry.close(0), provisioner.close()]);

  home = await start();
  await insertOperator(home.app.engine.registry, {
    email: OPERATOR.email,
    passwordHash: await home.app.engine.passwords.hash(OPERATOR.password, OPERATORS),
  });
  const signedIn = await home.send<{ accessToken: string }>('POST', '/auth/operator/login', { body: OPERATOR });
  operatorToken = signedIn.body.accessToken;
});

afterEach(() => {
  // No fault of a server may become an unhandled error of the process.
  expect(unhandled.splice(0)).toEqual([]);
});

afterAll(async () => {
  await home.app.close();
  process.off('unhandledRejection', collect);
  process.off('uncaughtException', collect);
  await Promise.all(
    [registryServer, tenantServer].map(async (server) => {
      await server.cluster.stop();
      await rm(server.home, { recursive: true, force: true });
    }),
  );
});

describe('while the registry is down,', () => {
  it('known tenants are served for the stated time, and unknown tenants get 503', async () => {
    const known = await createTenant('known');
    const unknown = await createTenant('unknown');
    const service = await startForTest();
    const brief = await startForTest({ REGISTRY_OUTAGE_GRACE_MS: '1500' });
    // Sign in once, so that the slug is cached too.
    for (const { send } of [service, brief]) expect((await signIn(send, known)).status).toBe(200);
    for (const { send } of [service, brief]) expect((await products(send, known)).status).toBe(200);

    await registryServer.cluster.stop();
    // Longer than a cached row is valid without a query.
    const until = Date.now() + 1_600;
    while (Date.now() < until) {
      expect((await products(service.send, known)).status).toBe(200);
      await sleep(50);
    }
    expect((await makeProduct(service.send, known)).status).toBe(201);
    expect((await signIn(service.send, known)).status).toBe(200);
    expectUnavailable(await products(service.send, unknown));
    expectUnavailable(await signIn(service.send, unknown));
    expectUnavailable(await service.send('POST', '/auth/operator/login', { body: OPERATOR }));
    expectUnavailable(await service.send('GET', '/tenants', { token: operatorToken }));
    expectUnavailable(await service.send('GET', '/health/ready'));
    expect((await service.send('GET', '/health/live')).status).toBe(200);
    // Only for the stated time.
    await expect.poll(async () => (await products(brief.send, known)).status, { timeout: 30_000 }).toBe(503);

    registryServer.cluster = await startCluster(registryServer.home);
    await expect.poll(async () => (await service.send('GET', '/health/ready')).status, { timeout: 30_000 }).toBe(200);
    for (const { send } of [service, brief]) {
      for (const tenant of [known, unknown]) expect((await products(send, tenant)).status).toBe(200);
      expect((await send('GET', '/tenants', { token: operatorToken })).status).toBe(200);
    }
  });
});

describe.runIf(process.platform === 'linux')('while the registry hangs,', () => {
  it('known tenants are served, and only requests that need the registry wait', async () => {
    const known = await createTenant('known-to-a-hang');
    const { send } = await startForTest();
    expect((await products(send, known)).status).toBe(200);
    expect((await send('GET', '/tenants', { token: operatorToken })).status).toBe(200);

    const thaw = freeze(everyProcessOf(registryServer));
    // Longer than a cached row is valid without a query.
    await sleep(1_000);
    let listed = false;
    const list = send('GET', '/tenants', { token: operatorToken }).then((answer) => {
      listed = true;
      return answer;
    });
    for (let time = 0; time < 5; time += 1) expect((await products(send, known)).status).toBe(200);
    expect(listed).toBe(false);
    expectUnavailable(await send('GET', '/health/ready'));

    thaw();
    expect((await list).status).toBe(200);
    expect((await send('GET', '/health/ready')).status).toBe(200);
  });
});

describe('after the tenants’ server is killed,', () => {
  it('requests get 503 with Retry-After until it runs again, and every acknowledged product is stored once', async () => {
    const tenant = await createTenant('killed');
    const { send } = await startForTest();
    const acknowledged: string[] = [];
    const failures: Answer[] = [];
    let stopWriting = false;
    const write = async (_: unknown, writer: number): Promise<void> => {
      for (let turn = 0; !stopWriting; turn += 1) {
        const name = `writer ${writer} turn ${turn}`;
        const answer = await makeProduct(send, tenant, name);
        if (answer.status === 201) acknowledged.push(name);
        else {
          failures.push(answer);
          await sleep(20);
        }
      }
    };
    const writers = Array.from({ length: 3 }, write);
    const endOfWriting = async (): Promise<void> => {
      stopWriting = true;
      await Promise.all(writers);
    };
    // Also when this fails: the writers would fail in the next test otherwise.
    onTestFinished(endOfWriting);
    await expect.poll(() => acknowledged.length, { timeout: 30_000 }).toBeGreaterThan(20);

    const { pid } = tenantServer.cluster;
    process.kill(pid ?? NaN, 'SIGKILL');
    await expect.poll(() => failures.length, { timeout: 30_000 }).toBeGreaterThan(0);
    // The registry has its own server: requests that need no tenant's database still work.
    expect((await send('POST', '/auth/operator/login', { body: OPERATOR })).status).toBe(200);
    expect((await send('GET', '/health/ready')).status).toBe(200);
    await expect.poll(() => tenantServer.cluster.pid ?? pid, { timeout: 60_000 }).not.toBe(pid);
    const before = acknowledged.length;
    await expect.poll(() => acknowledged.length, { timeout: 60_000 }).toBeGreaterThan(before + 20);
    await endOfWriting();

    for (const failure of failures) expectUnavailable(failure);
    const stored = (await storedProducts(tenant)).map(({ name }) => name);
    expect(stored).toEqual(expect.arrayContaining(acknowledged));
    // A write that was answered 503 is not stored twice either: only its client may send it again.
    expect(new Set(stored).size).toBe(stored.length);
    expect((await products(send, tenant)).status).toBe(200);
  }, 240_000);
});

describe.runIf(process.platform === 'linux')('a tenants’ server that hangs', () => {
  it.each<[string, () => number[]]>([
    ['with every session in it', () => everyProcessOf(tenantServer)],
    ['for new sessions', () => everyProcessOf(tenantServer).slice(0, 1)],
  ])('%s causes 503 by the deadline, delays nothing else, and is used again afterwards', async (what, processes) => {
    const [warm, cold] = [await createTenant(`warm-${what.length}`), await createTenant(`cold-${what.length}`)];
    const { send } = await startForTest({
      POOL_STATEMENT_TIMEOUT_MS: '300',
      POOL_ACQUIRE_TIMEOUT_MS: '300',
      POOL_MAX: '2',
    });
    let id = '';
    // On a busy machine, deadlines this short are sometimes too short for a cold tenant.
    const warmUp = async (): Promise<number> => {
      const { status, body } = await makeProduct(send, warm);
      id = body.id;
      return status;
    };
    await expect.poll(warmUp, { timeout: 30_000 }).toBe(201);

    const frozen = processes();
    const thaw = freeze(frozen);
    // Every request here is answered while the server still hangs: only a deadline of the service can have ended it.
    const asked = [products(send, cold), products(send, cold), signIn(send, cold)];
    if (frozen.length > 1) asked.push(products(send, warm), makeProduct(send, warm));
    const meanwhile = await Promise.all([
      send('POST', '/auth/operator/login', { body: OPERATOR }),
      send('GET', '/tenants', { token: operatorToken }),
      send('GET', '/health/ready'),
      send('GET', '/health/live'),
    ]);
    expect(meanwhile.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
    for (const answer of await Promise.all(asked)) expectUnavailable(answer);

    thaw();
    for (const tenant of [warm, cold]) {
      await expect.poll(async () => (await products(send, tenant)).status, { timeout: 30_000 }).toBe(200);
      // The slots of abandoned connections become free when a check finds no session of them.
      await expect.poll(async () => (await makeProduct(send, tenant)).status, { timeout: 30_000 }).toBe(201);
    }
    expect((await storedProducts(warm)).map((product) => product.id)).toContain(id);
  });
});

const limits = { max: 3, acquireTimeout: 10_000, timeout: 60_000, idleTimeoutMillis: 1_000 };

async function startServer(): Promise<Server> {
  const home = await mkdtemp(join(tmpdir(), 'tenantry-fault-'));
  await chmod(home, 0o755);
  return { home, cluster: await startCluster(home) };
}

function startCluster(home: string): Promise<EmbeddedCluster> {
  const log = { info: () => undefined, warn: () => undefined, error: () => undefined };
  return startEmbeddedCluster({ home, superuserPassword: PASSWORD, settings: SETTINGS, log });
}

async function bootstrap(server: Server): Promise<void> {
  const superuser = open<unknown>(server, 'postgres', 'postgres');
  const verifier = await scramVerifier(PASSWORD, 1);
  await bootstrapCluster(superuser.db, {
    registryOwner: { name: OWNER, verifier },
    registryService: { name: SERVICE, verifier },
    provisioner: { name: PROVISIONER, verifier },
    registryDatabase: OWNER,
  });
  await superuser.close(0);
}

function at(server: Server, user: string, database: string): ConnectionSettings {
  const { host, port } = server.cluster;
  return { host, port, database, user, password: PASSWORD, tls: false };
}

function open<DB>(server: Server, user: string, database: string): DatabaseHandle<DB> {
  const options = { applicationName: 'tests', preparedStatements: false };
  return createDatabase<DB>(at(server, user, database), limits, options);
}

function configOf(env: Record<string, string>): Config {
  const limitless = { RATE_LIMIT_MAX: '1000000', SIGN_IN_LIMIT: '1000000' };
  return completeConfig(readSettings({ NODE_ENV: 'test', LOG_LEVEL: 'silent', ...limitless, ...env }), {
    registry: at(registryServer, SERVICE, OWNER),
    provisioner: at(tenantServer, PROVISIONER, 'postgres'),
    tokenKeys: parseTokenKeys(TOKEN_KEY),
    encryptionKeys: parseKeyring(`test:${Buffer.alloc(32, 5).toString('base64')}`),
  });
}

async function start(env: Record<string, string> = {}): Promise<Service> {
  const app = await openApp(configOf(env));
  return { app, send: sender(app) };
}

async function startForTest(env?: Record<string, string>): Promise<Service> {
  const service = await start(env);
  onTestFinished(() => service.app.close());
  return service;
}

async function createTenant(slug: string): Promise<Tenant> {
  const body = { name: slug, slug, admin: ADMIN };
  const made = await home.send<{ id: string }>('POST', '/tenants', { token: operatorToken, body });
  expect(made.status, made.text).toBe(201);
  const { body: signedIn } = await signIn(home.send, { slug });
  return { id: made.body.id, slug, token: signedIn.accessToken };
}

function signIn(send: Send, { slug }: Pick<Tenant, 'slug'>): Promise<Answer<{ id: string; accessToken: string }>> {
  const { email, password } = ADMIN;
  return send('POST', '/auth/login', { body: { tenant: slug, email, password } });
}

function products(send: Send, { token }: Tenant): Promise<Answer<{ id: string; accessToken: string }>> {
  return send('GET', '/products', { token });
}

function makeProduct(
  send: Send,
  { token }: Tenant,
  name = 'Chair',
): Promise<Answer<{ id: string; accessToken: string }>> {
  return send('POST', '/products', { token, body: { name, price: '1.00' } });
}

/** As the superuser reads them, without the service. */
async function storedProducts(tenant: Tenant): Promise<{ id: string; name: string }[]> {
  const row = await findTenant(home.app.engine.registry, tenant.id);
  const handle = open<unknown>(tenantServer, 'postgres', row?.dbName ?? '');
  const { rows } = await sql<{ id: string; name: string }>`select id, name from products`.execute(handle.db);
  await handle.close(0);
  return rows;
}

function expectUnavailable(answer: Answer<unknown>): void {
  expect(answer, answer.text).toMatchObject({ status: 503, body: { code: 'unavailable' } });
  expect(answer.headers['retry-after']).toMatch(/^[1-9]\d*$/);
}

/**
 * The postmaster, then its sessions and helpers. Each leads its own process group, so a signal to the postmaster's group misses
 * them.
 */
function everyProcessOf({ cluster: { pid = NaN } }: Server): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ');
  return [pid, ...children.map(Number)];
}

/** Stops processes. Returns a function that continues them, which the end of the test calls at the latest. */
function freeze(processes: readonly number[]): () => void {
  const thaw = (): void => {
    for (const pid of processes) signal(pid, 'SIGCONT');
  };
  onTestFinished(thaw);
  for (const pid of processes) signal(pid, 'SIGSTOP');
  return thaw;
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // The process has ended meanwhile.
  }
}
