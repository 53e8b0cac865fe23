// What docs/guide/poolers.md says about PgBouncer, tried with one program: the installed one, or one that is built for it.
import { sql } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, inject, it, onTestFinished } from 'vitest';
import { ClientConnection } from '../../db/driver/connection.js';
import { clientConfig, openPool, type ConnectionSettings } from '../../db/driver/client.js';
import { proveSession } from '../../db/driver/proof.js';
import { countSessions } from '../../db/server/server-admin.js';
import { checkRegistry } from '../../src/boot/registry-at-start.js';
import { ADMIN, asSuperuser, configFor, createRegistry, startServiceIn, urlOf, type TestService } from './app.js';
import { RECOMMENDED, startPgBouncer, type PgBouncer, type Settings } from './pgbouncer.js';
import { startSecondCluster } from './second-cluster.js';
import { eventually } from './service-process.js';
import { rowOf } from './tenants.js';

const SHARES = 'a pooler shares its connections between sessions';

/** Settings that cannot work, and the sentence with which each is refused. */
const UNUSABLE: readonly (readonly [string, Settings, string])[] = [
  ['in transaction mode', { ...RECOMMENDED, pool_mode: 'transaction' }, `${SHARES} .*set pool_mode = session`],
  ['in statement mode', { ...RECOMMENDED, pool_mode: 'statement' }, `${SHARES} .*set pool_mode = session`],
  [
    'that ignores no startup parameters',
    { ...RECOMMENDED, ignore_startup_parameters: undefined },
    'a pooler refuses the settings of sessions .*set pool_mode = session and ignore_startup_parameters = options',
  ],
];

/** @param program the file of PgBouncer. @param note for the titles, if it is missing */
export function describePooler(name: string, program: () => string, note = ''): void {
  describe.skipIf(note !== '')(`${name}${note}`, () => {
    const start = async (settings: Settings = RECOMMENDED, target = ''): Promise<PgBouncer> => {
      const pooler = await startPgBouncer(program(), inject('cluster').superuser, settings, target);
      onTestFinished(() => pooler.close());
      return pooler;
    };

    describe.each(['on', 'off'])('in session mode, with PREPARED_STATEMENTS=%s', (PREPARED_STATEMENTS) => {
      it('serves in front of the servers of the tenants', async () => {
        const service = await serve({ tenants: await start(), env: { PREPARED_STATEMENTS } });
        await useTenant(service);
      });

      it('serves in front of the registry', async () => {
        const registry = await createRegistry();
        const pooler = await start();
        const cluster = inject('cluster');
        const { connection } = configFor(cluster, registry).registry;
        const config = configFor(cluster, registry, {
          DATABASE_URL: urlOf({ ...connection, host: pooler.host, port: pooler.port }),
        });
        await checkRegistry({
          ...config,
          registry: { ...config.registry, connection: { ...connection, ...placeOf(pooler) } },
        });
        const service = await serve({ registry: pooler, database: registry, env: { PREPARED_STATEMENTS } });
        await useTenant(service);
      });
    });

    it('lets the service make the template of a cluster, and a tenant from it', async () => {
      const second = await startSecondCluster('pooled');
      onTestFinished(() => second.stop());
      const pooler = await startPgBouncer(program(), second.superuser, RECOMMENDED);
      onTestFinished(() => pooler.close());
      const service = await serve({});
      const token = service.operatorToken;
      const body = { ...second.body, ...placeOf(pooler) };
      const cluster = await service.send<{ id: string }>('POST', '/clusters', { token, body });
      expect(cluster.status, cluster.text).toBe(201);
      const tenant = { name: 'Pooled', slug: 'pooled', admin: ADMIN, clusterId: cluster.body.id };
      expect((await service.send('POST', '/tenants', { token, body: tenant })).status).toBe(201);
    });

    it.each(UNUSABLE)(
      '%s is refused in words, in front of a cluster that is checked',
      async (_, settings, sentence) => {
        const pooler = await start(settings);
        const service = await serve({});
        const { provisioner } = inject('cluster');
        const body = {
          ...{ name: 'pooled', ...placeOf(pooler), tls: 'off', connectionBudget: 10, connectionReserve: 2 },
          ...{ provisionerUser: provisioner.user, provisionerPassword: provisioner.password },
        };
        const answer = await service.send('POST', '/clusters', { token: service.operatorToken, body });
        expect([answer.status, answer.body]).toEqual([
          422,
          expect.objectContaining({ code: 'cluster-unusable', detail: expect.stringMatching(sentence) as string }),
        ]);
      },
    );

    it.each(UNUSABLE)(
      '%s is refused in words, in front of the registry at the start',
      async (_, settings, sentence) => {
        const registry = await createRegistry();
        const pooler = await start(settings);
        const { connection, ...rest } = configFor(inject('cluster'), registry).registry;
        const config = configFor(inject('cluster'), registry);
        await expect(
          checkRegistry({ ...config, registry: { ...rest, connection: { ...connection, ...placeOf(pooler) } } }),
        ).rejects.toThrow(new RegExp(`the registry at .* cannot be used .*${sentence}`));
      },
    );

    it('that changes to transaction mode while the service runs gets no further connection, until it is changed back', async () => {
      const pooler = await start();
      const lines: string[] = [];
      const service = await serve({ tenants: pooler, env: { LOG_LEVEL: 'warn' }, lines });
      const tenant = await service.createTenant();
      const list = async (): Promise<number> =>
        (await service.send('GET', '/products', { token: tenant.adminToken })).status;
      expect(await list()).toBe(200);
      await pooler.reload({ ...RECOMMENDED, pool_mode: 'transaction' });
      const { dbName } = await rowOf(service, tenant);
      await eventually('it is refused', async () => {
        // An open connection is not asked again.
        await asSuperuser('postgres', (db) =>
          sql`select pg_terminate_backend(pid) from pg_stat_activity where datname = ${dbName}`.execute(db),
        );
        await list();
        await sleep(500);
        return lines.some((line) => line.includes(SHARES));
      });
      await eventually('no connection is left', async () => (await list()) === 503);
      await pooler.reload(RECOMMENDED);
      await eventually('it serves again', async () => (await list()) === 200);
    });

    it('that never resets its connections is refused, when a session would follow another one', async () => {
      const pooler = await start({ ...RECOMMENDED, server_reset_query: '' });
      const connection = { ...inject('cluster').provisioner, ...placeOf(pooler) };
      const first = openFor(connection);
      await first.run('select 1', []);
      await first.close(0);
      await expect(openFor(connection).run('select 1', [])).rejects.toThrow(SHARES);
    });

    it('that signs in as a role of its own is refused, whatever it may enter', async () => {
      const { superuser, provisioner } = inject('cluster');
      const pooler = await start(RECOMMENDED, `user=${provisioner.user} password=${provisioner.password}`);
      const pool = openFor({ ...superuser, ...placeOf(pooler) });
      await expect(pool.run('select 1', [])).rejects.toThrow('a pooler signs in as another role');
    });

    it('gives each session its settings and its deadline, and says which backend it has', async () => {
      const pooler = await start();
      const reached: number[] = [];
      const pool = openFor({ ...inject('cluster').provisioner, ...placeOf(pooler) }, reached);
      const [row] = await pool.run(
        `select pg_backend_pid() as pid, current_setting('statement_timeout') as deadline, current_setting('DateStyle') as dates,
          current_setting('idle_in_transaction_session_timeout') as idle, current_setting('TimeZone') as zone,
          current_setting('client_connection_check_interval') as looks`,
        [],
      );
      expect(row).toEqual({
        ...{ pid: reached[0], deadline: '300ms', idle: '300ms', zone: 'UTC', looks: '5s' },
        dates: expect.stringMatching(/^ISO/) as string,
      });
      await expect(pool.run('select pg_sleep(5)', [])).rejects.toMatchObject({ kind: 'timeout', reason: '57014' });
    });

    it('serves a role that may have one connection only', async () => {
      const pooler = await start();
      const user = `limited_${pooler.port}`;
      const role = sql.id(user);
      await asSuperuser('postgres', async (db) => {
        await sql`create role ${role} login connection limit 1 password 'of-the-limited-role'`.execute(db);
        await sql`grant connect on database postgres to ${role}`.execute(db);
      });
      onTestFinished(() =>
        asSuperuser('postgres', async (db) => {
          await sql`revoke connect on database postgres from ${role}`.execute(db);
          await sql`drop role ${role}`.execute(db);
        }),
      );
      const pool = openFor({
        ...inject('cluster').superuser,
        user,
        password: 'of-the-limited-role',
        ...placeOf(pooler),
      });
      expect(await pool.run('select 1 as one', [])).toEqual([{ one: 1 }]);
      expect(await pool.run('select 2 as two', [])).toEqual([{ two: 2 }]);
    });

    it('leaves no session of a replica that was killed', async () => {
      const pooler = await start();
      const replica = `replica-${pooler.port}`;
      const left = (): Promise<number> =>
        asSuperuser('postgres', async (db) => (await countSessions(db, [replica])).get(replica) ?? 0);
      const open = async (): Promise<ClientConnection> => {
        const client = new ClientConnection({
          ...clientConfig({ ...inject('cluster').provisioner, ...placeOf(pooler) }),
          application_name: `tenantry ${replica}`,
        });
        await client.open(5_000);
        await client.query('set client_connection_check_interval = 500');
        return client;
      };
      const clients = [await open(), await open()];
      clients[0]?.query('select pg_sleep(50)').catch(() => undefined);
      expect(await left()).toBe(2);
      // As the end of a process does.
      for (const client of clients) client.cut();
      await eventually('its sessions are gone', async () => (await left()) === 0);
    });
  });
}

async function serve(options: {
  readonly tenants?: PgBouncer;
  readonly registry?: PgBouncer;
  readonly database?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly lines?: string[];
}): Promise<TestService> {
  const cluster = inject('cluster');
  const { tenants, registry, env = {}, lines } = options;
  const pooled = {
    ...cluster,
    ...(registry && { superuser: { ...cluster.superuser, ...placeOf(registry) } }),
    ...(tenants && { provisioner: { ...cluster.provisioner, ...placeOf(tenants) } }),
  };
  const service = await startServiceIn(pooled, {
    registry: options.database ?? (await createRegistry()),
    env,
    ...(lines && { overrides: { logStream: { write: (line: string) => void lines.push(line) } } }),
  });
  onTestFinished(() => service.close());
  return service;
}

/** The life of a tenant: made, written, read, given another password, suspended, opened, deleted. */
async function useTenant(service: TestService): Promise<void> {
  const { send, operatorToken } = service;
  const tenant = await service.createTenant();
  const token = tenant.adminToken;
  const act = async (act: string): Promise<number> =>
    (await send('POST', `/tenants/${tenant.id}/${act}`, { token: operatorToken })).status;
  const list = (): ReturnType<typeof send<{ data: unknown[] }>> => send('GET', '/products', { token });
  const writes = Array.from({ length: 20 }, (_, index) =>
    send('POST', '/products', { token, body: { name: `Product ${index}`, price: '1.50' } }),
  );
  expect(new Set((await Promise.all(writes)).map(({ status }) => status))).toEqual(new Set([201]));
  const lists = await Promise.all(Array.from({ length: 20 }, list));
  expect(new Set(lists.map(({ status, body }) => `${status} ${body.data.length}`))).toEqual(new Set(['200 20']));
  expect(await act('rotate-password')).toBe(204);
  expect((await list()).status).toBe(200);
  expect(await act('suspend')).toBe(200);
  expect((await list()).status).toBe(403);
  expect(await act('resume')).toBe(200);
  await eventually('it is served again', async () => (await list()).status === 200);
  expect((await send('DELETE', `/tenants/${tenant.id}`, { token: operatorToken })).status).toBe(204);
}

/** @param reached gets the backends that the pool reports */
function openFor(connection: ConnectionSettings, reached: number[] = []): ReturnType<typeof openPool> {
  const slot = {
    closing: () => undefined,
    release: () => undefined,
    orphan: (freed: () => void) => {
      freed();
    },
  };
  const counted = { ...slot, reached: (pid: number) => void reached.push(pid) };
  const limits = { max: 1, acquireTimeout: 5_000, timeout: 300, idleTimeoutMillis: 1_000 };
  const pool = openPool(connection, limits, {
    applicationName: 'tests',
    preparedStatements: false,
    prove: proveSession,
    admit: () => ({
      tryOpen: () => counted,
      open: async () => counted,
      idle: () => undefined,
      mustYield: () => false,
      leave: () => undefined,
    }),
  });
  onTestFinished(() => pool.close(0));
  return pool;
}

function placeOf({ host, port }: PgBouncer): { host: string; port: number } {
  return { host, port };
}
