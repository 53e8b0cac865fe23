// Adoptions and removals as operations: a lost answer or an error at each step, a worker that vanished, abandoning, and two
// replicas at once. The adopted database is never dropped, and each ends done or undone.
import { sql } from 'kysely';
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, inject, it } from 'vitest';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { abandonOperation } from '../../db/registry/operations/operation-steering.js';
import { insertOperation, type OperationRecord } from '../../db/registry/operations/operation-rows.js';
import { findOperatorByEmail } from '../../db/registry/operator-queries.js';
import { listOperations } from '../../db/registry/operations/operation-lists.js';
import { findTenant } from '../../db/registry/tenant-queries.js';
import {
  asSuperuser,
  createRegistry,
  OPERATOR,
  startService,
  startServiceIn,
  type PageOf,
  type TestService,
} from '../support/app.js';
import { createLegacyDatabase, invoicesIn, signIn, stateOfDatabase } from '../support/evidence.js';
import { parseExposition } from '../support/exposition.js';
import { finishOperations } from '../support/operations.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import { actOn, commentOn, commentOnBoth, make, roleExists, type Answered } from '../support/rows-and-marks.js';
import { markAgain, rowOf } from '../support/tenants.js';

const { provisioner } = inject('cluster');
const ADOPT = ['role', 'close', 'migrate', 'fill', 'mark', 'activate'] as const;
const REMOVE = ['begin', 'pools', 'database', 'row'] as const;

/** An error that `here` throws once, after a step. */
let failing: { step: string; error: Error } | undefined;
let registry: string;
let here: TestService;
let there: TestService;
let clusterId: string;
let operatorId: string;

beforeAll(async () => {
  registry = await createRegistry();
  const env = { RECONCILE_EVERY_MS: '3600000' };
  const afterOperationStep = (_kind: string, step: string): void => {
    if (failing?.step !== step) return;
    const { error } = failing;
    failing = undefined;
    throw error;
  };
  here = await startService({ registry, env, overrides: { afterOperationStep } });
  there = await startService({ registry, env });
  const { body } = await here.send<PageOf<{ id: string }>>('GET', '/clusters', { token: here.operatorToken });
  clusterId = body.data[0]?.id ?? '';
  operatorId = (await findOperatorByEmail(here.app.engine.registry, OPERATOR.email))?.id ?? '';
});
afterAll(() => Promise.all([here.close(), there.close()]));
beforeEach(() => {
  failing = undefined;
});

const lost = (): Error => new DatabaseFault('unavailable', 'connection lost');
const refused = (): Error => new Error('the step was refused');

async function adopt(service = here): Promise<Answered & { database: string; slug: string }> {
  const database = `legacy_${randomBytes(6).toString('hex')}`;
  const slug = database.replace('_', '-');
  await createLegacyDatabase(database, provisioner.user);
  const answer = await make(service, service.operatorToken, slug, { adopt: { clusterId, database } });
  return { ...answer, database, slug };
}

async function deleted(): Promise<string> {
  const { id } = await here.createTenant();
  expect((await actOn(here, id, 'DELETE')).status).toBe(204);
  return id;
}

/** The operations of a tenant, the newest first. */
function operationsOf(tenantId: string, service = here): Promise<OperationRecord[]> {
  return listOperations(service.app.engine.registry, { tenantId, direction: 'desc', limit: 10 });
}

/** Who did what to a tenant, as the audit says. */
async function actorsOf({ app }: TestService, tenantId: string): Promise<{ action: string; actor: string | null }[]> {
  return app.engine.registry
    .selectFrom('audit')
    .select(['action', 'actor_id as actor'])
    .where('tenant_id', '=', tenantId)
    .orderBy('at')
    .execute();
}

/** Adoptions that `there` has ended, as its metrics say. */
async function adoptionsCounted(): Promise<{ success: number; failed: number; measured: number }> {
  const scrape = parseExposition((await there.app.engine.metrics.expose()).body);
  const counted = (outcome: string): number =>
    scrape.sum('tenantry_tenant_creations_total', { source: 'adoption', outcome }) ?? 0;
  const measured = scrape.sum('tenantry_tenant_creation_duration_seconds', { source: 'adoption' }) ?? 0;
  return { success: counted('success'), failed: counted('failed'), measured };
}

async function adoptionsCountedSince(
  before: Awaited<ReturnType<typeof adoptionsCounted>>,
): ReturnType<typeof adoptionsCounted> {
  const { success, failed, measured } = await adoptionsCounted();
  return {
    success: success - before.success,
    failed: failed - before.failed,
    measured: measured - before.measured,
  };
}

/** Abandons the newest operation of a tenant, as a person does. */
async function abandon(tenantId: string, { app }: TestService = here): Promise<void> {
  const { runner, registry: db } = app.engine;
  const [operation] = await operationsOf(tenantId);
  await db.transaction().execute(async (trx) => {
    const abandoned = operation && (await abandonOperation(trx, operation.id));
    if (!abandoned) throw new Error('there is no unfinished operation');
    await runner.kindOf(abandoned.kind)?.abandon?.(trx, abandoned);
  });
}

/** Whether PUBLIC can connect, as before the adoption. */
async function isOpenToPublic(database: string): Promise<boolean> {
  const { rows } = await asSuperuser('postgres', (db) =>
    sql`select from pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba)))
      where datname = ${database} and grantee = 0 and privilege_type = 'CONNECT'`.execute(db),
  );
  return rows.length > 0;
}

describe('an adoption', () => {
  it.each(ADOPT)('whose answer is lost at its step %s is completed', async (step) => {
    failing = { step, error: lost() };
    const { status, text, body, slug, database } = await adopt();
    expect(failing).toBeUndefined();
    expect(status, text).toBe(201);
    expect(await invoicesIn(database)).toEqual([1, 2]);
    expect(await signIn(here, slug)).toBe(200);
    expect((await operationsOf(body.id)).map(({ kind, state }) => [kind, state])).toEqual([['adopt', 'done']]);
  });

  it.each(ADOPT)('that is refused at its step %s is undone, or complete if the database was marked', async (step) => {
    failing = { step, error: refused() };
    const { status, text, body, slug, database } = await adopt();
    expect(failing).toBeUndefined();
    expect(await invoicesIn(database)).toEqual([1, 2]);
    if (step === 'mark' || step === 'activate') {
      expect(status, text).toBe(201);
      expect(await signIn(here, slug)).toBe(200);
      return;
    }
    expect([status, body.code], text).toEqual([503, 'adoption-failed']);
    expect(body.detail).toContain(`at the step "${step}"`);
    expect(await commentOn(database)).toBeNull();
    expect(await isOpenToPublic(database)).toBe(true);
    const again = await make(here, here.operatorToken, slug, { adopt: { clusterId, database } });
    expect(again.status, again.text).toBe(201);
  });

  it.each([
    ['fill', undefined],
    ['mark', 'active'],
  ])('whose process vanished after its step %s is undone or completed by another replica', async (step, expected) => {
    const { body, database, slug } = await adopt();
    const row = await rowOf(here, body);
    await here.app.engine.tenantPools.retire(body.id);
    // The row, the mark and the operation as this step leaves them.
    const { registry: db } = here.app.engine;
    const unnamed = { status: 'provisioning', db_name: row.dbUser, adopts: database, generation: 1 } as const;
    await db.updateTable('tenants').set(unnamed).where('id', '=', body.id).execute();
    const running = { state: 'running', ended_at: null, worker: 'a replica that died' } as const;
    await db.updateTable('operations').set(running).where('tenant_id', '=', body.id).execute();
    if (step === 'fill')
      await asSuperuser('postgres', (at) => sql`comment on database ${sql.id(database)} is null`.execute(at));

    const before = await adoptionsCounted();
    await finishOperations(there.app.engine);
    expect((await findTenant(db, body.id))?.status).toBe(expected);
    const counted = expected === undefined ? { failed: 1 } : { success: 1, measured: 1 };
    expect(await adoptionsCountedSince(before)).toEqual({ success: 0, failed: 0, measured: 0, ...counted });
    // The request did it once already. The worker that did it again names the operator too.
    const created = { action: 'tenant.created', actor: operatorId };
    expect(await actorsOf(there, body.id)).toEqual(expected === undefined ? [created] : [created, created]);
    expect(await invoicesIn(database)).toEqual([1, 2]);
    expect(await roleExists(row.dbUser)).toBe(expected !== undefined);
    expect(await isOpenToPublic(database)).toBe(expected === undefined);
    if (expected === undefined) {
      // The first admin went too: the same adoption works again.
      const again = await make(here, here.operatorToken, slug, { adopt: { clusterId, database } });
      expect(again.status, again.text).toBe(201);
    }
    expect(await signIn(here, slug)).toBe(200);
  });

  it('that is abandoned leaves its database with everything in it, and frees its slug', async () => {
    const { body, database } = await adopt();
    const { dbUser } = await rowOf(here, body);
    const { registry: db } = here.app.engine;
    const unnamed = { status: 'provisioning', db_name: dbUser, adopts: database, generation: 1 } as const;
    await db.updateTable('tenants').set(unnamed).where('id', '=', body.id).execute();
    const waiting = { state: 'waiting', ended_at: null } as const;
    await db.updateTable('operations').set(waiting).where('tenant_id', '=', body.id).execute();
    const mark = await commentOn(database);

    await abandon(body.id);
    expect(await findTenant(db, body.id)).toBeUndefined();
    expect(await invoicesIn(database)).toEqual([1, 2]);
    expect(await commentOn(database)).toBe(mark);
  });
});

describe('a removal', () => {
  it.each(REMOVE.flatMap((step) => [lost, refused].map((error) => [step, error.name, error] as const)))(
    'is completed after its step %s got the error "%s"',
    async (step, _name, error) => {
      const id = await deleted();
      const { dbName } = await rowOf(here, { id });
      failing = { step, error: error() };
      const purged = await actOn(here, id, 'purge');
      // The first step is done already: only its hook failed.
      expect([204, 503], purged.text).toContain(purged.status);
      await finishOperations(there.app.engine);
      expect(failing).toBeUndefined();
      expect(await findTenant(here.app.engine.registry, id)).toBeUndefined();
      expect(await stateOfDatabase(dbName)).toMatchObject({ exists: false });
      expect((await operationsOf(id)).filter(({ kind }) => kind === 'remove').map(({ state }) => state)).toEqual([
        'done',
      ]);
    },
  );

  it.each(REMOVE)('never drops an adopted database, also when the answer of its step %s is lost', async (step) => {
    const { body, database } = await adopt();
    const { dbUser } = await rowOf(here, body);
    expect((await actOn(here, body.id, 'DELETE')).status).toBe(204);
    failing = { step, error: lost() };
    expect((await actOn(here, body.id, 'purge')).status).toBe(204);
    expect(failing).toBeUndefined();
    expect(await invoicesIn(database)).toEqual([1, 2]);
    expect(await stateOfDatabase(database)).toEqual({ exists: true, open: true });
    expect(await commentOn(database)).toBeNull();
    expect(await roleExists(dbUser)).toBe(false);
  });

  it('happens once if two replicas purge at once, and is audited once', async () => {
    const id = await deleted();
    const { dbName } = await rowOf(here, { id });
    const answers = await Promise.all([actOn(here, id, 'purge'), actOn(there, id, 'purge')]);
    const statuses = answers.map(({ status }) => status);
    expect(statuses).toContain(204);
    for (const status of statuses) expect([204, 404, 503]).toContain(status);
    expect(await stateOfDatabase(dbName)).toMatchObject({ exists: false });
    const audited = await here.app.engine.registry
      .selectFrom('audit')
      .select('id')
      .where('tenant_id', '=', id)
      .where('action', '=', 'tenant.purged')
      .execute();
    expect(audited).toHaveLength(1);
    expect((await operationsOf(id)).filter(({ kind }) => kind === 'remove')).toHaveLength(1);
  });

  it('that is abandoned for want of evidence leaves a deleted tenant, which can be restored', async () => {
    const id = await deleted();
    const row = await rowOf(here, { id });
    const { registry: db } = here.app.engine;
    const begun = { status: 'deleting', on_purge: 'drop', deleted_at: null, status_before_deletion: null } as const;
    await db.updateTable('tenants').set(begun).where('id', '=', id).execute();
    const mark = await commentOn(row.dbName);
    await commentOnBoth(row, null);
    await finishOperations(there.app.engine);
    expect((await operationsOf(id))[0]).toMatchObject({ kind: 'remove', state: 'needs-person', step: 'database' });

    await abandon(id);
    expect(await findTenant(db, id)).toMatchObject({ status: 'deleted', statusBeforeDeletion: 'suspended' });
    expect(await stateOfDatabase(row.dbName)).toMatchObject({ exists: true });
    await commentOnBoth(row, mark);
    const restored = await actOn(here, id, 'restore');
    expect([restored.status, restored.body], restored.text).toMatchObject([200, { status: 'suspended' }]);
  });

  it('that was abandoned after the decision to drop is completed by a person’s next purge', async () => {
    const id = await deleted();
    const { dbName } = await rowOf(here, { id });
    await markAgain(here, id, 'dropping');
    const { registry: db } = here.app.engine;
    const begun = { status: 'deleting', on_purge: 'drop', deleted_at: null, status_before_deletion: null } as const;
    await db.updateTable('tenants').set(begun).where('id', '=', id).execute();
    await insertOperation(db, { kind: 'remove', subject: id, tenantId: id, clusterId });
    await abandon(id);
    expect((await findTenant(db, id))?.status).toBe('deleted');

    const purged = await actOn(here, id, 'purge');
    expect(purged.status, purged.text).toBe(204);
    expect(await stateOfDatabase(dbName)).toMatchObject({ exists: false });
  });
});

describe('a purge after the grace time', () => {
  const overdue = (id: string): Promise<unknown> =>
    sql`update tenants set deleted_at = now() - interval '400 days' where id = ${id}`.execute(here.app.engine.registry);
  const purgeDue = (): Promise<void> => here.app.engine.lifecycle.purgeDue(new AbortController().signal);

  it('without evidence leaves the row as it is and waits for a person, and ends if the tenant is restored', async () => {
    const id = await deleted();
    const row = await rowOf(here, { id });
    const mark = await commentOn(row.dbName);
    await commentOnBoth(row, null);
    await overdue(id);
    await purgeDue();
    await finishOperations(there.app.engine);
    const [operation] = await operationsOf(id);
    expect(operation).toMatchObject({ kind: 'remove', state: 'needs-person', step: 'begin' });
    expect((await rowOf(here, { id })).status).toBe('deleted');

    await commentOnBoth(row, mark);
    expect((await actOn(here, id, 'restore')).status).toBe(200);
    await purgeDue();
    await finishOperations(there.app.engine);
    expect((await operationsOf(id)).find((each) => each.id === operation?.id)?.state).toBe('undone');
    expect((await rowOf(here, { id })).status).toBe('active');
  });

  it('is recorded once, and done by any replica', async () => {
    const id = await deleted();
    await overdue(id);
    await Promise.all([purgeDue(), purgeDue()]);
    await purgeDue();
    await finishOperations(there.app.engine);
    expect(await findTenant(here.app.engine.registry, id)).toBeUndefined();
    expect((await operationsOf(id)).filter(({ kind }) => kind === 'remove').map(({ state }) => state)).toEqual([
      'done',
    ]);
  });
});

describe('while the server is stopped', () => {
  let proxy: Proxy;
  let service: TestService;
  beforeAll(async () => {
    const cluster = inject('cluster');
    proxy = await startProxy(cluster.provisioner);
    const { host, port } = proxy;
    service = await startServiceIn(
      { ...cluster, provisioner: { ...cluster.provisioner, host, port } },
      { overrides: { operationTimes: { removeDeadline: 3_000 } } },
    );
  });
  afterAll(async () => {
    await service.close();
    await proxy.close();
  });

  it('a purge names its operation, and is finished when the server is back', { timeout: 70_000 }, async () => {
    const { id } = await service.createTenant();
    const { dbName } = await rowOf(service, { id });
    expect((await actOn(service, id, 'DELETE')).status).toBe(204);
    proxy.mode = 'refuse';
    const purged = await actOn(service, id, 'purge');
    expect([purged.status, purged.body.code]).toEqual([503, 'operation-unfinished']);
    const [operation] = await operationsOf(id, service);
    expect(purged.body.detail).toContain(operation?.id);
    expect(await stateOfDatabase(dbName)).toMatchObject({ exists: true });

    proxy.mode = 'pass';
    await expect
      .poll(async () => (await operationsOf(id, service))[0]?.state, { timeout: 45_000, interval: 100 })
      .toBe('done');
    expect(await stateOfDatabase(dbName)).toMatchObject({ exists: false });
  });
});
