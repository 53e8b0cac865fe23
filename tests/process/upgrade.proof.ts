// The upgrade and the rollback of docs/guide/operate.md with two builds under load: no request of a tenant fails, and every tenant
// has the schema of the build in the end. OLDER_BUILD may name the folder of a former release with its build.
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { registryMigrations } from '../../db/registry/migrations/index.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { ADMIN, connectTo, OPERATOR } from '../support/service.js';
import { eventually, type ServiceProcess } from '../support/service-process.js';
import { nextMigration, prepareTwoBuilds, type NewMigration, type TwoBuilds } from '../support/two-builds.js';

const EXPANDED = nextMigration(latestVersion(tenantMigrations), 'expanded');
const NEWEST = nextMigration(EXPANDED, 'indexed');

const MIGRATIONS: readonly NewMigration[] = [
  {
    of: 'registry',
    name: nextMigration(latestVersion(registryMigrations), 'noted'),
    statements: ['alter table tenants add column note text, alter column name type varchar(1000)'],
  },
  {
    of: 'tenant',
    name: EXPANDED,
    statements: [
      'alter table products add column weight integer, alter column description type varchar(20000)',
      'alter table users alter column first_name type varchar(1000)',
    ],
  },
  {
    of: 'tenant',
    name: NEWEST,
    transaction: false,
    statements: [
      'drop index concurrently if exists products_weight',
      'create index concurrently products_weight on products (weight)',
    ],
  },
];

const TENANTS = 6;
const CLIENTS = 6;
/** Time (ms) in which a replica that stops still takes requests, so that the balancer notices. */
const DRAIN = 2_000;
const DUMP = 4_000;

let builds: TwoBuilds;

beforeAll(async () => {
  builds = await prepareTwoBuilds(MIGRATIONS, { STANDBY_DATABASES: '2', SHUTDOWN_DRAIN_MS: String(DRAIN) });
}, 240_000);
afterAll(() => builds.close(), 60_000);

/** Failed checks after which a replica gets no more requests. */
const FALL = 3;

/** Like a load balancer: requests go to the replicas that said they are ready, and wait for one if none is. */
class Balancer {
  /** The checks that each replica has failed in a row. */
  readonly #failures = new Map<ServiceProcess, number>();
  #stopped = false;
  readonly #polling = this.#poll();

  async #poll(): Promise<void> {
    while (!this.#stopped) {
      await Promise.all(
        [...this.#failures].map(async ([replica, failures]) => {
          const isReady = await fetch(`${replica.url}/health/ready`)
            .then(({ ok }) => ok)
            .catch(() => false);
          this.#failures.set(replica, isReady ? 0 : failures + 1);
        }),
      );
      await sleep(100);
    }
  }

  get #ready(): readonly ServiceProcess[] {
    return [...this.#failures].filter(([, failures]) => failures < FALL).map(([replica]) => replica);
  }

  async add(replica: ServiceProcess): Promise<ServiceProcess> {
    this.#failures.set(replica, FALL);
    await eventually('the replica is ready', () => this.#ready.includes(replica));
    return replica;
  }

  async pick(turn: number): Promise<ServiceProcess> {
    await eventually('a replica is ready', () => this.#ready.length > 0);
    const replica = this.#ready[turn % this.#ready.length];
    if (!replica) throw new Error('no replica is ready');
    return replica;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#polling;
  }
}

interface Answer {
  readonly status: number;
  readonly text: string;
  readonly retryAfter: string | null;
}

async function send(url: string, method: string, body?: object, token?: string): Promise<Answer> {
  const answer = await fetch(url, {
    method,
    headers: {
      ...(body && { 'content-type': 'application/json' }),
      ...(token !== undefined && { authorization: `Bearer ${token}` }),
    },
    ...(body && { body: JSON.stringify(body) }),
  });
  return { status: answer.status, text: await answer.text(), retryAfter: answer.headers.get('retry-after') };
}

async function operatorToken({ url }: ServiceProcess): Promise<string> {
  const { text } = await send(`${url}/auth/operator/login`, 'POST', OPERATOR);
  return (JSON.parse(text) as { accessToken: string }).accessToken;
}

let slugs = 0;

async function makeTenant(replica: ServiceProcess, token: string): Promise<Answer & { slug: string }> {
  const slug = `upgrade-${(slugs += 1)}`;
  return { slug, ...(await send(`${replica.url}/tenants`, 'POST', { name: slug, slug, admin: ADMIN }, token)) };
}

/** Requests of tenants, all the time. @returns what ends them, with what failed */
function load(balancer: Balancer, tenants: readonly string[]): () => Promise<{ sent: number; failed: string[] }> {
  const failed: string[] = [];
  let sent = 0;
  let running = true;
  const client = async (number: number): Promise<void> => {
    const tenant = tenants[number % tenants.length];
    let token = '';
    let product = '';
    for (let turn = 0; running; turn += 1) {
      const act = turn % 8;
      const request: readonly [string, string, object?] =
        act === 0
          ? ['POST', '/auth/login', { tenant, email: ADMIN.email, password: ADMIN.password }]
          : act === 1
            ? ['POST', '/products', { name: `Thing ${number}-${turn}`, price: '1.00', description: 'of the load' }]
            : act === 2
              ? ['PATCH', `/products/${product}`, { description: `changed ${turn}` }]
              : act === 3
                ? ['GET', '/users?limit=5']
                : act === 4
                  ? ['GET', '/auth/me']
                  : ['GET', '/products?limit=5'];
      const [method, route, body] = request;
      sent += 1;
      try {
        const replica = await balancer.pick(number + turn);
        const answer = await send(replica.url + route, method, body, act === 0 ? undefined : token);
        if (answer.status >= 300) failed.push(`${method} ${route}: ${answer.status} ${answer.text}`);
        else if (act === 0) token = (JSON.parse(answer.text) as { accessToken: string }).accessToken;
        else if (act === 1) product = (JSON.parse(answer.text) as { id: string }).id;
      } catch (error) {
        failed.push(`${method} ${route}: ${String(error)} ${String((error as Error).cause)}`);
      }
      await sleep(10);
    }
  };
  const clients = Promise.all(Array.from({ length: CLIENTS }, (_, number) => client(number)));
  return async () => {
    running = false;
    await clients;
    return { sent, failed };
  };
}

/** Makes tenants on every replica in turn. @returns what ends it, with the answers */
function creations(balancer: Balancer, token: string): () => Promise<(Answer & { slug: string })[]> {
  const answers: (Answer & { slug: string })[] = [];
  const state = { running: true };
  const working = (async () => {
    for (let turn = 0; state.running; turn += 1) {
      answers.push(await makeTenant(await balancer.pick(turn), token));
      await sleep(300);
    }
  })();
  return async () => {
    state.running = false;
    await working;
    return answers;
  };
}

/** Stops a replica as a rolling deployment does, and then starts another one. */
async function replace(
  balancer: Balancer,
  old: ServiceProcess,
  start: () => Promise<ServiceProcess>,
): Promise<ServiceProcess> {
  old.signal('SIGTERM');
  expect(await old.exited).toBe(0);
  return balancer.add(await start());
}

/** Reads a table of a tenant in a transaction that stays open, as pg_dump does. */
async function dump(slug: string, time: number): Promise<void> {
  const row = await builds.central.db
    .selectFrom('tenants')
    .select('db_name')
    .where('slug', '=', slug)
    .executeTakeFirstOrThrow();
  const handle = connectTo<unknown>(builds.cluster, row.db_name);
  await handle.db.transaction().execute(async (trx) => {
    await sql`lock table products, users in access share mode`.execute(trx);
    await sleep(time);
  });
  await handle.close(0);
}

/** The schema of each tenant, by its row and by its database. */
async function schemas(): Promise<Record<string, number>> {
  const rows = await builds.central.db.selectFrom('tenants').select(['db_name', 'status', 'schema_version']).execute();
  const counts: Record<string, number> = {};
  for (const { db_name: name, status, schema_version: version } of rows) {
    const handle = connectTo<unknown>(builds.cluster, name);
    const { rows: found } = await sql<{ name: string }>`
      select max(name) as name from migration.kysely_migration`.execute(handle.db);
    await handle.close(0);
    const key = `${status}: row ${version}, database ${found[0]?.name ?? 'none'}`;
    counts[key] = (counts[key] ?? 0) + 1;
  }
  return counts;
}

it(
  'no request fails during the upgrade and the rollback, and every tenant gets the schema',
  { timeout: 400_000 },
  async () => {
    await builds.older.migrate();
    const balancer = new Balancer();
    let [first, second] = [await builds.older.start(), await builds.older.start()];
    await Promise.all([balancer.add(first), balancer.add(second)]);
    const token = await operatorToken(first);
    const tenants: string[] = [];
    for (let count = 0; count < TENANTS; count += 1) {
      const made = await makeTenant(first, token);
      expect(made.status, made.text).toBe(201);
      tenants.push(made.slug);
    }

    // The upgrade: migrate, then one replica after the other.
    const endLoad = load(balancer, tenants);
    const endCreations = creations(balancer, token);
    const dumping = dump(tenants[0] ?? '', DUMP);
    await sleep(1_000);
    const report = await builds.newer.migrate();
    await dumping;
    first = await replace(balancer, first, () => builds.newer.start());
    second = await replace(balancer, second, () => builds.newer.start());
    const made = await endCreations();
    const upgraded = await endLoad();
    expect(upgraded.failed).toEqual([]);
    expect(upgraded.sent).toBeGreaterThan(500);
    expect(report.tenantsMigrated).toBeGreaterThanOrEqual(TENANTS);
    // An older replica may refuse to make a tenant, with a time to try again. None got the old schema.
    const refused = made.filter(({ status }) => status !== 201);
    expect(refused.filter(({ status, retryAfter }) => status !== 503 || retryAfter === null)).toEqual([]);
    expect(made.at(-1)?.status).toBe(201);
    expect(Object.keys(await schemas())).toEqual([`active: row ${NEWEST}, database ${NEWEST}`]);

    // The rollback: the older build again, one replica after the other.
    const endSecondLoad = load(balancer, tenants);
    first = await replace(balancer, first, () => builds.older.start());
    second = await replace(balancer, second, () => builds.older.start());
    const without = await makeTenant(first, token);
    expect(without.status, without.text).toBe(503);
    const back = await builds.older.migrate();
    if (back.newer) expect(back.newer).toContain(NEWEST);
    const again = await makeTenant(second, token);
    expect(again.status, again.text).toBe(201);
    const rolledBack = await endSecondLoad();
    expect(rolledBack.failed).toEqual([]);
    expect(rolledBack.sent).toBeGreaterThan(200);

    // The second upgrade brings the tenant of the older build to the schema too.
    expect((await builds.newer.migrate()).tenantsMigrated).toBe(1);
    expect(Object.keys(await schemas())).toEqual([`active: row ${NEWEST}, database ${NEWEST}`]);
    await balancer.stop();
    process.stdout.write(
      `upgrade: ${upgraded.sent} requests, ${made.length} tenants asked for, ${refused.length} refused; rollback: ${rolledBack.sent} requests\n`,
    );
  },
);
