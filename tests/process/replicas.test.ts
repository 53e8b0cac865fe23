// Two replicas as separate processes under load, one of which is killed. The connections that PostgreSQL counts stay within the
// budget. Each acknowledged write is stored exactly once. The surviving replica gets the slots of the other.
import { sql } from 'kysely';
import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, inject, it } from 'vitest';
import { ADMIN, asSuperuser, connectAs, createRegistry, OPERATOR, urlOf } from '../support/app.js';
import {
  build,
  eventually,
  isRunning,
  makeDataDir,
  startProcess,
  type ServiceProcess,
} from '../support/service-process.js';

/** More tenants than connections, so that connections change tenants all the time. */
const TENANTS = 12;
const BUDGET = 10;
const CLIENTS_PER_REPLICA = 8;

let registry: string;
let data: Awaited<ReturnType<typeof makeDataDir>>;
const replicas: ServiceProcess[] = [];
const tokens: string[] = [];
let operatorToken: string;

beforeAll(async () => {
  await build();
  data = await makeDataDir();
  registry = await createRegistry();
  const { superuser, registryOwner, provisioner } = inject('cluster');
  const env = {
    DATABASE_URL: urlOf({ ...superuser, ...registryOwner, database: registry }),
    TENANT_DATABASE_URL: urlOf(provisioner),
    DATA_DIR: data.dir,
    CLUSTER_CONNECTION_BUDGET: String(BUDGET),
    OPERATOR_EMAIL: OPERATOR.email,
    OPERATOR_PASSWORD: OPERATOR.password,
  };
  // One after the other: the first makes the secrets that both use.
  for (let replica = 0; replica < 2; replica += 1) replicas.push(await startProcess(env));
  const [first] = replicas;
  const operator = await call(first, 'POST', '/auth/operator/login', OPERATOR);
  operatorToken = operator.body.accessToken ?? '';
  for (let count = 0; count < TENANTS; count += 1) {
    const slug = `tenant-${count}`;
    const made = await call(first, 'POST', '/tenants', { name: slug, slug, admin: ADMIN }, operatorToken);
    expect(made.status).toBe(201);
    const { email, password } = ADMIN;
    const { body } = await call(first, 'POST', '/auth/login', {
      tenant: slug,
      email,
      password,
    });
    tokens.push(body.accessToken ?? '');
  }
}, 60_000);

afterAll(async () => {
  for (const replica of replicas.filter(({ pid }) => isRunning(pid))) {
    replica.signal('SIGTERM');
    await replica.exited;
  }
  await data.remove();
});

it('two replicas stay within the budget and store each acknowledged write once, and the slots of a killed replica are freed', async () => {
  const [survivor, victim] = replicas;
  if (!survivor || !victim) throw new Error('there are no two replicas');
  const databases = await databasesOfTenants();
  const watch = watchConnections(databases.map(({ role }) => role));
  const acknowledged: string[] = [];
  const unexpected: string[] = [];
  let over = false;

  /** With so few connections a request may wait in vain, and gets an error. */
  function expectStatus(expected: number, answer: Awaited<ReturnType<typeof call>>): boolean {
    if (answer.status !== expected && (answer.status !== 503 || !answer.retryAfter))
      unexpected.push(`${answer.status}: ${JSON.stringify(answer.body)}`);
    return answer.status === expected;
  }

  /** Writes and reads, each time in another tenant. */
  async function client(replica: ServiceProcess, who: string): Promise<void> {
    for (let turn = 0; !over; turn += 1) {
      const name = `${who} turn ${turn}`;
      const token = tokens[randomInt(TENANTS)];
      try {
        const made = await call(replica, 'POST', '/products', { name, price: '1.00' }, token);
        if (expectStatus(201, made)) {
          acknowledged.push(name);
          expectStatus(200, await call(replica, 'GET', `/products/${made.body.id ?? ''}`, undefined, token));
        }
        const other = tokens[randomInt(TENANTS)];
        expectStatus(200, await call(replica, 'GET', '/products?limit=5', undefined, other));
      } catch (error) {
        if (replica !== victim) throw error;
        // The replica was killed: this write may have been done or not, and its client got no answer.
        return;
      }
    }
  }
  const clients = [survivor, victim].flatMap((replica, index) =>
    Array.from({ length: CLIENTS_PER_REPLICA }, (_, number) => client(replica, `replica ${index} client ${number}`)),
  );
  const count = (of: string): number => acknowledged.filter((name) => name.startsWith(of)).length;
  await eventually('both replicas have written', () => Math.min(count('replica 0'), count('replica 1')) > 100, 40_000);
  victim.signal('SIGKILL');
  await victim.exited;
  const killedAt = await registryClock();
  const before = count('replica 0');
  await eventually('the survivor goes on', () => count('replica 0') > before + 100, 40_000);
  over = true;
  await Promise.all(clients);

  expect(unexpected).toEqual([]);
  const left = await slotsSilentSince(killedAt);
  expect(left).toBeGreaterThan(0);
  expect(await leasedBy(survivor)).toBeLessThanOrEqual(BUDGET - left);
  await ageLeases(killedAt);
  // A replica removes leases only after it has itself been well for half a minute, most of which is over by now.
  await eventually(
    'the survivor has the slots of the other',
    async () => {
      await sleep(200);
      await Promise.all(tokens.map((token) => call(survivor, 'GET', '/products?limit=5', undefined, token)));
      return (await leasedBy(survivor)) === BUDGET;
    },
    40_000,
  );
  expect(await slotsSilentSince(killedAt)).toBe(0);

  const { most, samples } = await watch.stop();
  expect(samples).toBeGreaterThan(50);
  expect(most).toBeGreaterThan(1);
  expect(most).toBeLessThanOrEqual(BUDGET);

  const stored = (await Promise.all(databases.map(({ name }) => productNames(name)))).flat();
  expect(stored).toEqual(expect.arrayContaining(acknowledged));
  expect(new Set(stored).size).toBe(stored.length);
}, 90_000);

async function registryClock(): Promise<string> {
  return asSuperuser(registry, async (db) => {
    const { rows } = await sql<{ now: string }>`select clock_timestamp()::text as now`.execute(db);
    return rows[0]?.now ?? '';
  });
}

/** Slots for tenants that are leased by replicas without a renewal since. */
async function slotsSilentSince(time: string): Promise<number> {
  return asSuperuser(registry, async (db) => {
    const { rows } = await sql<{ slots: number }>`
      select coalesce(sum(slots), 0)::int as slots from slot_leases
      where kind = 'tenants' and renewed_at < ${time}::timestamptz`.execute(db);
    return rows[0]?.slots ?? 0;
  });
}

/** Ages these leases as if their replicas had died long before. Their open connections are still checked. */
async function ageLeases(time: string): Promise<void> {
  await asSuperuser(registry, (db) =>
    sql`update slot_leases set renewed_at = renewed_at - interval '1 minute'
        where renewed_at < ${time}::timestamptz`.execute(db),
  );
}

async function leasedBy(replica: ServiceProcess): Promise<number> {
  const { body } = await call(replica, 'GET', '/pools', undefined, operatorToken);
  return body.clusters?.[0]?.leased ?? 0;
}

/** The checked parts of the answers. */
interface Body {
  readonly id?: string;
  readonly accessToken?: string;
  readonly clusters?: readonly { readonly leased: number }[];
}

async function call(
  replica: ServiceProcess | undefined,
  method: string,
  route: string,
  body?: unknown,
  token?: string,
): Promise<{ status: number; body: Body; retryAfter: boolean }> {
  const answer = await fetch(`${replica?.url ?? ''}${route}`, {
    method,
    headers: {
      ...(body !== undefined && { 'content-type': 'application/json' }),
      ...(token !== undefined && { authorization: `Bearer ${token}` }),
    },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  return {
    status: answer.status,
    body: (await answer.json()) as Body,
    retryAfter: answer.headers.has('retry-after'),
  };
}

async function databasesOfTenants(): Promise<readonly { name: string; role: string }[]> {
  return asSuperuser(registry, async (db) => {
    const { rows } = await sql<{ name: string; role: string }>`
      select db_name as name, db_user as role from tenants`.execute(db);
    return rows;
  });
}

/** The maximum of simultaneous sessions of the tenants' roles, as PostgreSQL counts them. */
function watchConnections(roles: readonly string[]): { stop(): Promise<{ most: number; samples: number }> } {
  const handle = connectAs<unknown>('postgres');
  let most = 0;
  let samples = 0;
  let over = false;
  async function run(): Promise<void> {
    while (!over) {
      const { rows } = await sql<{ open: number }>`
        select count(*)::int as open from pg_stat_activity where usename = any(${[...roles]})`.execute(handle.db);
      most = Math.max(most, rows[0]?.open ?? 0);
      samples += 1;
      await sleep(5);
    }
  }
  const running = run();
  return {
    async stop() {
      over = true;
      await running;
      await handle.close(0);
      return { most, samples };
    },
  };
}

async function productNames(database: string): Promise<string[]> {
  return asSuperuser(database, async (db) => {
    const { rows } = await sql<{ name: string }>`select name from products`.execute(db);
    return rows.map(({ name }) => name);
  });
}
