// Two replicas as processes of their own under load, one of them killed: the connections that PostgreSQL itself counts stay
// within the budget throughout, and each acknowledged write is there, once.
import { sql } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, inject, it } from 'vitest';
import type { ConnectionSettings } from '../../db/client.js';
import { ADMIN, asSuperuser, connectAs, createRegistry, OPERATOR } from '../support/app.js';
import {
  build,
  eventually,
  isRunning,
  makeDataDir,
  startProcess,
  type ServiceProcess,
} from '../support/service-process.js';

/** Fewer connections than tenants, so that they change hands all the time. */
const TENANTS = 12;
const BUDGET = 10;
const CLIENTS_PER_REPLICA = 8;

let registry: string;
let data: Awaited<ReturnType<typeof makeDataDir>>;
const replicas: ServiceProcess[] = [];
const tokens: string[] = [];

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
  for (let count = 0; count < TENANTS; count += 1) {
    const slug = `tenant-${count}`;
    const made = await call(
      first,
      'POST',
      '/tenants',
      { name: slug, slug, admin: ADMIN },
      operator.body['accessToken'],
    );
    expect(made.status).toBe(201);
    const { email, password } = ADMIN;
    const { body } = await call(first, 'POST', '/auth/login', {
      tenant: slug,
      email,
      password,
    });
    tokens.push(body['accessToken'] ?? '');
  }
}, 60_000);

afterAll(async () => {
  for (const replica of replicas.filter(({ pid }) => isRunning(pid))) {
    replica.signal('SIGTERM');
    await replica.exited;
  }
  await data.remove();
});

it('stay within the budget and lose and double no acknowledged write, also while one is killed', async () => {
  const [survivor, victim] = replicas;
  if (!survivor || !victim) throw new Error('there are no two replicas');
  const databases = await databasesOfTenants();
  const watch = watchConnections(databases.map(({ role }) => role));
  const acknowledged: string[] = [];
  const unexpected: string[] = [];
  let over = false;

  async function client(replica: ServiceProcess, who: string): Promise<void> {
    for (let turn = 0; !over; turn += 1) {
      const name = `${who} ${turn}`;
      const token = tokens[(turn * 7 + who.length) % TENANTS];
      try {
        const made = await call(replica, 'POST', '/products', { name, price: '1.00' }, token);
        if (made.status === 201) acknowledged.push(name);
        // With so few connections somebody may wait in vain, and is told so.
        else if (made.status !== 503 || !made.retryAfter)
          unexpected.push(`${made.status}: ${JSON.stringify(made.body)}`);
        const listed = await call(replica, 'GET', '/products?limit=5', undefined, token);
        if (listed.status !== 200 && (listed.status !== 503 || !listed.retryAfter))
          unexpected.push(`${listed.status}: ${JSON.stringify(listed.body)}`);
      } catch (error) {
        if (replica !== victim) throw error;
        // It was killed: what it was doing may have been done or not, and nobody was told.
        return;
      }
    }
  }
  const clients = [survivor, victim].flatMap((replica, index) =>
    Array.from({ length: CLIENTS_PER_REPLICA }, (_, number) => client(replica, `replica ${index} client ${number}`)),
  );
  const count = (of: string): number => acknowledged.filter((name) => name.startsWith(of)).length;
  await eventually('both replicas have written', () => Math.min(count('replica 0'), count('replica 1')) > 200);
  victim.signal('SIGKILL');
  await victim.exited;
  const before = count('replica 0');
  await eventually('the survivor goes on', () => count('replica 0') > before + 200);
  over = true;
  await Promise.all(clients);

  expect(unexpected).toEqual([]);
  const { most, samples } = await watch.stop();
  expect(samples).toBeGreaterThan(50);
  expect(most).toBeGreaterThan(1);
  expect(most).toBeLessThanOrEqual(BUDGET);

  const stored = (await Promise.all(databases.map(({ name }) => productNames(name)))).flat();
  const copies = new Map<string, number>();
  for (const name of stored) copies.set(name, (copies.get(name) ?? 0) + 1);
  expect(acknowledged.filter((name) => copies.get(name) !== 1)).toEqual([]);
  expect([...copies].filter(([, number]) => number > 1)).toEqual([]);
}, 60_000);

function urlOf({ user, password, host, port, database }: ConnectionSettings): string {
  return `postgres://${user}:${password}@${host}:${port}/${database}`;
}

async function call(
  replica: ServiceProcess | undefined,
  method: string,
  route: string,
  body?: unknown,
  token?: string,
): Promise<{ status: number; body: Record<string, string>; retryAfter: boolean }> {
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
    body: (await answer.json()) as Record<string, string>,
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

/** The most sessions that the tenants' roles had at once, as PostgreSQL counts them. */
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
