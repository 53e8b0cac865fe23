// A fault of one tenant, under the running service on a separate server: it does not affect the other tenants of that server.
import { sql, type Kysely } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { findTenant } from '../../db/registry/tenant-queries.js';
import { startCluster, type TestCluster } from '../support/cluster.js';
import { connectTo, startServiceIn, type Answer, type TestService, type TestTenant } from '../support/service.js';

/** Longer (ms) than the detection of a silence takes. */
const SILENT_FOR = 2_000;

/** Longer (ms) than the deadline here for a statement, or for a wait for a connection. */
const FAULT_LASTS = 1_200;

let server: { cluster: TestCluster; stop: () => Promise<void> };
let service: TestService;
let neighbours: TestTenant[];

beforeAll(async () => {
  server = await startCluster();
  service = await startServiceIn(server.cluster, {
    env: {
      CLUSTER_CONNECTION_BUDGET: '16',
      POOL_MAX: '3',
      POOL_STATEMENT_TIMEOUT_MS: '500',
      POOL_ACQUIRE_TIMEOUT_MS: '1000',
      RATE_LIMIT_MAX: '1000000',
    },
  });
  neighbours = [await service.createTenant(), await service.createTenant()];
});
afterAll(async () => {
  await service.close();
  await server.stop();
});

const read = ({ adminToken: token }: TestTenant): Promise<Answer> => service.send('GET', '/products', { token });
const write = ({ adminToken: token }: TestTenant): Promise<Answer<{ id: string }>> =>
  service.send('POST', '/products', { token, body: { name: 'Chair', price: '1.00' } });

async function databaseOf({ id }: TestTenant): Promise<string> {
  return (await findTenant(service.app.engine.registry, id))?.dbName ?? expect.fail('no such tenant');
}

/** Works as the superuser, in the tenant's database. */
async function inDatabaseOf<T>(tenant: TestTenant, work: (db: Kysely<unknown>) => Promise<T>): Promise<T> {
  const handle = connectTo<unknown>(server.cluster, await databaseOf(tenant));
  try {
    return await work(handle.db);
  } finally {
    await handle.close(0);
  }
}

/** Runs statements in a transaction that stays open until the end of the fault. */
function holding(...statements: readonly string[]): (tenant: TestTenant) => Promise<() => Promise<void>> {
  return async (tenant) => {
    let release: () => void = () => undefined;
    const held = new Promise<void>((resolve) => (release = resolve));
    let begun: () => void = () => undefined;
    const isHeld = new Promise<void>((resolve) => (begun = resolve));
    const transaction = inDatabaseOf(tenant, (db) =>
      db.transaction().execute(async (trx) => {
        for (const statement of statements) await sql.raw(statement).execute(trx);
        begun();
        await held;
      }),
    );
    onTestFinished(release);
    await Promise.race([isHeld, transaction]);
    return async () => {
      release();
      await transaction;
    };
  };
}

/** Stops at most `count` of the tenant's backends. */
async function stopBackends(tenant: TestTenant, count: number): Promise<() => Promise<void>> {
  const pids = await inDatabaseOf(tenant, async (db) => {
    const { rows } = await sql<{ pid: number }>`select pid from pg_stat_activity
      where datname = current_database() and application_name like 'tenantry %' order by backend_start`.execute(db);
    return rows.slice(0, count).map(({ pid }) => pid);
  });
  expect(pids.length).toBeGreaterThan(0);
  const signal = (name: NodeJS.Signals): void => {
    for (const pid of pids) {
      try {
        process.kill(pid, name);
      } catch {
        // The process has ended meanwhile.
      }
    }
  };
  onTestFinished(() => {
    signal('SIGCONT');
  });
  signal('SIGSTOP');
  return async () => {
    signal('SIGCONT');
  };
}

interface Load {
  readonly statuses: Map<number, number>;
  stop(): Promise<void>;
}

/** Reads and writes in turns, several requests at a time. */
function load(tenants: readonly TestTenant[], each: number): Load {
  const statuses = new Map<number, number>();
  let stopped = false;
  const clients = tenants.flatMap((tenant) =>
    Array.from({ length: each }, async (_, client) => {
      for (let turn = client; !stopped; turn += 1) {
        const { status } = await (turn % 4 === 0 ? write : read)(tenant);
        statuses.set(status, (statuses.get(status) ?? 0) + 1);
        if (status >= 400) await sleep(5);
      }
    }),
  );
  return {
    statuses,
    async stop() {
      stopped = true;
      await Promise.all(clients);
    },
  };
}

interface Fault {
  readonly what: string;
  /** In ms. */
  readonly lasts: number;
  /** Returns a function that ends the fault. */
  readonly begin: (tenant: TestTenant) => Promise<() => Promise<void>>;
  /** Statuses that the tenant itself gets, among others. */
  readonly own: readonly number[];
}

const faults: readonly Fault[] = [
  {
    what: 'one of its backends is stopped',
    lasts: SILENT_FOR,
    begin: (tenant) => stopBackends(tenant, 1),
    own: [200, 201, 503],
  },
  {
    what: 'all of its backends are stopped',
    lasts: SILENT_FOR,
    begin: (tenant) => stopBackends(tenant, Infinity),
    own: [503],
  },
  {
    what: 'its table is locked for longer than a statement may run',
    lasts: FAULT_LASTS,
    begin: holding('lock table products in access exclusive mode'),
    own: [503],
  },
  {
    what: 'the marker is locked that each of its new connections is proved by',
    lasts: FAULT_LASTS,
    begin: holding('lock table tenant_marker in access exclusive mode'),
    own: [200],
  },
  {
    what: 'its writes queue for a lock',
    lasts: FAULT_LASTS,
    begin: holding('lock table products in share mode'),
    own: [200, 503],
  },
  {
    what: 'its disk quota is full',
    lasts: FAULT_LASTS,
    begin: async (tenant) => {
      const url = `/tenants/${tenant.id}`;
      const limit = (storageBytes: number | null): Promise<Answer> =>
        service.send('PATCH', url, { token: service.operatorToken, body: { limits: { storageBytes } } });
      expect((await limit(1_048_576)).status).toBe(200);
      return async () => {
        expect((await limit(null)).status).toBe(200);
      };
    },
    own: [200, 403],
  },
  {
    what: 'the disk of its tablespace is full',
    lasts: FAULT_LASTS,
    begin: async (tenant) => {
      const run = (statement: string): Promise<unknown> => inDatabaseOf(tenant, (db) => sql.raw(statement).execute(db));
      await run(`create function full_disk() returns trigger language plpgsql as
        $$ begin raise 'could not extend file' using errcode = 'disk_full'; end $$`);
      await run('create trigger full_disk before insert on products execute function full_disk()');
      return async () => {
        await run('drop trigger full_disk on products');
      };
    },
    own: [200, 503],
  },
];

describe.runIf(process.platform === 'linux')('every request of a tenant’s neighbours is answered 2xx while', () => {
  it.each(faults.map((fault) => [fault.what, fault] as const))('%s', async (_what, { lasts, begin, own }) => {
    const tenant = await service.createTenant();
    // Opens the tenant's connections: the lane's, and others.
    await Promise.all(Array.from({ length: 8 }, (_, index) => (index % 2 ? read : write)(tenant)));
    await Promise.all(neighbours.map(write));
    const { opened } = service.app.engine.breakers.stats();

    const others = load(neighbours, 2);
    const itself = load([tenant], 4);
    const end = await begin(tenant);
    await sleep(lasts);
    await others.stop();
    await end();
    await itself.stop();

    expect([...others.statuses.keys()].sort()).toEqual([200, 201]);
    expect([...itself.statuses.keys()]).toEqual(expect.arrayContaining([...own]));
    expect(service.app.engine.breakers.stats().opened.cluster).toBe(opened.cluster);
    // The tenant is served again.
    for (const ask of [read, write]) await expect.poll(async () => (await ask(tenant)).status).toBeLessThan(300);
  });
});
