// Rollouts while workers die, tenants fail, sessions keep tables, and servers and databases are not as they were. The next build has
// one more migration (tests/support/next-build.ts). ROLLOUT_TENANTS sets the size of the fleet in which a worker is killed.
import { sql, type Kysely } from 'kysely';
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, inject, it, onTestFinished } from 'vitest';
import { findTenant, recordOlderSchema } from '../../db/registry/tenant-queries.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { SERVICE } from '../../src/audit/operator-act.js';
import type { RolloutItem } from '../../src/rollouts/rollout-acts.js';
import type { RolloutWish } from '../../src/rollouts/rollout-plan.js';
import { asSuperuser, createRegistry, startService, type TestService, type TestTenant } from '../support/app.js';
import { whileHeld } from '../support/held-tables.js';
import { startReplicas } from '../support/lost-answers.js';
import { addColumn, NEXT, nextRollouts, type NextOptions, type NextRollouts } from '../support/next-build.js';
import { startProxy } from '../support/proxy.js';
import { eventually } from '../support/service-process.js';
import { rowOf } from '../support/tenants.js';

const TENANTS = Number(process.env['ROLLOUT_TENANTS'] ?? 10);
const NEWEST = latestVersion(tenantMigrations);
const LONG = 120_000;

let registryName: string;
let here: TestService;
let there: TestService;

beforeAll(async () => {
  registryName = await createRegistry();
  // The reserve is large enough for what a test leaves open.
  const env = { CLUSTER_CONNECTION_RESERVE: '20', PROVISIONER_POOL_MAX: '6' };
  here = await startService({ registry: registryName, env });
  there = await startService({ registry: registryName, env, operator: false });
});
afterAll(() => Promise.all([here.close(), there.close()]));
afterEach(async () => {
  const { registry } = here.app.engine;
  await sql`delete from rollouts`.execute(registry);
  await sql`delete from tenants`.execute(registry);
});

async function makeTenants(count: number, service = here): Promise<TestTenant[]> {
  const made: TestTenant[] = [];
  for (let index = 0; index < count; index += 1) made.push(await service.createTenant());
  return made;
}

const rolloutsOf = (service: TestService, options: NextOptions = {}): NextRollouts =>
  nextRollouts(service.app.engine, options);

const start = (rollouts: NextRollouts, wish: RolloutWish = {}): ReturnType<NextRollouts['start']> =>
  rollouts.start({ pace: 'full', ...wish }, SERVICE, true);

async function stateOf(rollouts: NextRollouts, { id }: { id: string }): Promise<string | undefined> {
  return (await rollouts.find(id))?.state;
}

async function versionOf({ id }: { id: string }): Promise<string | undefined> {
  return (await findTenant(here.app.engine.registry, id))?.schemaVersion;
}

async function versions(): Promise<string[]> {
  const rows = await here.app.engine.registry.selectFrom('tenants').select('schema_version as version').execute();
  return rows.map(({ version }) => version);
}

async function inTenant<T>(tenant: { id: string }, work: (db: Kysely<unknown>) => Promise<T>): Promise<T> {
  const { dbName } = await rowOf(here, tenant);
  return asSuperuser(dbName, work);
}

/** The migration of the next build fails in this tenant, until it is repaired. */
async function poison(tenant: { id: string }): Promise<{ repair: () => Promise<void> }> {
  await inTenant(tenant, addColumn);
  return {
    repair: () =>
      inTenant(tenant, async (db) => {
        await sql`alter table products drop column next`.execute(db);
      }),
  };
}

/** Migrations wait in the gate until it opens, at the end of the test at the latest. `inside`: how many databases wait there. */
function createGate(): { up: (db: Kysely<unknown>) => Promise<void>; readonly inside: number; open(): void } {
  let open = (): void => undefined;
  const opened = new Promise<void>((resolve) => (open = resolve));
  onTestFinished(() => {
    open();
  });
  // A migration that has waited for a lock in vain runs again.
  const inside = new Set<string>();
  return {
    up: async (db) => {
      await addColumn(db);
      const { rows } = await sql<{ name: string }>`select current_database() as name`.execute(db);
      inside.add(rows[0]?.name ?? '');
      await opened;
    },
    get inside() {
      return inside.size;
    },
    open,
  };
}

function itemOf(items: readonly RolloutItem[], { id }: { id: string }): RolloutItem {
  return items.find(({ tenantId }) => tenantId === id) ?? expect.fail('the tenant has no item');
}

describe('two workers', () => {
  it('share a rollout, and never run more databases of a server at once than its places', async () => {
    await makeTenants(8);
    let inside = 0;
    let most = 0;
    const by = { here: 0, there: 0 };
    const counting =
      (who: keyof typeof by): NextOptions['inside'] =>
      async (_, work) => {
        by[who] += 1;
        most = Math.max(most, (inside += 1));
        try {
          await eventually('both work', () => by.here > 0 && by.there > 0, 60_000);
          await sleep(100);
          return await work();
        } finally {
          inside -= 1;
        }
      };
    // So many places are left for the other one.
    const one = rolloutsOf(here, { inside: counting('here'), atOnce: 2 });
    const other = rolloutsOf(there, { inside: counting('there') });
    const rollout = await start(one);
    expect(await Promise.all([one.work(rollout), other.work(rollout)])).toEqual(['halted', 'halted']);
    expect(await stateOf(one, rollout)).toBe('done');
    expect(most).toBe(3);
    expect(by.here + by.there).toBe(8);
    expect(Math.min(by.here, by.there)).toBeGreaterThan(0);
    expect((await versions()).every((version) => version === NEXT)).toBe(true);
  });

  it(
    'are enough for a rollout: what one was at when it was killed, the other does again, and each tenant is migrated once',
    async () => {
      await makeTenants(TENANTS);
      const rollouts = rolloutsOf(there);
      const rollout = await start(rollouts);
      const script = ['--import', 'tsx', 'tests/support/rollout-child.ts'];
      const child = spawn(
        process.execPath,
        [...script, JSON.stringify(inject('cluster')), registryName, rollout.id, '200'],
        { stdio: ['ignore', 'pipe', 'inherit'] },
      );
      const exited = new Promise((resolve) => child.once('exit', resolve));
      onTestFinished(() => void child.kill('SIGKILL'));
      let done = 0;
      child.stdout.on('data', (data: Buffer) => (done += data.toString().split('\n').length - 1));
      await eventually('the child has migrated some', () => Promise.resolve(done >= TENANTS / 5), 60_000);
      child.kill('SIGKILL');
      await exited;
      const before = await rollouts.allItems(rollout);
      const cut = before.filter(({ state }) => state === 'running').map(({ tenantId }) => tenantId);
      expect(cut.length).toBeGreaterThan(0);
      const again: string[] = [];
      const other = rolloutsOf(there, { onItem: ({ tenantId }) => again.push(tenantId) });
      expect(await other.work(rollout)).toBe('halted');
      expect(again).toEqual(expect.arrayContaining(cut));
      const items = await rollouts.allItems(rollout);
      expect(items.map(({ state, attempts }) => ({ state, attempts }))).toEqual(
        items.map(() => ({ state: 'done', attempts: 1 })),
      );
      expect(items).toHaveLength(TENANTS);
      expect((await versions()).every((version) => version === NEXT)).toBe(true);
    },
    LONG + TENANTS * 2_000,
  );

  it('do not lose an item when the connection of the locks of one is cut', async () => {
    const tenants = await makeTenants(3);
    const gate = createGate();
    const one = rolloutsOf(here, { up: gate.up });
    const rollout = await start(one);
    const working = one.work(rollout);
    await eventually('the items run', () => Promise.resolve(gate.inside === 3));
    await asSuperuser('postgres', (db) =>
      sql`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'tenantry locks' and datname = ${registryName}`.execute(
        db,
      ),
    );
    const other = rolloutsOf(there);
    const again = other.work(rollout);
    await sleep(1_500);
    gate.open();
    // The first one may have noticed that its lock is lost before or after its items have ended.
    expect(['lost', 'halted']).toContain(await working);
    expect(['lost', 'halted']).toContain(await again);
    if ((await stateOf(other, rollout)) !== 'done') await other.work(rollout);
    expect(await stateOf(other, rollout)).toBe('done');
    expect(await Promise.all(tenants.map(versionOf))).toEqual([NEXT, NEXT, NEXT]);
  });
});

describe('on a busy server', () => {
  /** The most databases that a rollout was in at once, while four tenants are read all the time. */
  async function mostAtOnce(pace: 'gentle' | 'full'): Promise<number> {
    const tenants = await makeTenants(8);
    const reading = { goesOn: true };
    const readers = tenants.slice(0, 4).map(async ({ adminToken: token }) => {
      while (reading.goesOn) {
        expect((await here.send('GET', '/products', { token })).status).toBe(200);
        await sleep(20);
      }
    });
    let inside = 0;
    let most = 0;
    const rollouts = rolloutsOf(here, {
      inside: async (_, work) => {
        most = Math.max(most, (inside += 1));
        try {
          await sleep(50);
          return await work();
        } finally {
          inside -= 1;
        }
      },
    });
    const rollout = await start(rollouts, { pace });
    try {
      expect(await rollouts.work(rollout)).toBe('halted');
    } finally {
      reading.goesOn = false;
      await Promise.all(readers);
    }
    expect(await stateOf(rollouts, rollout)).toBe('done');
    return most;
  }

  it('the gentle pace is one database at a time', { timeout: LONG }, async () => {
    expect(await mostAtOnce('gentle')).toBe(1);
  });

  it('the full pace takes every place', { timeout: LONG }, async () => {
    expect(await mostAtOnce('full')).toBe(3);
  });
});

describe('a tenant that fails', () => {
  it('with a budget of 0 stops the rollout, which goes on when it is repaired and tried again', async () => {
    const [poisoned, ...others] = await makeTenants(4);
    if (!poisoned) throw new Error('no tenant');
    const { repair } = await poison(poisoned);
    const stopped: unknown[] = [];
    const rollouts = rolloutsOf(here, { onStopped: ({ reason }) => stopped.push(reason) });
    const rollout = await start(rollouts, { budget: 0 });
    expect(await rollouts.work(rollout)).toBe('halted');
    // It delays no other tenant: its second attempt came after them.
    expect(await Promise.all(others.map(versionOf))).toEqual([NEXT, NEXT, NEXT]);
    const found = await rollouts.find(rollout.id);
    expect(found).toMatchObject({
      state: 'stopped',
      reason: '1 of its tenants have failed, which is more than its budget of 0',
      progress: { done: 3, failed: 1, percent: 100 },
    });
    expect(stopped).toEqual([found?.reason]);
    expect(itemOf(await rollouts.allItems(rollout), poisoned)).toMatchObject({
      state: 'failed',
      attempts: 2,
      error: 'a database refused a statement (42701).',
    });
    await repair();
    await rollouts.retry(rollout.id, SERVICE);
    expect(await rollouts.work(rollout)).toBe('halted');
    expect(await rollouts.find(rollout.id)).toMatchObject({ state: 'done', reason: null, progress: { done: 4 } });
  });

  it('within the budget stops nothing, and one more does', async () => {
    const [one, other] = await makeTenants(3);
    if (!one || !other) throw new Error('no tenants');
    await Promise.all([poison(one), poison(other)]);
    const rollouts = rolloutsOf(here);
    const first = await start(rollouts, { budget: 2 });
    await rollouts.work(first);
    expect(await rollouts.find(first.id)).toMatchObject({ state: 'done', progress: { done: 1, failed: 2 } });
    const second = await start(rollouts, { budget: 1 });
    await rollouts.work(second);
    expect(await rollouts.find(second.id)).toMatchObject({ state: 'stopped', progress: { failed: 2 } });
    // With a larger budget it goes on.
    await rollouts.resume(second.id, SERVICE, { budget: 5 });
    await rollouts.work(second);
    expect(await stateOf(rollouts, second)).toBe('done');
  });

  it('because its history differs has no second attempt', async () => {
    const [strange, fine] = await makeTenants(2);
    if (!strange || !fine) throw new Error('no tenants');
    await inTenant(strange, (db) =>
      sql`insert into migration.kysely_migration (name, timestamp) values ('0010_elsewhere', now()::text)`.execute(db),
    );
    const rollouts = rolloutsOf(here);
    const rollout = await start(rollouts);
    await rollouts.work(rollout);
    expect(itemOf(await rollouts.allItems(rollout), strange)).toMatchObject({
      state: 'failed',
      attempts: 1,
      error: expect.stringContaining('It has run 0010_elsewhere, which this build does not have.') as string,
    });
    expect(await versionOf(fine)).toBe(NEXT);
  });

  it('because a dump keeps its tables is migrated after the others, when the dump has ended', async () => {
    const [held, ...others] = await makeTenants(4);
    if (!held) throw new Error('no tenant');
    const { dbName } = await rowOf(here, held);
    const order: string[] = [];
    await whileHeld(dbName, 'products', async ({ release }) => {
      const rollouts = rolloutsOf(here, {
        atOnce: 2,
        onItem: ({ tenantId, outcome }) => {
          order.push(tenantId === held.id ? `held ${outcome}` : outcome);
          if (outcome === 'again') release();
        },
      });
      const rollout = await start(rollouts, { budget: 0 });
      expect(await rollouts.work(rollout)).toBe('halted');
      expect(await stateOf(rollouts, rollout)).toBe('done');
    });
    expect(order).toEqual([...others.map(() => 'done'), 'held again', 'held done']);
  });
});

describe('a rollout that people steer', () => {
  it('begins no item while it is paused, and goes on when it is resumed', async () => {
    await makeTenants(5);
    const gate = createGate();
    const rollouts = rolloutsOf(here, { up: gate.up, atOnce: 2 });
    const rollout = await start(rollouts);
    const working = rollouts.work(rollout);
    await eventually('two items run', () => Promise.resolve(gate.inside === 2));
    await rollouts.pause(rollout.id, SERVICE);
    gate.open();
    expect(await working).toBe('halted');
    expect(await rollouts.find(rollout.id)).toMatchObject({ state: 'paused', progress: { done: 2, pending: 3 } });
    await rollouts.resume(rollout.id, SERVICE);
    await rollouts.work(rollout);
    expect(await rollouts.find(rollout.id)).toMatchObject({ state: 'done', progress: { done: 5 } });
  });

  it('skips what has not begun when it is aborted, and lets what runs come to its end', async () => {
    await makeTenants(4);
    const gate = createGate();
    const rollouts = rolloutsOf(here, { up: gate.up, atOnce: 1 });
    const rollout = await start(rollouts);
    const working = rollouts.work(rollout);
    await eventually('an item runs', () => Promise.resolve(gate.inside === 1));
    await rollouts.abort(rollout.id, SERVICE);
    gate.open();
    expect(await working).toBe('halted');
    expect(await rollouts.find(rollout.id)).toMatchObject({ state: 'aborted', progress: { done: 1, skipped: 3 } });
    // The next one takes the rest.
    const next = await start(rollouts);
    await rollouts.work(next);
    expect(await rollouts.find(next.id)).toMatchObject({ state: 'done', tenantsCurrent: 1, progress: { done: 3 } });
  });

  it('stops when the schemas of a wave differ from the template, and goes on with the next wave when it is resumed', async () => {
    await makeTenants(4);
    const checked: number[] = [];
    const rollouts = rolloutsOf(here, {
      checkWave: (tenants) => {
        checked.push(tenants.length);
        const differs = checked.length === 1;
        return Promise.resolve({
          compared: tenants.length,
          differing: differs ? 1 : 0,
          failed: 0,
          ...(differs && { first: 'acme: products.next' }),
        });
      },
    });
    const rollout = await start(rollouts, { canary: { count: 1 }, waves: [50], budget: 0 });
    await rollouts.work(rollout);
    expect(await rollouts.find(rollout.id)).toMatchObject({
      state: 'stopped',
      wave: 0,
      differences: 1,
      firstDifference: 'acme: products.next',
      reason: 'the schemas of 1 of 1 tenants of wave 0 differ from the template: acme: products.next',
      progress: { done: 1, pending: 3 },
    });
    await rollouts.resume(rollout.id, SERVICE);
    await rollouts.work(rollout);
    expect(await rollouts.find(rollout.id)).toMatchObject({ state: 'done', differences: 1, progress: { done: 4 } });
    expect(checked).toEqual([1, 2, 1]);
  });
});

describe('a fleet that changes meanwhile', () => {
  it('has tenants that are made, restored from an older backup, or purged meanwhile: the rollout ends when none is behind', async () => {
    const [restored, purged] = await makeTenants(2);
    if (!restored || !purged) throw new Error('no tenants');
    const gate = createGate();
    const { dbName } = await rowOf(here, restored);
    const rollouts = rolloutsOf(here, {
      up: (db) => (gate.inside < 1 ? gate.up(db) : addColumn(db)),
      atOnce: 1,
    });
    const rollout = await start(rollouts, { canary: { tenants: [restored.id] } });
    const first = rollouts.work(rollout);
    await eventually('an item runs', () => Promise.resolve(gate.inside === 1));
    await sql`delete from tenants where id = ${purged.id}`.execute(here.app.engine.registry);
    const [late] = await makeTenants(1, there);
    if (!late) throw new Error('no tenant');
    await rollouts.pause(rollout.id, SERVICE);
    gate.open();
    await first;
    expect(await versionOf(restored)).toBe(NEXT);
    // As the marker query of a new connection records it.
    await asSuperuser(dbName, async (db) => {
      await sql`alter table products drop column next`.execute(db);
      await sql`delete from migration.kysely_migration where name = ${NEXT}`.execute(db);
    });
    await recordOlderSchema(here.app.engine.registry, restored.id, NEWEST);
    await rollouts.resume(rollout.id, SERVICE);
    await rollouts.work(rollout);
    expect(await stateOf(rollouts, rollout)).toBe('done');
    expect(await Promise.all([restored, late].map(versionOf))).toEqual([NEXT, NEXT]);
    const items = await rollouts.allItems(rollout);
    expect(itemOf(items, purged)).toMatchObject({ state: 'skipped', error: 'the tenant was purged', slug: null });
    expect(itemOf(items, late)).toMatchObject({ state: 'done' });
    await inTenant(restored, (db) => sql`select next from products`.execute(db));
  });

  it('has suspended and deleted tenants, which are migrated, and stay closed', async () => {
    const [suspended, deleted] = await makeTenants(2);
    if (!suspended || !deleted) throw new Error('no tenants');
    const token = here.operatorToken;
    expect((await here.send('POST', `/tenants/${suspended.id}/suspend`, { token })).status).toBe(200);
    expect((await here.send('DELETE', `/tenants/${deleted.id}`, { token })).status).toBeLessThan(300);
    const rollouts = rolloutsOf(here);
    const rollout = await start(rollouts);
    await rollouts.work(rollout);
    expect(await rollouts.find(rollout.id)).toMatchObject({ state: 'done', progress: { done: 2 } });
    for (const tenant of [suspended, deleted]) {
      const { dbName } = await rowOf(here, tenant);
      const { rows } = await asSuperuser('postgres', (db) =>
        sql<{ open: boolean }>`select has_database_privilege(${dbName}, ${dbName}, 'connect') as open`.execute(db),
      );
      expect(rows).toEqual([{ open: false }]);
      expect(await versionOf(tenant)).toBe(NEXT);
    }
  });

  it(
    'is rolled out on the servers that answer, and on the other when it answers again, without a failed attempt',
    async () => {
      const [away, fine] = await makeTenants(2);
      if (!away || !fine) throw new Error('no tenants');
      const { provisioner } = inject('cluster');
      const proxy = await startProxy(provisioner);
      onTestFinished(() => proxy.close());
      const { registry, provisioners } = here.app.engine;
      await sql`update tenants set db_host = ${proxy.host}, db_port = ${proxy.port} where id = ${away.id}`.execute(
        registry,
      );
      proxy.mode = 'refuse';
      const aways: unknown[] = [];
      const servers = {
        at: async ({ port }: { port: number }) => {
          if (port === proxy.port && proxy.mode === 'refuse') throw new Error('it does not answer');
          return { ...(await provisioners.at(provisioner)), atOnce: 2 };
        },
      };
      const times = { first: 100, longest: 400, busy: 100 };
      const rollouts = rolloutsOf(here, {
        servers,
        pauseTimes: times,
        onAway: ({ port }) => {
          aways.push(port);
          if (aways.length === 3) proxy.mode = 'pass';
        },
      });
      const rollout = await start(rollouts, { waves: [50, 100], budget: 0 });
      expect(await rollouts.work(rollout)).toBe('halted');
      expect(await stateOf(rollouts, rollout)).toBe('done');
      expect(await Promise.all([away, fine].map(versionOf))).toEqual([NEXT, NEXT]);
      expect((await rollouts.allItems(rollout)).map(({ attempts }) => attempts)).toEqual([1, 1]);
      expect(aways.length).toBeGreaterThanOrEqual(3);
    },
    LONG,
  );
});

describe('the answer to a COMMIT of the registry', () => {
  it(
    'may be lost at each of them: the rollout ends, and each tenant is migrated once',
    async () => {
      const replicas = await startReplicas();
      const { registry } = replicas.here.app.engine;
      const tenants = await makeTenants(3, replicas.here);
      const isCommit = (statement: string): boolean => /^\s*commit\s*$/i.test(statement);
      let losses = 0;
      for (let nth = 1; ; nth += 1) {
        let commits = 0;
        const rollouts = nextRollouts(replicas.here.app.engine, { atOnce: 2 });
        const rollout = await start(rollouts);
        const loss = replicas.loseAnswers(
          (statement, target) => target === 'registry' && isCommit(statement) && (commits += 1) === nth,
        );
        while ((await rollouts.work(rollout)) === 'lost');
        replicas.loseAnswers(() => false);
        expect(await stateOf(rollouts, rollout), `commit ${nth}`).toBe('done');
        const items = await rollouts.allItems(rollout);
        expect(
          items.map(({ state }) => state),
          `commit ${nth}`,
        ).toEqual(['done', 'done', 'done']);
        if (!loss.happened) break;
        losses += 1;
        for (const { id } of tenants) {
          const { dbName } = await rowOf(replicas.here, { id });
          await asSuperuser(dbName, async (db) => {
            await sql`alter table products drop column next`.execute(db);
            await sql`delete from migration.kysely_migration where name = ${NEXT}`.execute(db);
          });
          await recordOlderSchema(registry, id, NEWEST);
        }
      }
      expect(losses).toBeGreaterThanOrEqual(4);
    },
    4 * LONG,
  );
});
