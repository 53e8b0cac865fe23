// The upgrade and the rollback of docs/guide/operate.md with two builds under load: no request of a tenant fails, and every tenant
// has the schema of the build in the end. OLDER_BUILD may name the folder of a former release with its build.
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it, onTestFinished } from 'vitest';
import { registryMigrations } from '../../db/registry/migrations/index.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { Balancer, creations, load, makeTenant, operatorToken, schemasOf } from '../support/builds-load.js';
import { connectTo } from '../support/service.js';
import type { ServiceProcess } from '../support/service-process.js';
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
  try {
    await handle.db.transaction().execute(async (trx) => {
      await sql`lock table products, users in access share mode`.execute(trx);
      await sleep(time);
    });
  } finally {
    await handle.close(0);
  }
}

it(
  'no request fails during the upgrade and the rollback, and every tenant gets the schema',
  { timeout: 400_000 },
  async () => {
    await builds.older.migrate();
    const balancer = new Balancer();
    onTestFinished(() => balancer.stop());
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
    const endLoad = load(balancer, tenants, CLIENTS);
    onTestFinished(async () => {
      await endLoad();
    });
    const endCreations = creations(balancer, token);
    onTestFinished(async () => {
      await endCreations().catch(() => undefined);
    });
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
    expect(Object.keys(await schemasOf(builds))).toEqual([`active: row ${NEWEST}, database ${NEWEST}`]);

    // The rollback: the older build again, one replica after the other.
    const endSecondLoad = load(balancer, tenants, CLIENTS);
    onTestFinished(async () => {
      await endSecondLoad();
    });
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
    expect(Object.keys(await schemasOf(builds))).toEqual([`active: row ${NEWEST}, database ${NEWEST}`]);
    await balancer.stop();
    process.stdout.write(
      `upgrade: ${upgraded.sent} requests, ${made.length} tenants asked for, ${refused.length} refused; rollback: ${rolledBack.sent} requests\n`,
    );
  },
);
