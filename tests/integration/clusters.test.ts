// Clusters on two real servers: registered after an inspection, chosen for new tenants, each with its own connections. A cluster
// that fails affects no other cluster.
import { sql } from 'kysely';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, inject, it, onTestFinished } from 'vitest';
import { findCluster } from '../../db/registry/cluster-queries.js';
import { findInstallationId } from '../../db/registry/installation.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { createDatabase } from '../../db/driver/client.js';
import { prepareAndMigrate } from '../../src/boot/index.js';
import { readSettings } from '../../src/config/index.js';
import { createLogger } from '../../src/observability/logger.js';
import type { SecurityEventName } from '../../src/observability/security-catalogue.js';
import { connectionsOf } from '../../src/clusters/dead-replicas.js';
import { createServerLooks } from '../../src/clusters/server-looks.js';
import { createEnvelope } from '../../src/secrets/envelope.js';
import { standbyMark } from '../../src/operations/standby/standby-databases.js';
import {
  ADMIN,
  connectAs,
  createRegistry,
  startService,
  startServiceForTest,
  urlOf,
  type Answer,
  type PageOf,
  type Problem,
  type TestService,
  type TestTenant,
} from '../support/app.js';
import { selfSigned } from '../support/certificate.js';
import { startProxy } from '../support/proxy.js';
import { startSecondCluster, type SecondCluster } from '../support/second-cluster.js';
import { passwordOf, rowOf } from '../support/tenants.js';
import { parseExposition } from '../support/exposition.js';

interface Cluster {
  id: string;
  name: string;
  host: string;
  port: number;
  region: string | null;
  isDefault: boolean;
  accepting: boolean;
  weight: number;
  standbyTarget: number;
  connectionBudget: number;
  connectionReserve: number;
  tenants: number;
  standbyDatabases: number;
}

interface Pools {
  clusters: {
    cluster: string;
    id: string | null;
    name: string | null;
    budget: { tenants: number; reserve: number };
    highestUsed: number;
  }[];
}

let registry: string;
let second: SecondCluster;
let service: TestService;
/** Another replica on the same registry. */
let other: TestService;
let defaultCluster: Cluster;
let registered: Answer<Cluster & { warnings: string[] }>;
/** All answers: the last test searches them for secrets. */
const answers: string[] = [];
let tenants = 0;

beforeAll(async () => {
  [second, registry] = await Promise.all([startSecondCluster(), createRegistry()]);
  // The deadline of a creation on a server that is down.
  service = await startService({ registry, overrides: { operationTimes: { createDeadline: 8_000 } } });
  other = await startService({ registry });
  const list = await get<PageOf<Cluster>>('/clusters');
  const [first] = list.body.data;
  if (!first) throw new Error('the default cluster is not listed');
  defaultCluster = first;
  registered = await post<Cluster & { warnings: string[] }>('/clusters', { ...second.body, region: 'eu', weight: 100 });
});
afterAll(async () => {
  await Promise.all([service.close(), other.close()]);
  await second.stop();
});

function keep<T>(answer: Answer<T>): Answer<T> {
  answers.push(answer.text);
  return answer;
}

const get = async <T = Record<string, unknown>>(url: string, from = service): Promise<Answer<T>> =>
  keep(await from.send<T>('GET', url, { token: service.operatorToken }));
const post = async <T = Record<string, unknown>>(url: string, body?: unknown, to = service): Promise<Answer<T>> =>
  keep(await to.send<T>('POST', url, { token: service.operatorToken, ...(body !== undefined && { body }) }));
const patch = async (id: string, body: unknown): Promise<Answer<Cluster & Problem>> =>
  keep(await service.send<Cluster & Problem>('PATCH', `/clusters/${id}`, { token: service.operatorToken, body }));
const remove = async (url: string): Promise<Answer<Problem>> =>
  keep(await service.send<Problem>('DELETE', url, { token: service.operatorToken }));

const secondId = (): string => registered.body.id;

/** How many security events of this name the service has counted. */
async function countOf(event: SecurityEventName): Promise<number | undefined> {
  const { body } = await service.app.engine.metrics.expose();
  return parseExposition(body).sum('tenantry_security_events_total', { event });
}

/** Makes a tenant on the wanted cluster, and signs its admin in. */
async function make(wish: object, at = service): Promise<TestTenant & { clusterId: string }> {
  const slug = `placed-${(tenants += 1)}`;
  const made = await post<{ id: string; clusterId: string }>(
    '/tenants',
    { name: slug, slug, admin: ADMIN, ...wish },
    at,
  );
  if (made.status !== 201) throw new Error(`POST /tenants answered ${made.status}: ${made.text}`);
  const { email, password } = ADMIN;
  const signedIn = await at.send<{ accessToken: string; user: { id: string } }>('POST', '/auth/login', {
    body: { tenant: slug, email, password },
  });
  if (signedIn.status !== 200) throw new Error(`sign-in answered ${signedIn.status}: ${signedIn.text}`);
  return {
    id: made.body.id,
    slug,
    clusterId: made.body.clusterId,
    adminToken: signedIn.body.accessToken,
    adminId: signedIn.body.user.id,
  };
}

/** Deletes and purges a tenant. */
async function purge(id: string): Promise<void> {
  expect((await remove(`/tenants/${id}`)).status).toBe(204);
  expect((await post(`/tenants/${id}/purge`)).status).toBe(204);
}

/** A server that counts its connections and closes each at once. */
async function listener(host: string): Promise<{ port: number; connections: () => number }> {
  let connections = 0;
  const server = createServer((socket: Socket) => {
    connections += 1;
    socket.destroy();
  });
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  onTestFinished(
    () =>
      new Promise<void>(
        (resolve) =>
          void server.close(() => {
            resolve();
          }),
      ),
  );
  return { port: (server.address() as AddressInfo).port, connections: () => connections };
}

async function clusterNames(): Promise<string[]> {
  return (await get<PageOf<Cluster>>('/clusters?limit=100')).body.data.map(({ name }) => name);
}

describe('the default cluster', () => {
  it('is listed without being registered, with the values of the configuration', () => {
    const { host, port } = service.config.tenants.provisioner;
    const { tenants: budget, reserve } = service.config.tenants.clusterBudget;
    expect(defaultCluster).toMatchObject({
      host,
      port,
      isDefault: true,
      accepting: true,
      connectionBudget: budget,
      connectionReserve: reserve,
    });
  });

  it('cannot be removed, and its place, password and budget cannot be changed through the API', async () => {
    const { id } = defaultCluster;
    for (const body of [
      { connectionBudget: 50 },
      { connectionReserve: 3 },
      { provisionerPassword: 'another' },
      { host: '127.0.0.1', provisionerPassword: 'another' },
      { tls: 'verify-full', provisionerPassword: 'another' },
    ])
      expect((await patch(id, body)).body.code).toBe('default-cluster');
    expect((await remove(`/clusters/${id}`)).body.code).toBe('default-cluster');
    expect((await patch(id, { weight: 100, region: 'home' })).body).toMatchObject({ region: 'home', weight: 100 });
  });

  it('is brought up to date with the configuration when a replica starts, also for the time when it is not the default', async () => {
    const central = connectAs<Registry>(registry);
    await central.db
      .updateTable('clusters')
      .set({ provisioner_user: 'of_old' })
      .where('id', '=', defaultCluster.id)
      .execute();
    await startServiceForTest({ registry, operator: false });
    const { provisioner, clusterBudget } = service.config.tenants;
    const row = await central.db
      .selectFrom('clusters')
      .selectAll()
      .where('id', '=', defaultCluster.id)
      .executeTakeFirst();
    await central.close(0);
    const { id } = defaultCluster;
    const { host, port, user, password } = provisioner;
    const envelope = createEnvelope(service.config.encryptionKeys, 'clusters.provisioner_password');
    expect(row).toMatchObject({ provisioner_user: user, connection_budget: clusterBudget.tenants });
    expect(envelope.open(row?.provisioner_password ?? '', { id, host, port, user })).toBe(password);
  });
});

describe('registering a cluster', () => {
  it('answers 201 with the cluster, creates the template on it, and leaves a row in the audit', async () => {
    const { name, host, port } = second.body;
    expect(registered.status).toBe(201);
    expect(registered.headers.location).toBe(`/clusters/${secondId()}`);
    expect(registered.body).toMatchObject({ name, host, port, region: 'eu', isDefault: false, tenants: 0 });
    expect((await get<Cluster>(`/clusters/${secondId()}`)).body).toMatchObject({ id: secondId(), name });
    expect((await second.databases()).filter((database) => database.startsWith('tenantry_template_'))).toHaveLength(1);
    const audit = await service.app.engine.registry
      .selectFrom('audit')
      .select(['action', 'target_kind', 'actor_kind'])
      .where('target_id', '=', secondId())
      .where('action', '=', 'cluster.registered')
      .execute();
    expect(audit).toEqual([{ action: 'cluster.registered', target_kind: 'cluster', actor_kind: 'operator' }]);
    expect(await countOf('cluster-registered')).toBe(1);
  });

  it('refuses a name or a place that is taken', async () => {
    expect((await post<Problem>('/clusters', { ...second.body, name: 'twin' })).body.code).toBe('cluster-taken');
    const { host, port } = defaultCluster;
    expect((await post<Problem>('/clusters', { ...second.body, name: 'home', host, port })).body.code).toBe(
      'cluster-taken',
    );
  });

  it.each([
    '169.254.169.254',
    '10.0.0.1',
    '192.168.1.1',
    '127.0.0.2',
    '0.0.0.0',
    '::1',
    '::ffff:10.0.0.1',
    'fd00::1',
    '127.1',
    '2130706433',
    '0x7f.1',
    'localhost',
    'metadata.google.internal',
    '127.0.0.1.nip.io',
  ])('at %s, which is on no list, is refused with 422', async (host) => {
    const answer = await post<Problem>('/clusters', { ...second.body, name: 'elsewhere', host });
    expect([answer.status, answer.body.code]).toEqual([422, 'cluster-host-not-allowed']);
    expect(answer.body.errors.map(({ path }) => path)).toEqual(['/host']);
  });

  it.each(['/var/run/postgresql', 'a b', 'db:5432', 'http://db', 'db/x', '', 'a\0b'])(
    'at %j, which is not a host, is refused with 400',
    async (host) => {
      expect((await post('/clusters', { ...second.body, name: 'elsewhere', host })).status).toBe(400);
    },
  );

  it('sends no packet to a host that is not allowed', async () => {
    for (const [name, address, sent] of [
      ['127.0.0.2', '127.0.0.2', 0],
      ['localhost', '127.0.0.1', 0],
      ['127.0.0.1', '127.0.0.1', 1],
    ] as const) {
      const { port, connections } = await listener(address);
      const answer = await post<Problem>('/clusters', { ...second.body, name: 'elsewhere', host: name, port });
      expect([answer.status, answer.body.code]).toEqual([
        422,
        sent === 0 ? 'cluster-host-not-allowed' : 'cluster-unusable',
      ]);
      expect(Math.min(connections(), 1), name).toBe(sent);
    }
  });

  it('refuses a server that cannot hold tenants, says why, and registers nothing', async () => {
    const third = await startSecondCluster('third');
    onTestFinished(() => third.stop());
    await third.asSuperuser('postgres', async (db) => {
      for (const role of ['poor', 'reading']) {
        await sql`create role ${sql.id(role)} login password 'a-long-password'`.execute(db);
        await sql`grant connect on database postgres to ${sql.id(role)}`.execute(db);
      }
      await sql`alter role reading createdb createrole`.execute(db);
      await sql`alter role reading set default_transaction_read_only = on`.execute(db);
    });
    const { user, password } = third.superuser;
    const before = await third.databases();
    const refused: [Record<string, unknown>, string][] = [
      [{ provisionerPassword: 'not-the-password' }, '28P01'],
      [{ provisionerUser: user, provisionerPassword: password }, 'superuser'],
      [{ provisionerUser: 'poor', provisionerPassword: 'a-long-password' }, 'CREATEDB and CREATEROLE'],
      [{ provisionerUser: 'reading', provisionerPassword: 'a-long-password' }, 'does not accept writes'],
      [{ tls: 'verify-full' }, 'cannot connect to the server'],
      [{ port: 1 }, 'ECONNREFUSED'],
    ];
    for (const [wrong, reason] of refused) {
      const answer = await post<Problem & { detail: string }>('/clusters', { ...third.body, ...wrong });
      expect([answer.status, answer.body.code]).toEqual([422, 'cluster-unusable']);
      expect(answer.body.detail).toContain(reason);
    }
    expect(await clusterNames()).not.toContain('third');
    expect(await third.databases()).toEqual(before);

    // A server with warnings only is accepted.
    await third.asSuperuser('postgres', (db) => sql`create database left_open`.execute(db));
    const taken = await post<Cluster & { warnings: string[] }>('/clusters', {
      ...third.body,
      connectionBudget: 10_000,
      accepting: false,
    });
    expect(taken.status).toBe(201);
    expect(taken.body.warnings.join(' ')).toMatch(/10004 connections.*left_open/);
    const removals = (await countOf('cluster-removed')) ?? 0;
    expect((await remove(`/clusters/${taken.body.id}`)).status).toBe(204);
    expect(await countOf('cluster-removed')).toBe(removals + 1);
    expect(await clusterNames()).not.toContain('third');
  });
});

describe('a new tenant', () => {
  it('goes to the cluster with the least load for its weight', async () => {
    await patch(defaultCluster.id, { weight: 100 });
    const changes = (await countOf('cluster-changed')) ?? 0;
    await patch(secondId(), { weight: 300 });
    expect(await countOf('cluster-changed')).toBe(changes + 1);
    const placed: string[] = [];
    for (let count = 0; count < 8; count += 1) placed.push((await make({})).clusterId);
    expect(placed.filter((id) => id === secondId())).toHaveLength(6);
    await patch(secondId(), { weight: 100 });
    expect((await get<Cluster>(`/clusters/${secondId()}`)).body.tenants).toBe(6);
  });

  it('goes to the cluster or the region that the request names', async () => {
    expect((await make({ clusterId: defaultCluster.id })).clusterId).toBe(defaultCluster.id);
    expect((await make({ region: 'eu' })).clusterId).toBe(secondId());
    expect((await make({ region: 'home' })).clusterId).toBe(defaultCluster.id);
    for (const wish of [
      { region: 'mars' },
      { clusterId: '01900000-0000-7000-8000-00000000ffff' },
      { region: 'mars', clusterId: secondId() },
    ]) {
      const answer = await post<Problem>('/tenants', { name: 'Nowhere', slug: 'nowhere', admin: ADMIN, ...wish });
      expect([answer.status, answer.body.code]).toEqual([422, 'no-cluster']);
    }
  });

  it('is on its own server, separate from a tenant on the other', async () => {
    const [one, two] = [await make({ clusterId: defaultCluster.id }), await make({ clusterId: secondId() })];
    const [rowOne, rowTwo] = [await rowOf(service, one), await rowOf(service, two)];
    expect(await second.databases()).toContain(rowTwo.dbName);
    expect(await second.databases()).not.toContain(rowOne.dbName);

    const product = { name: 'Of one', price: '1' };
    const made = await service.send<{ id: string }>('POST', '/products', { token: one.adminToken, body: product });
    expect(made.status).toBe(201);
    expect((await service.send('GET', `/products/${made.body.id}`, { token: two.adminToken })).status).toBe(404);
    // A replica that has not seen either tenant before serves both.
    for (const { adminToken } of [one, two])
      expect((await other.send('GET', '/products', { token: adminToken })).status).toBe(200);

    // A tenant's role exists on its own server only.
    const { dbHost: host, dbPort: port, dbUser: user } = rowTwo;
    const password = passwordOf(service, rowTwo);
    const here = service.config.tenants.provisioner;
    for (const [place, works] of [
      [{ host, port }, true],
      [{ host: here.host, port: here.port }, false],
    ] as const) {
      const limits = { max: 1, acquireTimeout: 2_000, timeout: 2_000, idleTimeoutMillis: 1_000 };
      const database = works ? rowTwo.dbName : rowOne.dbName;
      const handle = createDatabase<unknown>({ ...place, user, password, database, tls: false }, limits, {
        applicationName: 'tests',
        preparedStatements: false,
      });
      const entered = await sql`select 1`.execute(handle.db).then(
        () => true,
        () => false,
      );
      await handle.close(0);
      expect(entered).toBe(works);
    }
  });

  it('is removed from its server completely', async () => {
    const { id } = await make({ clusterId: secondId() });
    const { dbName } = await rowOf(service, { id });
    await purge(id);
    expect(await second.databases()).not.toContain(dbName);
  });
});

describe('connections', () => {
  it('are limited on each cluster by its own budget, which can change at any time', async () => {
    const tenant = await make({ clusterId: secondId() });
    const of = async (from: TestService): Promise<Pools['clusters'][number] | undefined> =>
      (await get<Pools>('/pools', from)).body.clusters.find(({ id }) => id === secondId());
    expect(await of(service)).toMatchObject({ name: 'second', budget: { tenants: 20, reserve: 4 } });
    expect((await patch(secondId(), { connectionBudget: 2 })).body.connectionBudget).toBe(2);
    const shown = await get<{ data: unknown[] }>(
      `/operators/audit?action=cluster.updated&target=${secondId()}&limit=1`,
    );
    expect(shown.body.data).toMatchObject([
      { details: { fields: ['connectionBudget'], changes: { connectionBudget: { from: 20, to: 2 } } } },
    ]);
    expect((await of(service))?.budget).toEqual({ tenants: 2, reserve: 4 });
    await expect.poll(async () => (await of(other))?.budget.tenants, { timeout: 2_000 }).toBe(2);
    const defaults = (await get<Pools>('/pools')).body.clusters.find(({ id }) => id === defaultCluster.id);
    expect(defaults?.budget.tenants).toBe(service.config.tenants.clusterBudget.tenants);

    // Three replicas under load: together they stay within the budget.
    await patch(secondId(), { connectionBudget: 6 });
    const third = await startService({ registry });
    onTestFinished(() => third.close());
    const open = (): Promise<number> =>
      second.asSuperuser('postgres', async (db) => {
        const { rows } = await sql<{ count: number }>`
          select count(*)::int as count from pg_stat_activity where starts_with(usename, 'tn_')`.execute(db);
        return rows[0]?.count ?? -1;
      });
    await expect.poll(open, { timeout: 30_000 }).toBeLessThanOrEqual(6);
    const writing = Promise.all(
      [service, other, third].flatMap((replica) =>
        Array.from({ length: 40 }, () =>
          replica.send('POST', '/products', { token: tenant.adminToken, body: { name: 'Busy', price: '1' } }),
        ),
      ),
    );
    let most = 0;
    const state = { done: false };
    void writing.finally(() => (state.done = true));
    while (!state.done) most = Math.max(most, await open());
    expect((await writing).filter(({ status }) => status === 201).length).toBeGreaterThan(0);
    expect(most).toBeGreaterThan(0);
    expect(most).toBeLessThanOrEqual(6);
    await patch(secondId(), { connectionBudget: 20 });
  });

  it('of a dead replica are looked for on registered clusters only', async () => {
    const { clusterDirectory, replicaId } = service.app.engine;
    const looks = createServerLooks(clusterDirectory, 5_000);
    onTestFinished(() => looks.close());
    const { port, connections } = await listener('127.0.0.1');
    await expect(connectionsOf(looks, `127.0.0.1:${port}`, [replicaId])).rejects.toThrow('is no cluster');
    expect(connections()).toBe(0);
    const { host, port: own } = second.body;
    await make({ clusterId: secondId() });
    const counts = await connectionsOf(looks, `${host}:${own}`, [replicaId, 'nobody']);
    expect(counts.get(replicaId)).toBeGreaterThan(0);
    expect(counts.get('nobody')).toBe(0);
  });
});

describe('changing a cluster', () => {
  it('moves an empty cluster, encrypts its password for the new place, and serves new tenants there', async () => {
    const [from, to] = await Promise.all([startProxy(second.superuser), startProxy(second.superuser)]);
    onTestFinished(async () => {
      await Promise.all([from.close(), to.close()]);
    });
    const { host, port } = from;
    const { id } = (await post<Cluster>('/clusters', { ...second.body, name: 'moving', host, port })).body;
    const change = { port: to.port, provisionerPassword: second.provisioner.password };
    const before = await make({ clusterId: id });
    expect((await patch(id, change)).body.code).toBe('cluster-in-use');
    await purge(before.id);
    const moved = await patch(id, change);
    expect([moved.status, moved.body]).toEqual([200, expect.objectContaining({ id, host, port: to.port })]);

    const { provisionerPassword, provisionerUser: user } = (await findCluster(service.app.engine.registry, id)) ?? {};
    const envelope = createEnvelope(service.config.encryptionKeys, 'clusters.provisioner_password');
    const openFor = (at: number): string =>
      envelope.open(provisionerPassword ?? '', { id, host, port: at, user: user ?? '' });
    expect(openFor(to.port)).toBe(second.provisioner.password);
    expect(() => openFor(port)).toThrow();

    const sent = from.accepted;
    for (const replica of [service, other]) {
      const tenant = await make({ clusterId: id }, replica);
      expect((await rowOf(service, tenant)).dbPort).toBe(to.port);
      for (const { send } of [service, other]) {
        const product = { name: 'Moved', price: '1' };
        expect((await send('POST', '/products', { token: tenant.adminToken, body: product })).status).toBe(201);
      }
      await purge(tenant.id);
    }
    expect(from.accepted).toBe(sent);
    expect(to.accepted).toBeGreaterThan(0);
    expect((await remove(`/clusters/${id}`)).status).toBe(204);
  });

  it('accepts TLS if the server proves its identity, and reconnects its tenants on every replica', async () => {
    const { id, adminToken } = await make({ clusterId: secondId() });
    const { dbUser } = await rowOf(service, { id });
    /** Whether the tenant's sessions are encrypted, once both replicas have one. */
    async function encrypted(): Promise<boolean[]> {
      for (const { send } of [service, other])
        expect((await send('GET', '/products', { token: adminToken })).status).toBe(200);
      const { rows } = await second.asSuperuser('postgres', (db) =>
        sql<{ ssl: boolean }>`select distinct ssl from pg_stat_ssl join pg_stat_activity using (pid)
          where usename = ${dbUser}`.execute(db),
      );
      return rows.map(({ ssl }) => ssl);
    }
    const enter = (settings: { tls?: string; tlsCa: string | null }): ReturnType<typeof patch> =>
      patch(secondId(), { ...settings, provisionerPassword: second.provisioner.password });
    const refused = expect.objectContaining({ code: 'cluster-unusable' }) as unknown;
    const { host } = second.body;

    const own = await second.serveTls(host);
    expect(await encrypted()).toEqual([false]);
    for (const tlsCa of [null, selfSigned(host).certificate])
      expect((await enter({ tls: 'verify-full', tlsCa })).body).toEqual(refused);
    expect(await encrypted()).toEqual([false]);
    expect((await enter({ tls: 'verify-full', tlsCa: own })).status).toBe(200);
    await expect.poll(encrypted).toEqual([true]);
    expect((await make({ clusterId: secondId() }, other)).clusterId).toBe(secondId());

    // A certificate that is trusted, and is another server's.
    const foreign = await second.serveTls('127.0.0.2');
    const misled = await enter({ tlsCa: foreign });
    expect(misled.body).toEqual(refused);
    expect(misled.text).toContain('ERR_TLS_CERT_ALTNAME_INVALID');
    expect((await enter({ tls: 'off', tlsCa: null })).status).toBe(200);
    await expect.poll(encrypted).toEqual([false]);
  });

  it('accepts a new password that works, on every replica within a second', async () => {
    expect((await patch(secondId(), { provisionerPassword: 'not-the-password' })).body.code).toBe('cluster-unusable');
    const password = 'canary-another-provisioner-password';
    await second.asSuperuser('postgres', (db) =>
      sql`alter role ${sql.id(second.provisioner.user)} password ${sql.lit(password)}`.execute(db),
    );
    expect((await patch(secondId(), { provisionerPassword: password })).status).toBe(200);
    await expect
      .poll(() => other.app.engine.clusterDirectory.peek(second.body)?.connection().password, { timeout: 1_000 })
      .toBe(password);
    expect((await make({ clusterId: secondId() }, other)).clusterId).toBe(secondId());
  });

  it('requires the password with another host, port or TLS setting, and refuses another place for a cluster in use', async () => {
    for (const body of [{ host: '127.0.0.1' }, { port: 5433 }, { tls: 'verify-full' }, { tlsCa: null }]) {
      const answer = await patch(secondId(), body);
      expect([answer.status, answer.body.code]).toEqual([422, 'provisioner-password-needed']);
    }
    const password = { provisionerPassword: 'whatever-it-is' };
    expect((await patch(secondId(), { port: 5433, ...password })).body.code).toBe('cluster-in-use');
    expect((await patch(secondId(), { host: '10.0.0.1', ...password })).body.code).toBe('cluster-host-not-allowed');
  });

  it.each<[string, unknown]>([
    ['no field', {}],
    ['another user', { provisionerUser: 'x' }],
    ['a weight of 0', { weight: 0 }],
    ['a budget of 1', { connectionBudget: 1 }],
    ['a port of 65536', { port: 65_536 }],
    ['a certificate that is none', { tlsCa: 'x', provisionerPassword: 'y' }],
  ])('refuses %s', async (_what, body) => {
    expect((await patch(secondId(), body)).status).toBe(400);
  });
});

describe('draining a cluster', () => {
  it('gives it no new tenants, drops its standby databases, and answers with what remains', async () => {
    // Housekeeping also drops databases of an old schema: the job must not run at the same time.
    const standby = Array.from({ length: 6 }, (_, number) => `tn_standby_${number}`);
    await second.asSuperuser('postgres', async (db) => {
      for (const name of standby)
        await sql`create database ${sql.id(name)} owner ${sql.id(second.provisioner.user)}`.execute(db);
    });
    const central = connectAs<Registry>(registry);
    const installation = await findInstallationId(central.db);
    const idOf = (number: number): string => `01900000-0000-7000-8000-00000000aaa${number}`;
    await second.asSuperuser('postgres', async (db) => {
      for (const [number, name] of standby.entries())
        await sql`comment on database ${sql.id(name)} is ${sql.lit(standbyMark(installation, idOf(number)))}`.execute(
          db,
        );
    });
    await central.db
      .insertInto('standby_databases')
      .values(
        standby.map((name, number) => ({
          id: idOf(number),
          cluster_id: secondId(),
          db_name: name,
          db_user: name,
          db_password: 'v1.never.opened.in.here',
          schema_version: '0001',
          ready: true,
        })),
      )
      .execute();
    await central.close(0);
    expect((await remove(`/clusters/${secondId()}`)).body.code).toBe('cluster-in-use');
    const drained = await post<Cluster>(`/clusters/${secondId()}/drain`);
    expect(drained.status).toBe(200);
    const { tenants: left } = (await get<Cluster>(`/clusters/${secondId()}`)).body;
    expect(left).toBeGreaterThan(0);
    expect(drained.body).toEqual({ tenants: left, standbyDatabases: 0 });
    expect((await second.databases()).filter((name) => standby.includes(name))).toEqual([]);
    expect((await get<Cluster>(`/clusters/${secondId()}`)).body).toMatchObject({ accepting: false, standbyTarget: 0 });

    expect((await make({})).clusterId).toBe(defaultCluster.id);
    const wish = { name: 'Late', slug: 'late', admin: ADMIN, clusterId: secondId() };
    expect((await post<Problem>('/tenants', wish)).body.code).toBe('no-cluster');
    await patch(secondId(), { accepting: true });
  });
});

describe('npm run migrate', () => {
  it('creates the template of every cluster', async () => {
    const template = (await second.databases()).find((name) => name.startsWith('tenantry_template_')) ?? '';
    await second.asSuperuser('postgres', (db) => sql`drop database ${sql.id(template)}`.execute(db));
    const report = await migrateEverything();
    expect(report).toMatchObject({ templateMade: true, failed: [], clustersFailed: [] });
    expect(await second.databases()).toContain(template);
  });
});

/** Does what the command does, with the environment that it would read. */
async function migrateEverything(): ReturnType<typeof prepareAndMigrate> {
  const { connection } = service.config.registry;
  const settings = readSettings({
    NODE_ENV: 'test',
    DATABASE_URL: urlOf(connection),
    MIGRATION_DATABASE_URL: urlOf({ ...connection, ...inject('cluster').registryOwner }),
    TENANT_DATABASE_URL: urlOf(service.config.tenants.provisioner),
    ENCRYPTION_KEYS: `test:${Buffer.alloc(32, 7).toString('base64')}`,
    JWT_SECRET: 'a-secret-of-more-than-thirty-two-characters',
  });
  return prepareAndMigrate(settings, createLogger({ level: 'silent', pretty: false }), () => undefined);
}

describe('a cluster that fails', () => {
  it('is reported by a check, and its own tenants get 503, but no other tenant', async () => {
    const check = await post(`/clusters/${secondId()}/check`);
    expect(check.body).toMatchObject({
      usable: true,
      problems: [],
      version: expect.stringMatching(/^\d\d\.\d/) as string,
    });
    const [here, there] = [await make({ clusterId: defaultCluster.id }), await make({ clusterId: secondId() })];
    const ask = (tenant: TestTenant): Promise<Answer> => service.send('GET', '/products', { token: tenant.adminToken });
    expect([(await ask(here)).status, (await ask(there)).status]).toEqual([200, 200]);

    await second.stop();
    await expect.poll(async () => (await ask(there)).status, { timeout: 30_000 }).toBe(503);
    const rounds = await Promise.all(Array.from({ length: 10 }, async () => [await ask(here), await ask(there)]));
    expect(rounds.map((pair) => pair.map(({ status }) => status))).toEqual(rounds.map(() => [200, 503]));
    const dead = await post(`/clusters/${secondId()}/check`);
    expect(dead.body).toMatchObject({
      usable: false,
      version: null,
      problems: [expect.stringContaining('ECONNREFUSED')],
    });

    const wish = { name: 'Late', slug: 'too-late', admin: ADMIN, clusterId: secondId() };
    expect((await post<Problem>('/tenants', wish)).status).toBe(503);
    // The breaker of its tenants is open: new tenants without a wanted cluster go elsewhere.
    await patch(defaultCluster.id, { weight: 1 });
    await expect
      .poll(
        async () => {
          await ask(there);
          return service.app.engine.breakers.state('cluster', `${second.body.host}:${second.body.port}`)?.state;
        },
        { timeout: 30_000 },
      )
      .toMatch(/open/);
    expect((await make({})).clusterId).toBe(defaultCluster.id);
  });

  it('is reported by the migration, which migrates the other clusters', async () => {
    const { clustersFailed, failed } = await migrateEverything();
    expect(clustersFailed.map(({ cluster }) => cluster)).toEqual([`${second.body.host}:${second.body.port}`]);
    // Its tenants were up to date before it died.
    expect(failed).toEqual([]);
  });

  it('showed no password in any answer', () => {
    expect(answers.join('\n')).not.toContain('canary');
    expect(answers.length).toBeGreaterThan(50);
  });
});
