// Standby databases on real servers: they are kept ready, accept no connection before they are claimed, each becomes the database
// of one tenant, and useless ones are dropped.
import { sql, type Kysely } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Registry } from '../../db/registry/registry-schema.js';
import { listStandby, type StandbyRecord } from '../../db/registry/standby-rows.js';
import { findTenant } from '../../db/registry/tenant-queries.js';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { createEnvelope } from '../../src/secrets/envelope.js';
import {
  ADMIN,
  asSuperuser,
  connectAs,
  createRegistry,
  startService,
  type Answer,
  type TestService,
} from '../support/app.js';
import { finishOperations } from '../support/operations.js';
import { eventually } from '../support/service-process.js';

let first: TestService;
let second: TestService;
let registry: Kysely<Registry>;

beforeAll(async () => {
  const name = await createRegistry();
  const env = { RECONCILE_EVERY_MS: '3600000' };
  first = await startService({ registry: name, env });
  second = await startService({ registry: name, env, operator: false });
  registry = first.app.engine.registry;
});
afterAll(async () => {
  await Promise.all([first.close(), second.close()]);
});

let slugs = 0;

function make(service: TestService, slug = `standby-${(slugs += 1)}`): Promise<Answer<{ id: string }>> {
  return service.send('POST', '/tenants', {
    token: first.operatorToken,
    body: { name: 'From standby', slug, admin: ADMIN },
  });
}

/** Keeps exactly this number ready. */
async function keep(count: number): Promise<readonly StandbyRecord[]> {
  await registry.updateTable('clusters').set({ standby_target: count }).execute();
  let all: readonly StandbyRecord[] = [];
  // The other replica may run the job at this moment, with another number.
  await eventually(`${count} are ready`, async () => {
    await first.app.engine.housekeeping.runNow('standby databases');
    // One that the other replica makes or drops at that moment is left to it.
    await finishOperations(first.app.engine);
    all = await listStandby(registry);
    return all.length === count && all.every(({ ready }) => ready);
  });
  // A run that was asked for when one became ready must not see the number that the test sets next.
  for (const { app } of [first, second]) await app.engine.housekeeping.runNow('standby databases');
  return all;
}

/** The server's own view of the database and the role of a name. */
async function onServer(name: string): Promise<{ allowed: boolean; login: boolean } | undefined> {
  const { rows } = await asSuperuser('postgres', (db) =>
    sql<{ allowed: boolean; login: boolean }>`
      select datallowconn as allowed, rolcanlogin as login
      from pg_database full join pg_roles on rolname = datname where ${name} in (datname, rolname)`.execute(db),
  );
  return rows[0];
}

/** The SQLSTATE with which a standby's own role is refused. */
async function entering({ id, dbName, dbUser, dbPassword }: StandbyRecord): Promise<string> {
  const { host, port } = first.config.tenants.provisioner;
  const password = createEnvelope(first.config.encryptionKeys).open(dbPassword, { id, host, port, user: dbUser });
  const handle = connectAs<unknown>(dbName, { user: dbUser, password });
  const outcome = await sql`select 1`.execute(handle.db).then(
    () => 'entered',
    (error: unknown) => (error instanceof DatabaseFault ? error.reason : String(error)),
  );
  await handle.close(0);
  return outcome;
}

it('a standby database refuses even its own role until it is claimed, and is then the tenant’s, with the same id', async () => {
  const [standby] = await keep(1);
  if (!standby) throw new Error('there is no standby database');
  expect(await onServer(standby.dbName)).toEqual({ allowed: false, login: false });
  // 28000: the role may not log in.
  expect(await entering(standby)).toBe('28000');

  const made = await make(first);
  expect(made.status, made.text).toBe(201);
  expect(made.body.id).toBe(standby.id);
  expect(await findTenant(registry, standby.id)).toMatchObject({
    status: 'active',
    dbName: standby.dbName,
    dbPassword: standby.dbPassword,
    schemaVersion: standby.schemaVersion,
  });
  expect(await onServer(standby.dbName)).toEqual({ allowed: true, login: true });
  expect(await entering(standby)).toBe('entered');
  expect(await signIn(made.body.id)).toBe(200);
});

it('a standby database is replaced by a job after a claim', async () => {
  const [before] = await keep(1);
  expect((await make(first)).status).toBe(201);
  await expect
    .poll(async () => (await listStandby(registry, { ready: true })).map(({ id }) => id), { timeout: 30_000 })
    .toEqual([expect.not.stringMatching(before?.id ?? '')]);
});

it('a standby database is created or dropped as soon as an operator asks for another number', async () => {
  await keep(0);
  const { body } = await first.send<{ data: { id: string }[] }>('GET', '/clusters', { token: first.operatorToken });
  for (const standbyTarget of [1, 0]) {
    const answer = await first.send('PATCH', `/clusters/${body.data[0]?.id}`, {
      token: first.operatorToken,
      body: { standbyTarget },
    });
    expect(answer.status, answer.text).toBe(200);
    await expect.poll(async () => (await listStandby(registry)).length, { timeout: 30_000 }).toBe(standbyTarget);
  }
});

it('a standby database is not used if its marker names another tenant', async () => {
  const [standby] = await keep(1);
  if (!standby) throw new Error('there is no standby database');
  const name = sql.id(standby.dbName);
  await asSuperuser('postgres', (db) => sql`alter database ${name} allow_connections true`.execute(db));
  await asSuperuser(standby.dbName, (db) => sql`update tenant_marker set tenant_id = gen_random_uuid()`.execute(db));
  await asSuperuser('postgres', (db) => sql`alter database ${name} allow_connections false`.execute(db));
  const refused = await make(first);
  expect(refused.status, refused.text).toBe(503);
  expect(await onServer(standby.dbName)).toBeUndefined();
});

it('20 simultaneous claims of 5 standby databases on two replicas get a database each', async () => {
  const standbys = await keep(5);
  const answers = await Promise.all(
    Array.from({ length: 20 }, (_, index) => make(index % 2 === 0 ? first : second, `claim-${index}`)),
  );
  expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: 20 }, () => 201));
  const ids = answers.map(({ body }) => body.id);
  expect(new Set(ids).size).toBe(20);
  expect(ids).toEqual(expect.arrayContaining(standbys.map(({ id }) => id)));
  const waiting = (await listStandby(registry)).map(({ id }) => id);
  expect(ids.filter((id) => waiting.includes(id))).toEqual([]);
  const rows = await Promise.all(ids.map((id) => findTenant(registry, id)));
  expect(new Set(rows.map((row) => row?.dbName)).size).toBe(20);
  // A pool serves a database only if its marker names the tenant.
  for (const id of ids) expect(await signIn(id)).toBe(200);
});

it('a standby database that is being claimed is not dropped by the reconciler or for a smaller number', async () => {
  await keep(5);
  await registry.updateTable('clusters').set({ standby_target: 0 }).execute();
  const [answers] = await Promise.all([
    Promise.all(Array.from({ length: 8 }, () => make(second))),
    first.app.engine.housekeeping.runNow('reconciler'),
    first.app.engine.housekeeping.runNow('standby databases').then(() => finishOperations(first.app.engine)),
    second.app.engine.housekeeping.runNow('reconciler').then(() => finishOperations(second.app.engine)),
  ]);
  expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: 8 }, () => 201));
  for (const { body } of answers) expect(await signIn(body.id)).toBe(200);
  await keep(0);
});

describe('a standby database is dropped with its role', () => {
  it.each<[string, () => Promise<unknown>]>([
    [
      'where its cluster takes no more tenants',
      () => registry.updateTable('clusters').set({ accepting: false }).execute(),
    ],
    [
      'where its schema is an older one',
      () => registry.updateTable('standby_databases').set({ schema_version: '0001_identity' }).execute(),
    ],
    [
      'where its password does not open any more',
      () => registry.updateTable('standby_databases').set({ db_password: 'v1.gone.AAAA.AAAA.AAAA' }).execute(),
    ],
    [
      'where it was left half-made',
      async () => {
        await registry.updateTable('standby_databases').set({ ready: false }).execute();
        await finishOperations(first.app.engine);
      },
    ],
  ])('%s', async (_where, spoil) => {
    const [standby] = await keep(1);
    await spoil();
    await eventually('it is dropped', async () => {
      await first.app.engine.housekeeping.runNow('standby databases');
      await finishOperations(first.app.engine);
      return !(await listStandby(registry)).some(({ id }) => id === standby?.id);
    });
    await registry.updateTable('clusters').set({ accepting: true }).execute();
    expect(await onServer(standby?.dbName ?? '')).toBeUndefined();
  });
});

it('a standby database of a newer build is left to that build', async () => {
  const [standby] = await keep(1);
  await registry.updateTable('standby_databases').set({ schema_version: '9999_later' }).execute();
  await first.app.engine.housekeeping.runNow('standby databases');
  await finishOperations(first.app.engine);
  expect((await listStandby(registry)).map(({ id }) => id)).toContain(standby?.id);
  expect(await onServer(standby?.dbName ?? '')).toEqual({ allowed: false, login: false });
  await registry
    .updateTable('standby_databases')
    .set({ schema_version: standby?.schemaVersion ?? '' })
    .execute();
  await keep(0);
});

it('a standby database that was claimed after the registry’s backup goes to no other tenant, and keeps its data', async () => {
  const [standby] = await keep(1);
  if (!standby) throw new Error('there is no standby database');
  await registry.updateTable('clusters').set({ standby_target: 0 }).execute();
  expect((await make(first)).body.id).toBe(standby.id);
  // As it was before the claim.
  await registry.deleteFrom('tenants').where('id', '=', standby.id).execute();
  await registry
    .insertInto('standby_databases')
    .values({
      id: standby.id,
      cluster_id: standby.clusterId,
      db_name: standby.dbName,
      db_user: standby.dbUser,
      db_password: standby.dbPassword,
      schema_version: standby.schemaVersion,
      ready: true,
    })
    .execute();

  const made = await make(first);
  expect(made.status, made.text).toBe(201);
  expect(made.body.id).not.toBe(standby.id);
  await finishOperations(first.app.engine);
  expect(await onServer(standby.dbName)).toEqual({ allowed: true, login: true });
  expect(await listStandby(registry)).toEqual([]);
});

it('a standby database of an older build is kept while a replica of that build lives', async () => {
  const [standby] = await keep(1);
  const older = '0001_identity';
  await registry.updateTable('standby_databases').set({ schema_version: older }).execute();
  const ids = async (): Promise<string[]> => (await listStandby(registry)).map(({ id }) => id);
  const beat = (schema: string | null) =>
    sql`insert into replicas (id, version, node, host, started_at, seen_at, slots_used, schema_version)
      values ('older', '0', '0', 'older', now(), now(), '{}', ${schema})
      on conflict (id) do update set seen_at = now(), schema_version = excluded.schema_version`.execute(registry);
  // A build of before says nothing of its schema.
  for (const schema of [null, older]) {
    await beat(schema);
    await first.app.engine.housekeeping.runNow('standby databases');
    await finishOperations(first.app.engine);
    expect(await ids()).toContain(standby?.id);
    expect(await onServer(standby?.dbName ?? '')).toEqual({ allowed: false, login: false });
  }
  await sql`update replicas set seen_at = now() - interval '1 minute' where id = 'older'`.execute(registry);
  await eventually('it is dropped', async () => {
    await first.app.engine.housekeeping.runNow('standby databases');
    await finishOperations(first.app.engine);
    return !(await ids()).includes(standby?.id ?? '');
  });
  expect(await onServer(standby?.dbName ?? '')).toBeUndefined();
  await sql`delete from replicas where id = 'older'`.execute(registry);
  await keep(0);
});

it('no more standby databases are begun than are missing, by two replicas at once', async () => {
  await keep(0);
  await registry.updateTable('clusters').set({ standby_target: 3 }).execute();
  const { signal } = new AbortController();
  await Promise.all([first, second, first, second].map(({ app }) => app.engine.standby.refill(signal)));
  expect((await listStandby(registry)).length).toBe(3);
  await eventually('they are ready', async () => {
    await finishOperations(first.app.engine);
    return (await listStandby(registry, { ready: true })).length === 3;
  });
  await keep(0);
});

async function signIn(tenant: string): Promise<number> {
  const { email, password } = ADMIN;
  return (await second.send('POST', '/auth/login', { body: { tenant, email, password } })).status;
}
