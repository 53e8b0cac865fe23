// Clients that leave before they have their answer: their requests leave the queues, and what they read is cancelled on PostgreSQL.
// Writes that have begun are finished. A cancel never reaches the statement of another request.
import { sql, type Kysely } from 'kysely';
import { EventEmitter, once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, inject, it, onTestFinished } from 'vitest';
import { findTenant } from '../../db/registry/tenant-queries.js';
import { requestCancel } from '../../db/driver/cancel.js';
import { clientConfig, openPool, type ConnectionSettings } from '../../db/driver/client.js';
import type { ConnectionPool } from '../../db/driver/pool/pool.js';
import type { PoolOptions } from '../../db/driver/pool/pool-types.js';
import type { Requester } from '../../src/lib/requester.js';
import { asSuperuser, startService, type TestService, type TestTenant } from '../support/app.js';
import { startCluster } from '../support/cluster.js';
import { serveTls } from '../support/tls-server.js';
import { listen } from '../support/wire.js';

const PATIENCE = { timeout: 30_000, interval: 10 };

/** The promise for a statement whose client has left (ms). */
const CANCELLED_WITHIN = 1_000;

class Client extends EventEmitter implements Requester {
  destroyed = false;

  leave(): void {
    this.destroyed = true;
    this.emit('close');
  }
}

describe('a statement of a client that has left', () => {
  let server: ConnectionSettings;
  beforeAll(() => {
    const { superuser } = inject('cluster');
    server = { ...superuser, database: 'postgres' };
  });

  function open(to: Partial<ConnectionSettings> = {}, max = 1, options: Partial<PoolOptions> = {}): ConnectionPool {
    const pool = openPool(
      { ...server, ...to },
      { max, acquireTimeout: 5_000, timeout: 10_000, idleTimeoutMillis: 60_000 },
      { applicationName: 'leaving test', preparedStatements: true, ...options },
    );
    onTestFinished(() => pool.close(0));
    return pool;
  }

  const pidOf = async (pool: ConnectionPool): Promise<unknown> =>
    (await pool.run<{ pid: number }>('select pg_backend_pid() as pid', []))[0]?.pid;

  it('is cancelled, and its connection is used again', async () => {
    const departures = { cancelled: 0 };
    const pool = open({}, 1, { departures });
    const pid = await pidOf(pool);
    const client = new Client();
    const began = performance.now();
    const answer = pool.run('select pg_sleep(8)', [], client).catch((error: unknown) => error);
    await sleep(50);
    client.leave();
    expect(await answer).toMatchObject({ name: 'ClientLeft' });
    expect(performance.now() - began).toBeLessThan(CANCELLED_WITHIN);
    expect(departures.cancelled).toBe(1);
    expect(await pidOf(pool)).toBe(pid);
    expect(client.listenerCount('close')).toBe(0);
  });

  it('is cancelled behind TLS as well, and nothing is sent to a server without the right certificate', async () => {
    const own = await startCluster();
    onTestFinished(() => own.stop());
    const ca = await serveTls(own.cluster.superuser, 'localhost');
    const to = { ...own.cluster.superuser, host: 'localhost', tls: { ca } };
    const pool = open(to);
    const pid = await pidOf(pool);
    const client = new Client();
    const answer = pool.run('select pg_sleep(8)', [], client).catch((error: unknown) => error);
    await sleep(50);
    client.leave();
    expect(await answer).toMatchObject({ name: 'ClientLeft' });
    expect(await pidOf(pool)).toBe(pid);
    const key = { processID: 1, secretKey: 1 };
    const config = clientConfig({ ...server, ...to, tls: {} });
    expect(await requestCancel(config, key)).not.toBe('done');
    expect(await requestCancel({ ...config, port: 1 }, key)).toBe('not-sent');
  });

  it('never takes the next statement of its connection with it', async () => {
    const departures = { cancelled: 0 };
    const pool = open({}, 1, { departures });
    const pid = await pidOf(pool);
    for (let round = 0; round < 60; round += 1) {
      const client = new Client();
      const left = pool.run('select pg_sleep(0.03)', [], client).catch(() => undefined);
      const next = pool.run('select pg_sleep(0.002)', []);
      // Around the end of the first statement.
      await sleep(round % 35);
      client.leave();
      await Promise.all([left, next]);
    }
    expect(departures.cancelled).toBeGreaterThan(0);
    expect(await pidOf(pool)).toBe(pid);
  }, 120_000);

  /** A way to the server that holds back CancelRequests until it is told to pass them on. */
  async function wayWith(onCancel: (pass: () => void, all: Set<Socket>) => void): Promise<Partial<ConnectionSettings>> {
    const all = new Set<Socket>();
    const way = createServer((socket) => {
      all.add(socket);
      socket.on('error', () => undefined);
      socket.once('data', (first) => {
        const through = (): void => {
          const upstream = connect(server.port, server.host);
          upstream.on('error', () => undefined);
          upstream.write(first);
          socket.pipe(upstream).pipe(socket);
        };
        // Length 16, then the code of a CancelRequest.
        if (first.length === 16 && first.readInt32BE(4) === 80_877_102) onCancel(through, all);
        else through();
      });
    }).listen(0, '127.0.0.1');
    await once(way, 'listening');
    onTestFinished(() => {
      for (const socket of all) socket.destroy();
      way.close();
    });
    return { host: '127.0.0.1', port: (way.address() as AddressInfo).port };
  }

  it('whose cancel is under way for too long leaves no connection that the cancel could still reach', async () => {
    let passOn = (): void => undefined;
    const pool = open(await wayWith((pass) => (passOn = pass)));
    const pid = await pidOf(pool);
    const client = new Client();
    const answer = pool.run('select pg_sleep(0.3)', [], client).catch((error: unknown) => error);
    await sleep(50);
    client.leave();
    await answer;
    expect(await pidOf(pool)).not.toBe(pid);
    const next = pool.run('select pg_sleep(0.3)', []);
    passOn();
    await expect(next).resolves.toHaveLength(1);
  });

  it('ends with its server, and the pool connects again', async () => {
    const pool = open(
      await wayWith((_, all) => {
        for (const socket of all) socket.destroy();
      }),
    );
    const client = new Client();
    const answer = pool.run('select pg_sleep(8)', [], client).catch((error: unknown) => error);
    await expect.poll(() => pool.stats(), PATIENCE).toMatchObject({ total: 1, idle: 0 });
    await sleep(100);
    client.leave();
    expect(await answer).toMatchObject({ name: 'DatabaseFault' });
    await expect.poll(() => pool.run('select 1 as one', []).catch(() => []), PATIENCE).toEqual([{ one: 1 }]);
  });

  it('on the lane is finished: a cancel would reach the read of another client', async () => {
    const departures = { cancelled: 0 };
    const pool = open({}, 2, { lane: true, departures });
    const [mine, other] = [new Client(), new Client()];
    await pool.read('select 1', []);
    const left = pool.read('select pg_sleep(0.2)', [], mine);
    const stayed = pool.read('select 2 as two', [], other);
    await sleep(50);
    mine.leave();
    await expect(stayed).resolves.toEqual([{ two: 2 }]);
    await left;
    expect(departures.cancelled).toBe(0);
  });

  it('is cancelled for fifty clients at once, and every connection works afterwards', async () => {
    const pool = open({}, 10);
    const clients = Array.from({ length: 50 }, () => new Client());
    const answers = clients.map((client) =>
      pool.run('select pg_sleep(8)', [], client).catch((error: unknown) => error),
    );
    await expect.poll(() => pool.stats(), PATIENCE).toMatchObject({ total: 10, waiting: 40 });
    await sleep(100);
    for (const client of clients) client.leave();
    expect(pool.stats().waiting).toBe(0);
    for (const answer of await Promise.all(answers)) expect(answer).toMatchObject({ name: 'ClientLeft' });
    await Promise.all(clients.map(() => pool.run('select pg_sleep(0.01)', [])));
  });
});

describe('a service whose clients leave', () => {
  let service: TestService;
  let tenant: TestTenant;
  let port: number;
  let database: string;

  beforeAll(async () => {
    service = await startService({ env: { CLUSTER_CONNECTION_BUDGET: '16', POOL_MAX: '5' } });
    tenant = await service.createTenant();
    port = await listen(service);
    database = (await findTenant(service.app.engine.registry, tenant.id))?.dbName ?? expect.fail('no such tenant');
    await asSuperuserIn((db) =>
      // Reading a row of the category `slow` takes long, and so does writing one of the category `tardy`.
      sql`
        alter table products enable row level security;
        create policy quick on products using (true) with check (true);
        create policy reads on products as restrictive for select
          using (case when category = 'slow' then pg_sleep(8) is not null else true end);
        create policy writes on products as restrictive for insert
          with check (case when category = 'tardy' then pg_sleep(0.5) is not null else true end);
        insert into products (id, name, price, category) values (gen_random_uuid(), 'Snail', 1, 'slow')`.execute(db),
    );
  });
  afterAll(() => service.close());

  const asSuperuserIn = <T>(work: (db: Kysely<unknown>) => Promise<T>): Promise<T> => asSuperuser(database, work);

  const runningSearches = (): Promise<number> =>
    asSuperuser('postgres', async (db) => {
      const { rows } = await sql<{ running: number }>`
        select count(*)::int as running from pg_stat_activity
        where datname = ${database} and state = 'active' and application_name like 'tenantry %'`.execute(db);
      return rows[0]?.running ?? 0;
    });

  function ask(method: string, path: string, body?: object, headers = ''): Socket {
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => undefined);
    const text = body ? JSON.stringify(body) : '';
    const content = body ? `Content-Type: application/json\r\nContent-Length: ${Buffer.byteLength(text)}\r\n` : '';
    const caller = `Host: a\r\nAuthorization: Bearer ${tenant.adminToken}\r\n`;
    socket.write(`${method} ${path} HTTP/1.1\r\n${caller}${headers}${content}\r\n${text}`);
    onTestFinished(() => void socket.destroy());
    return socket;
  }

  const namesOf = async (search: string): Promise<string[]> => {
    const found = await asSuperuserIn((db) =>
      sql<{ name: string }>`select name from products where name = ${search}`.execute(db),
    );
    return found.rows.map(({ name }) => name);
  };
  const create = (name: string): Promise<{ readonly status: number }> =>
    service.send('POST', '/products', { token: tenant.adminToken, body: { name, price: '1.00' } });

  const waiting = (): number => service.app.engine.tenantPools.inspect(tenant.id)?.waiting ?? 0;

  it('has no statement and no queue of 500 searches that were given up, and takes the next write', async () => {
    const sockets: Socket[] = [];
    for (let index = 0; index < 500; index += 1)
      sockets.push(ask('GET', `/products?category=slow&search=nail&maxPrice=${2 + index}`));
    await expect.poll(() => service.app.engine.traffic.inFlight, PATIENCE).toBe(500);
    await expect.poll(runningSearches, PATIENCE).toBeGreaterThan(2);
    for (const socket of sockets) socket.destroy();
    const left = performance.now();
    await expect.poll(() => service.app.engine.traffic.inFlight, PATIENCE).toBe(0);
    expect((await create('Hare')).status).toBe(201);
    expect(waiting()).toBe(0);
    await expect.poll(runningSearches, PATIENCE).toBe(0);
    expect(performance.now() - left).toBeLessThan(5_000);
    expect(service.app.engine.governors.stats()).toMatchObject([{ waiting: 0 }]);
  });

  it('finishes a write that has begun, with and without an Idempotency-Key', async () => {
    const product = { price: '1.00', category: 'tardy' };
    const plain = ask('POST', '/products', { ...product, name: 'Tortoise' });
    const keyed = ask('POST', '/products', { ...product, name: 'Terrapin' }, 'Idempotency-Key: leaving\r\n');
    await expect.poll(runningSearches, PATIENCE).toBe(2);
    plain.destroy();
    keyed.destroy();
    await expect.poll(() => namesOf('Tortoise'), PATIENCE).toEqual(['Tortoise']);
    await expect.poll(() => namesOf('Terrapin'), PATIENCE).toEqual(['Terrapin']);
    // The key was used: the request is answered and not done again.
    const again = await service.send('POST', '/products', {
      token: tenant.adminToken,
      headers: { 'idempotency-key': 'leaving' },
      body: { ...product, name: 'Terrapin' },
    });
    expect([again.status, again.headers['idempotent-replayed']]).toEqual([201, 'true']);
  });

  it('takes a write that still waits for a connection out of the queue, and changes nothing', async () => {
    const reads = Array.from({ length: 6 }, (_, index) => ask('GET', `/products?category=slow&minPrice=0.9${index}`));
    await expect.poll(waiting, PATIENCE).toBeGreaterThan(0);
    const before = waiting();
    const write = ask('POST', '/products', { name: 'Shy', price: '1.00' });
    const keyed = ask('POST', '/products', { name: 'Shy', price: '1.00' }, 'Idempotency-Key: shy\r\n');
    await expect.poll(waiting, PATIENCE).toBeGreaterThan(before);
    write.destroy();
    keyed.destroy();
    await expect.poll(waiting, PATIENCE).toBe(before);
    for (const read of reads) read.destroy();
    await expect.poll(runningSearches, PATIENCE).toBe(0);
    expect(await namesOf('Shy')).toEqual([]);
    const again = await service.send('POST', '/products', {
      token: tenant.adminToken,
      headers: { 'idempotency-key': 'shy' },
      body: { name: 'Shy', price: '1.00' },
    });
    expect([again.status, again.headers['idempotent-replayed']]).toEqual([201, undefined]);
  });

  it('cancels what waits behind another request of the same connection', async () => {
    const request = `GET /products?category=slow&minPrice=0.8 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${tenant.adminToken}\r\n\r\n`;
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => undefined);
    socket.write(request.replace('0.8', '0.81') + request.replace('0.8', '0.82'));
    await expect.poll(runningSearches, PATIENCE).toBe(2);
    socket.destroy();
    await expect.poll(runningSearches, { ...PATIENCE, timeout: 3_000 }).toBe(0);
  });
});
