// Rows and databases that do not agree: of a former build, of a registry that went back in time, of another owner, or restored
// from a dump. A database that may hold a tenant's data stays, and an operator can continue with each of them.
import { sql } from 'kysely';
import { randomBytes, randomUUID } from 'node:crypto';
import { expect, inject, it, onTestFinished } from 'vitest';
import { ADMIN, asSuperuser, connectAs, type PageOf, type TestService } from '../support/app.js';
import { contentOf, inside, PRODUCT, signIn, stateOfDatabase, writeProduct } from '../support/evidence.js';
import {
  actOn,
  asOfFormerBuild,
  commentOn,
  commentOnBoth,
  formerMark,
  make,
  roleExists,
  startQuietService,
  statusOf,
  writeRow,
  type Answered,
} from '../support/rows-and-marks.js';
import { finishOperations } from '../support/operations.js';
import { markAgain, rowOf } from '../support/tenants.js';

const { provisioner, registryService } = inject('cluster');

const DAY = 86_400_000;
const A_DAY_OF_GRACE = { TENANT_DELETION_GRACE_MS: String(DAY) };
const DELETED_LONG_AGO = sql`
  status = 'deleted', status_before_deletion = 'active', deleted_at = now() - interval '40 days'`;

async function makeTenant(service: TestService, slug: string): Promise<string> {
  const made = await make(service, service.operatorToken, slug);
  expect(made.status, made.text).toBe(201);
  return made.body.id;
}

async function makeTenantWithProduct(service: TestService, slug: string): Promise<string> {
  const id = await makeTenant(service, slug);
  await writeProduct(service, slug);
  return id;
}

/** Runs a job, and every operation that is unfinished then. */
async function run({ app }: TestService, job: string): Promise<void> {
  await app.engine.housekeeping.runNow(job);
  await finishOperations(app.engine);
}

async function expectStatus(answer: Promise<Answered>, status: number): Promise<Answered> {
  const answered = await answer;
  expect(answered.status, answered.text).toBe(status);
  return answered;
}

const OPEN = { exists: true, open: true };
const CLOSED = { exists: true, open: false };
const GONE = { exists: false, open: false };

/** The content of the database of a tenant with a product. */
const contentFor = (id: string): object => ({ markers: [id], users: [ADMIN.email], products: [PRODUCT] });

it('a closed database with a user survives its row in a former build’s unfinished creation, and becomes a suspended tenant', async () => {
  const service = await startQuietService();
  const id = await makeTenantWithProduct(service, 'half-made');
  await expectStatus(actOn(service, id, 'suspend'), 200);
  const { dbName } = await asOfFormerBuild(service, id, sql`status = 'provisioning'`);

  await finishOperations(service.app.engine);
  expect(await stateOfDatabase(dbName)).toEqual(CLOSED);
  expect(await contentOf(dbName)).toEqual(contentFor(id));
  expect(await statusOf(service, id)).toBe('suspended');
});

it('a closed database with a user survives its row in a former build’s unfinished creation, even if only its role is marked', async () => {
  const service = await startQuietService();
  const id = await makeTenantWithProduct(service, 'half-made');
  await expectStatus(actOn(service, id, 'suspend'), 200);
  const row = await asOfFormerBuild(service, id, sql`status = 'provisioning'`);
  await commentOnBoth(row, null, await formerMark(service, id));

  await finishOperations(service.app.engine);
  expect(await stateOfDatabase(row.dbName)).toEqual(CLOSED);
  expect(await contentOf(row.dbName)).toEqual(contentFor(id));
});

it('an open database whose row a former build deleted long ago stays open and complete: the tenant may have been restored since', async () => {
  const service = await startQuietService(A_DAY_OF_GRACE);
  const id = await makeTenantWithProduct(service, 'restored-since');
  const { dbName } = await asOfFormerBuild(service, id, DELETED_LONG_AGO);
  const before = await rowOf(service, { id });

  for (const job of ['lifecycle purge', 'lifecycle settle', 'lifecycle purge']) await run(service, job);
  expect(await stateOfDatabase(dbName)).toEqual(OPEN);
  expect(await contentOf(dbName)).toEqual(contentFor(id));
  expect(await rowOf(service, { id })).toEqual(before);
  const told = service.lines.filter((line) => line.includes(id) && line.includes('left as it is'));
  expect(told.map((line) => JSON.parse(line) as object)).toContainEqual(
    expect.objectContaining({ security: true, event: 'evidence-refused', tenantId: id, name: dbName }),
  );
});

it('a closed database whose row a former build deleted long ago gets its mark, and its full grace time from then on', async () => {
  const service = await startQuietService(A_DAY_OF_GRACE);
  const id = await makeTenantWithProduct(service, 'deleted-before');
  await expectStatus(actOn(service, id, 'DELETE'), 204);
  const { dbName } = await asOfFormerBuild(service, id, DELETED_LONG_AGO);

  for (const job of ['lifecycle settle', 'lifecycle purge']) await run(service, job);
  expect(await stateOfDatabase(dbName)).toEqual(CLOSED);
  expect(await contentOf(dbName)).toEqual(contentFor(id));
  const { status, claim, deletedAt } = await rowOf(service, { id });
  expect(status).toBe('deleted');
  expect(await commentOn(dbName)).toContain(`${id} deleted ${claim} `);
  expect(Date.now() - new Date(deletedAt ?? 0).getTime()).toBeLessThan(DAY);
});

it('a purge leaves a database that now belongs to another role, even if the provisioner is a member of that role', async () => {
  const service = await startQuietService();
  const id = await makeTenantWithProduct(service, 'handed-over');
  const { dbName } = await rowOf(service, { id });
  await expectStatus(actOn(service, id, 'DELETE'), 204);
  const group = sql.id(`dbas_${randomBytes(4).toString('hex')}`);
  await asSuperuser('postgres', async (db) => {
    await sql`create role ${group}`.execute(db);
    await sql`grant ${group} to ${sql.id(provisioner.user)}`.execute(db);
    await sql`alter database ${sql.id(dbName)} owner to ${group}`.execute(db);
  });
  onTestFinished(() =>
    asSuperuser('postgres', async (db) => {
      await sql`reassign owned by ${group} to ${sql.id(provisioner.user)}`.execute(db);
      await sql`drop role ${group}`.execute(db);
    }),
  );

  const purged = await actOn(service, id, 'purge');
  expect(await stateOfDatabase(dbName)).toEqual(CLOSED);
  expect(purged).toMatchObject({ status: 409, body: { code: 'tenant-state' } });
});

it.each([
  ['drop', 'keep'],
  ['keep', 'drop'],
])(
  'a purge that was acknowledged to keep the database keeps it, even beside another purge: %s and then %s',
  async (...acts) => {
    const service = await startQuietService();
    const id = await makeTenantWithProduct(service, 'purged-twice');
    const { dbName } = await rowOf(service, { id });
    await expectStatus(actOn(service, id, 'DELETE'), 204);

    const answers = await Promise.all(acts.map((act) => actOn(service, id, `purge?database=${act}`)));
    const [keep] = answers.filter((_answer, index) => acts[index] === 'keep');
    const statuses = answers.map(({ status }) => status);
    expect(statuses).toContain(204);
    for (const status of statuses) expect([204, 404, 409, 503]).toContain(status);
    if (keep?.status === 204) {
      expect((await stateOfDatabase(dbName)).exists).toBe(true);
      expect(await contentOf(dbName)).toMatchObject({ products: [PRODUCT] });
    }
    expect(await statusOf(service, id)).toBeUndefined();
  },
);

it('a database that was restored from a dump while its row said provisioning becomes active, and is marked again', async () => {
  const service = await startQuietService();
  const id = await makeTenantWithProduct(service, 'dumped');
  const row = await rowOf(service, { id });
  await commentOnBoth(row, null);
  await writeRow(service, id, sql`status = 'provisioning'`);

  await finishOperations(service.app.engine);
  expect(await contentOf(row.dbName)).toEqual(contentFor(id));
  expect(await statusOf(service, id)).toBe('active');
  expect(await roleExists(row.dbUser)).toBe(true);
  expect(await commentOn(row.dbName)).toContain(`${id} tenant ${row.claim} `);
  expect(await signIn(service, 'dumped')).toBe(200);
});

it('every act of an operator works if the registry is from before an upgrade and the mark from after it', async () => {
  const service = await startQuietService();
  const id = await makeTenant(service, 'between-builds');
  const row = await rowOf(service, { id });
  await commentOnBoth(row, `${await formerMark(service, id)} ${row.claim} 0`);
  await writeRow(service, id, sql`claim = null, generation = 0`);

  await expectStatus(actOn(service, id, 'suspend'), 200);
  expect(await stateOfDatabase(row.dbName)).toEqual(CLOSED);
  await run(service, 'lifecycle settle');
  await expectStatus(actOn(service, id, 'resume'), 200);
  expect(await stateOfDatabase(row.dbName)).toEqual(OPEN);
  expect(await signIn(service, 'between-builds')).toBe(200);
  await expectStatus(actOn(service, id, 'DELETE'), 204);
  await expectStatus(actOn(service, id, 'purge'), 204);
  expect(await stateOfDatabase(row.dbName)).toEqual(GONE);
});

it('a removal that a former build began waits for an operator while the database has users, and a refused slug names the tenant', async () => {
  const service = await startQuietService();
  const id = await makeTenant(service, 'half-removed');
  const { dbName } = await asOfFormerBuild(service, id, sql`status = 'deleting'`);

  await finishOperations(service.app.engine);
  await run(service, 'lifecycle settle');
  expect(await statusOf(service, id)).toBe('deleting');
  expect(await contentOf(dbName)).toMatchObject({ users: [ADMIN.email] });
  const taken = await make(service, service.operatorToken, 'half-removed');
  expect(taken).toMatchObject({ status: 409, body: { code: 'slug-taken' } });
  expect(taken.body.detail).toContain(id);

  await expectStatus(actOn(service, id, 'DELETE'), 204);
  expect(await stateOfDatabase(dbName)).toEqual(GONE);
  await expectStatus(make(service, service.operatorToken, 'half-removed'), 201);
});

it('a removal that a former build began is finished by a job if the database has no users', async () => {
  const service = await startQuietService();
  const id = await makeTenant(service, 'half-removed');
  const { dbName } = await asOfFormerBuild(service, id, sql`status = 'deleting'`);
  await service.app.engine.tenantPools.retire(id);
  await inside(dbName, (db) => sql`delete from users`.execute(db));

  await finishOperations(service.app.engine);
  expect(await stateOfDatabase(dbName)).toEqual(GONE);
  expect(await statusOf(service, id)).toBeUndefined();
});

it('a tenant whose claim is only in its database can be suspended and resumed', async () => {
  const service = await startQuietService();
  const id = await makeTenant(service, 'dumped-later');
  const row = await rowOf(service, { id });
  await commentOnBoth(row, null);
  await writeRow(service, id, sql`claim = null, generation = 0`);

  await expectStatus(actOn(service, id, 'suspend'), 200);
  expect(await stateOfDatabase(row.dbName)).toEqual(CLOSED);
  await expectStatus(actOn(service, id, 'resume'), 200);
  expect(await stateOfDatabase(row.dbName)).toEqual(OPEN);
  expect(await signIn(service, 'dumped-later')).toBe(200);
});

it('a tenant whose role the provisioner may not comment on can be suspended and resumed', async () => {
  const service = await startQuietService();
  const id = await makeTenant(service, 'made-by-hand');
  const { dbName, dbUser } = await rowOf(service, { id });
  await asSuperuser('postgres', (db) =>
    sql`revoke admin option for ${sql.id(dbUser)} from ${sql.id(provisioner.user)} cascade`.execute(db),
  );

  await expectStatus(actOn(service, id, 'suspend'), 200);
  expect(await stateOfDatabase(dbName)).toEqual(CLOSED);
  await expectStatus(actOn(service, id, 'resume'), 200);
  expect(await stateOfDatabase(dbName)).toEqual(OPEN);
  expect(await signIn(service, 'made-by-hand')).toBe(200);
});

it('a purge that is refused because the mark is newer than the row names the next step, which works', async () => {
  const service = await startQuietService();
  const id = await makeTenant(service, 'in-the-past');
  const { dbName } = await rowOf(service, { id });
  await expectStatus(actOn(service, id, 'DELETE'), 204);
  await markAgain(service, id, 'deleted', 4);

  const refused = await expectStatus(actOn(service, id, 'purge'), 409);
  expect(refused.body.detail).toMatch(/\bDELETE\b/);
  expect(await stateOfDatabase(dbName)).toEqual(CLOSED);
  await expectStatus(actOn(service, id, 'DELETE'), 204);
  await expectStatus(actOn(service, id, 'purge'), 204);
  expect(await stateOfDatabase(dbName)).toEqual(GONE);
  expect(await statusOf(service, id)).toBeUndefined();
});

it('a purge that keeps the database releases it for another adoption, even if its mark is newer than its row', async () => {
  const service = await startQuietService();
  const id = await makeTenantWithProduct(service, 'in-the-past');
  const { dbName, dbUser } = await rowOf(service, { id });
  await expectStatus(actOn(service, id, 'DELETE'), 204);
  await markAgain(service, id, 'deleted', 4);

  await expectStatus(actOn(service, id, 'purge?database=keep'), 204);
  expect(await stateOfDatabase(dbName)).toEqual(OPEN);
  const owner = connectAs<unknown>(dbName, provisioner);
  const { rows } = await sql`select name from products`.execute(owner.db).finally(() => owner.close(0));
  expect(rows).toEqual([{ name: PRODUCT }]);
  expect(await commentOn(dbName)).toBeNull();
  expect(await roleExists(dbUser)).toBe(false);

  // The service refuses to adopt a database with one of its own names. The first admin is in the database already.
  const database = `legacy_${randomBytes(6).toString('hex')}`;
  await asSuperuser('postgres', (db) =>
    sql`alter database ${sql.id(dbName)} rename to ${sql.id(database)}`.execute(db),
  );
  const { operatorToken: token } = service;
  const clusters = await service.send<PageOf<{ id: string }>>('GET', '/clusters', { token });
  const adopt = { clusterId: clusters.body.data[0]?.id, database };
  const admin = { ...ADMIN, email: 'second-admin@example.com' };
  await expectStatus(make(service, token, 'adopted-again', { adopt, admin }), 201);
});

it('a former build cannot begin to remove a tenant if it has no evidence for the removal', async () => {
  const service = await startQuietService();
  const registry = connectAs<unknown>(service.config.registry.connection.database, registryService);
  onTestFinished(() => registry.close(0));
  // As the purge of a former build does, which does not know on_purge.
  const beginToRemove = (id: string): Promise<unknown> =>
    sql`update tenants set status = 'deleting', deleted_at = null, status_before_deletion = null
      where id = ${id}`.execute(registry.db);

  const claimed = await makeTenant(service, 'claimed');
  await expectStatus(actOn(service, claimed, 'DELETE'), 204);
  await expect(beginToRemove(claimed)).rejects.toThrow();
  expect(await statusOf(service, claimed)).toBe('deleted');

  const former = await makeTenant(service, 'of-a-former-build');
  await expectStatus(actOn(service, former, 'DELETE'), 204);
  await writeRow(service, former, sql`claim = null, generation = 0`);
  await beginToRemove(former);
  expect(await statusOf(service, former)).toBe('deleting');
});

it('a suspend that finds the mark of another tenant is one security event, and also when it is tried again', async () => {
  const service = await startQuietService();
  const id = await makeTenant(service, 'refused-once');
  const row = await rowOf(service, { id });
  await commentOnBoth(row, (await formerMark(service, id)).replace(id, randomUUID()));

  await expectStatus(actOn(service, id, 'suspend'), 409);
  await expectStatus(actOn(service, id, 'suspend'), 409);
  const { rows } = await asSuperuser(service.config.registry.connection.database, (db) =>
    sql<{ state: string }>`select state from operations where tenant_id = ${id} and kind = 'close'`.execute(db),
  );
  expect(rows).toEqual([{ state: 'needs-person' }]);
  const events = service.lines
    .map((line) => JSON.parse(line) as Record<string, unknown>)
    .filter(({ event, tenantId }) => event === 'evidence-refused' && tenantId === id);
  expect(events).toEqual([expect.objectContaining({ name: row.dbName, step: 'evidence' })]);
});
