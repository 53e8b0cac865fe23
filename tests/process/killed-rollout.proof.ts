// A rollout of 200 tenants by replicas of a newer build that are killed again and again, while an older and the newer build make
// tenants and serve them. No request fails, except those that a killed process had begun, and each tenant is migrated once.
import { afterAll, beforeAll, expect, it, onTestFinished } from 'vitest';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { Balancer, creations, load, makeTenant, operatorToken, schemasOf, send } from '../support/builds-load.js';
import { eventually } from '../support/service-process.js';
import { nextMigration, prepareTwoBuilds, type TwoBuilds } from '../support/two-builds.js';

const OLDER = latestVersion(tenantMigrations);
const NEWER = nextMigration(OLDER, 'newer');
const TENANTS = 200;
const CLIENTS = 4;
/** How far (%) the rollout is when a replica of it is killed. */
const KILLED_AT = [10, 30, 50, 70];

let builds: TwoBuilds;

beforeAll(async () => {
  // It fails if it runs twice.
  const statements = ['alter table products add column weight integer', 'select pg_sleep(0.1)'];
  builds = await prepareTwoBuilds([{ of: 'tenant', name: NEWER, statements }], { STANDBY_DATABASES: '4' });
}, 240_000);
afterAll(() => builds.close(), 60_000);

it(`${TENANTS} tenants get the schema, each once`, { timeout: 600_000 }, async () => {
  await builds.older.migrate();
  const balancer = new Balancer();
  onTestFinished(() => balancer.stop());
  const older = await balancer.add(await builds.older.start());
  const token = await operatorToken(older);
  const tenants: string[] = [];
  while (tenants.length < TENANTS) {
    const made = await Promise.all([1, 2, 3, 4].map(() => makeTenant(older, token)));
    for (const each of made) {
      expect(each.status, each.text).toBe(201);
      tenants.push(each.slug);
    }
  }

  await builds.newer.migrate('--no-tenants');
  let [first, second] = [await builds.newer.start(), await builds.newer.start()];
  await Promise.all([balancer.add(first), balancer.add(second)]);
  const endLoad = load(balancer, tenants, CLIENTS);
  onTestFinished(async () => {
    await endLoad();
  });
  const endCreations = creations(balancer, token);
  onTestFinished(async () => {
    await endCreations().catch(() => undefined);
  });
  const plan = { canary: { count: 5 }, waves: [50] };
  const begun = await send(`${first.url}/rollouts`, 'POST', plan, await operatorToken(first));
  expect(begun.status, begun.text).toBe(201);
  const { id } = JSON.parse(begun.text) as { id: string };

  const state = async (): Promise<{ state: string; percent: number; failed: number }> => {
    // `second` is replaced before the next question.
    const { text } = await send(`${second.url}/rollouts/${id}`, 'GET', undefined, token);
    const rollout = JSON.parse(text) as { state: string; progress: { percent: number; failed: number } };
    return { state: rollout.state, ...rollout.progress };
  };
  const killedAt: number[] = [];
  for (const [turn, percent] of KILLED_AT.entries()) {
    await eventually(`${percent} % are done`, async () => (await state()).percent >= percent, 120_000);
    killedAt.push((await state()).percent);
    if (turn % 2 === 0) {
      await balancer.kill(first);
      first = await balancer.add(await builds.newer.start());
    } else {
      await balancer.kill(second);
      second = await balancer.add(await builds.newer.start());
    }
  }
  expect(Math.max(...killedAt)).toBeLessThan(100);
  await eventually('the rollout is done', async () => (await state()).state === 'done', 240_000);
  expect((await state()).failed).toBe(0);

  const made = await endCreations();
  const { sent, failed } = await endLoad();
  expect(failed).toEqual([]);
  // An older replica may refuse to make a tenant, with a time to try again.
  expect(made.filter(({ status, retryAfter }) => status !== 201 && (status !== 503 || retryAfter === null))).toEqual(
    [],
  );
  expect(made.some(({ status }) => status === 201)).toBe(true);

  older.signal('SIGTERM');
  expect(await older.exited).toBe(0);
  await builds.newer.migrate();
  expect(Object.keys(await schemasOf(builds))).toEqual([`active: row ${NEWER}, database ${NEWER}`]);
  await balancer.stop();
  process.stdout.write(
    `killed at ${killedAt.join(', ')} %; ${sent} requests, ${made.length} tenants asked for meanwhile\n`,
  );
});
