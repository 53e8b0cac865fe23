// db/driver/connection.ts and the pool around it: one deadline for opening and check, and whether the server's backend is known
// to be gone after a connection has ended.
import { sql } from 'kysely';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, inject, it, onTestFinished } from 'vitest';
import { clientConfig, openPool, type ConnectionSettings } from '../../db/driver/client.js';
import { ClientConnection } from '../../db/driver/connection.js';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import type { PoolLimits, PoolOptions } from '../../db/driver/pool/pool-types.js';
import type { Membership, Slot } from '../../db/driver/pool/slot.js';
import { asSuperuser, createRegistry } from '../support/app.js';
import { startProxy } from '../support/proxy.js';
import { startStatementProxy, type StatementProxy } from '../support/statement-proxy.js';

const NAME = 'connection ends test';
const LIMITS = { max: 3, acquireTimeout: 5_000, connectTimeout: 500, timeout: 10_000, idleTimeoutMillis: 10_000 };

let connection: ConnectionSettings;

beforeAll(async () => {
  const database = await createRegistry();
  const { superuser, registryOwner } = inject('cluster');
  connection = { ...superuser, ...registryOwner, database };
});

function connect(where: Partial<ConnectionSettings> = {}): ClientConnection {
  const made = new ClientConnection({ ...clientConfig({ ...connection, ...where }), application_name: NAME });
  onTestFinished(() => {
    made.cut();
  });
  return made;
}

async function opened(where?: Partial<ConnectionSettings>): Promise<ClientConnection> {
  const made = connect(where);
  await made.open(5_000);
  return made;
}

const sessions = (): Promise<number> =>
  asSuperuser(connection.database, async (db) => {
    const { rows } = await sql`select pid from pg_stat_activity where application_name = ${NAME}`.execute(db);
    return rows.length;
  });

/** Slots of a server with enough connections, and what was done with each. */
class Slots {
  readonly ends: string[] = [];
  reached = 0;
  closing = 0;
  asked = 0;
  mustYield = false;
  readonly membership: Membership = {
    tryOpen: () => this.#slot(),
    open: () => Promise.resolve(this.#slot()),
    idle: () => undefined,
    mustYield: () => {
      this.asked += 1;
      return this.mustYield;
    },
    leave: () => undefined,
  };

  #slot(): Slot {
    return {
      reached: () => void (this.reached += 1),
      closing: () => void (this.closing += 1),
      release: () => void this.ends.push('free'),
      orphan: () => void this.ends.push('unknown'),
    };
  }
}

describe('the opening of a connection', () => {
  /** A pool whose check of new connections is held by the server. */
  async function frozen(limits: Partial<PoolLimits> = {}): Promise<{
    pool: ReturnType<typeof openPool>;
    slots: Slots;
    proxy: StatementProxy;
    held: () => number;
  }> {
    const proxy = await startStatementProxy(connection);
    let held = 0;
    proxy.onStatement = () => {
      held += 1;
      return new Promise(() => undefined);
    };
    const slots = new Slots();
    const prove: PoolOptions['prove'] = async (query) => {
      await query('select 1');
    };
    const options = {
      applicationName: NAME,
      preparedStatements: true,
      lane: true,
      prove,
      admit: () => slots.membership,
    };
    const pool = openPool({ ...connection, host: proxy.host, port: proxy.port }, { ...LIMITS, ...limits }, options);
    onTestFinished(async () => {
      await pool.close(0);
      await proxy.close();
    });
    return { pool, slots, proxy, held: () => held };
  }

  it('has one deadline for all its steps: a server that freezes during the check fails a connection and a lane alike', async () => {
    const { pool, slots, held } = await frozen();
    const failures = await Promise.all(
      [pool.run('select 1', []), pool.read('select 2', [])].map((work) => work.catch((error: unknown) => error)),
    );
    expect(held()).toBe(2);
    for (const failure of failures) expect(failure).toMatchObject({ name: 'DatabaseFault', kind: 'unavailable' });
    await expect.poll(() => slots.ends).toEqual(['unknown', 'unknown']);
    expect(pool.stats()).toMatchObject({ total: 0, unknown: 2 });
  });

  it('counts towards the longest wait for a connection, as the wait for its slot does', async () => {
    const { pool, slots, held } = await frozen({ acquireTimeout: 600, connectTimeout: 600 });
    const take = slots.membership.open.bind(slots.membership, 0);
    Object.assign(slots.membership, {
      tryOpen: () => undefined,
      open: () => sleep(300).then(() => take()),
    });
    const failure: unknown = await pool.run('select 1', []).catch((error: unknown) => error);
    expect(held()).toBe(1);
    // The opening's own deadline is later, and so did not end the wait.
    expect(failure).toMatchObject({ kind: 'busy', reason: 'no connection was opened in time' });
    expect(pool.stats()).toMatchObject({ total: 1, unknown: 0 });
    await expect.poll(() => slots.ends).toEqual(['unknown']);
  });

  it('is cut by close(), which does not wait for a server', async () => {
    const { pool, slots, held } = await frozen();
    const asked = [pool.run('select 1', []), pool.read('select 2', [])].map((work) =>
      work.catch((error: unknown) => error),
    );
    await expect.poll(held).toBe(2);
    await pool.close(0);
    for (const failure of await Promise.all(asked)) expect(failure).toBeInstanceOf(DatabaseFault);
    expect(slots.ends).toEqual(['unknown', 'unknown']);
    await expect.poll(sessions).toBe(0);
  });
});

describe('the end of a connection', () => {
  it('leaves no backend after a goodbye', async () => {
    const made = await opened();
    made.close();
    expect(await made.closed).toBe('gone');
    expect(await sessions()).toBe(0);
  });

  it('leaves no backend if the server ended it', async () => {
    const made = await opened();
    await asSuperuser(connection.database, (db) => sql`select pg_terminate_backend(${made.processID})`.execute(db));
    expect(await made.closed).toBe('gone');
  });

  it('leaves no backend if the server refused it or was never reached', async () => {
    const refused = connect({ password: 'wrong' });
    await expect(refused.open(5_000)).rejects.toMatchObject({ code: '28P01' });
    expect(await refused.closed).toBe('gone');
    const unreachable = connect({ port: 1 });
    await expect(unreachable.open(5_000)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    expect(await unreachable.closed).toBe('gone');
    const clear = connect({ tls: {} });
    await expect(clear.open(5_000)).rejects.toThrow('SSL');
    expect(await clear.closed).toBe('gone');
  });

  it('leaves an unknown backend after a cut, a loss or a handshake that was given up', async () => {
    const cut = await opened();
    cut.cut();
    expect(await cut.closed).toBe('unknown');

    const proxy = await startProxy(connection);
    onTestFinished(() => proxy.close());
    const { host, port } = proxy;
    const lost = await opened({ host, port });
    proxy.cut();
    expect(await lost.closed).toBe('unknown');

    proxy.mode = 'hang';
    const silent = connect({ host, port });
    await expect(silent.open(200)).rejects.toMatchObject({ kind: 'unavailable' });
    expect(await silent.closed).toBe('unknown');
  });

  it('leaves an unknown backend if a proxy answered a goodbye that the server has not read', async () => {
    const proxy = await startProxy(connection);
    onTestFinished(() => proxy.close());
    const made = await opened({ host: proxy.host, port: proxy.port });
    proxy.mode = 'hang';
    made.close(100);
    expect(await made.closed).toBe('unknown');
  });

  it('leaves an unknown backend if the server closed without a message', async () => {
    // Accepts everything, and sends nothing.
    const mute = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.once('data', () => setTimeout(() => socket.end(), 50));
    }).listen(0, '127.0.0.1');
    onTestFinished(() => void mute.close());
    await once(mute, 'listening');
    const made = connect({ port: (mute.address() as AddressInfo).port });
    await expect(made.open(5_000)).rejects.toThrow('terminated unexpectedly');
    expect(await made.closed).toBe('unknown');
  });
});

describe('a lane that yields', () => {
  it('is asked to close once, however many reads run on it', async () => {
    const slots = new Slots();
    const options = { applicationName: NAME, preparedStatements: true, lane: true, admit: () => slots.membership };
    const pool = openPool(connection, LIMITS, options);
    onTestFinished(() => pool.close(0));
    await pool.read('select 1', []);
    slots.asked = 0;
    slots.mustYield = true;
    await Promise.all(Array.from({ length: 20 }, () => pool.read('select 1', [])));
    await expect.poll(() => slots).toMatchObject({ asked: 1, closing: 1, ends: ['free'] });
  });
});
