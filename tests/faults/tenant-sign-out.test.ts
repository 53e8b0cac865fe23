// Signing a whole tenant out: which sessions still count, even if the clocks of the registry and the tenant's server are wrong.
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ADMIN, asSuperuser, createRegistry, startService, type TestService, type TestTenant } from '../support/app.js';
import { putBack, takeBackup } from '../support/registry-backup.js';

/** Time (ms) after which every replica knows of a change. */
const PROMISE = 1_000;

interface SignedIn {
  readonly accessToken: string;
  readonly refreshToken: string;
}

let service: TestService;
/** Another process on the same registry. */
let replica: TestService;
let registry: string;
beforeAll(async () => {
  registry = await createRegistry();
  service = await startService({ registry });
  replica = await startService({ registry });
});
afterAll(() => Promise.all([service.close(), replica.close()]));

async function signIn({ slug }: TestTenant): Promise<SignedIn> {
  const answer = await service.send<SignedIn>('POST', '/auth/login', {
    body: { tenant: slug, email: ADMIN.email, password: ADMIN.password },
  });
  expect(answer.status, answer.text).toBe(200);
  return answer.body;
}

async function signOut({ id }: TestTenant, by = service): Promise<void> {
  expect((await by.send('POST', `/tenants/${id}/sign-out`, { token: service.operatorToken })).status).toBe(204);
}

const me = async ({ accessToken }: SignedIn, by: TestService): Promise<number> =>
  (await by.send('GET', '/auth/me', { token: accessToken })).status;

async function expectCounts(session: SignedIn): Promise<void> {
  for (const by of [service, replica]) await expect.poll(() => me(session, by), { timeout: PROMISE }).toBe(200);
  expect((await service.send('POST', '/auth/refresh', { body: { refreshToken: session.refreshToken } })).status).toBe(
    200,
  );
}

async function expectEnded(session: SignedIn): Promise<void> {
  for (const by of [service, replica]) await expect.poll(() => me(session, by), { timeout: PROMISE }).toBe(401);
  const { refreshToken } = session;
  for (const by of [service, replica])
    expect((await by.send('POST', '/auth/refresh', { body: { refreshToken } })).status).toBe(401);
}

async function inDatabaseOf({ id }: TestTenant, ...statements: ReturnType<typeof sql>[]): Promise<void> {
  const name = (await service.app.engine.tenantDirectory.find(id))?.dbName ?? '';
  await asSuperuser(name, async (db) => {
    for (const statement of statements) await statement.execute(db);
  });
}

/** Changes a session's times as if the tenant's server's clock were wrong. @param by an interval, such as `-1 hour` */
async function beganWithWrongClock(tenant: TestTenant, { accessToken }: SignedIn, by: string): Promise<void> {
  const { sessionId } = service.app.tokens.read(accessToken).principal;
  await inDatabaseOf(
    tenant,
    sql`update sessions set created_at = created_at + ${by}::interval where id = ${sessionId}`,
  );
}

/** Turns the session into one of a former build, which knows no generations. */
async function withoutGeneration(tenant: TestTenant, { accessToken }: SignedIn): Promise<void> {
  const { sessionId } = service.app.tokens.read(accessToken).principal;
  await inDatabaseOf(tenant, sql`update sessions set generation = null where id = ${sessionId}`);
}

/** Makes every replica forget the tenant's row, as a second or a restart does. */
const forget = ({ id }: TestTenant): Promise<void> =>
  service.app.engine.events.publish({ kind: 'tenant', tenantId: id });

async function generationOf({ id }: TestTenant): Promise<number> {
  const { rows } = await sql<{ generation: number }>`
    select sessions_generation::float8 as generation from tenants where id = ${id}`.execute(
    service.app.engine.registry,
  );
  return rows[0]?.generation ?? NaN;
}

describe('signing a tenant out', () => {
  it('ends a session even if the clock of the tenant’s server was an hour ahead', async () => {
    const tenant = await service.createTenant();
    const session = await signIn(tenant);
    await beganWithWrongClock(tenant, session, '1 hour');
    await expectCounts(session);
    await signOut(tenant);
    await expectEnded(session);
  });

  it('ends no later session, even if the clock of the tenant’s server is an hour behind', async () => {
    const tenant = await service.createTenant();
    await signOut(tenant);
    const session = await signIn(tenant);
    await beganWithWrongClock(tenant, session, '-1 hour');
    await expectCounts(session);
  });

  it.each([
    ['that replica', () => service],
    ['another replica', () => replica],
  ])('on %s ends the session of a sign-in that is still running', async (_which, by) => {
    const tenant = await service.createTenant();
    await signIn(tenant);
    const name = (await service.app.engine.tenantDirectory.find(tenant.id))?.dbName ?? '';
    const { acting } = await asSuperuser(name, (db) =>
      db.transaction().execute(async (trx) => {
        await sql`lock table users in access exclusive mode`.execute(trx);
        // The sign-in has read the tenant's row, and waits for the user's.
        const acting = signIn(tenant);
        await asSuperuser(name, (watcher) =>
          expect
            .poll(async () => {
              const { rows } = await sql`
                select 1 from pg_stat_activity where datname = ${name} and wait_event_type = 'Lock'`.execute(watcher);
              return rows.length;
            })
            .toBe(1),
        );
        await signOut(tenant, by());
        return { acting };
      }),
    );
    await expectEnded(await acting);
    await expectCounts(await signIn(tenant));
  });

  it('ends every session after the registry was restored to an earlier moment, which itself ends none', async () => {
    const tenant = await service.createTenant();
    const backup = await asSuperuser(registry, takeBackup);
    await signOut(tenant);
    const before = await signIn(tenant);
    const latest = await generationOf(tenant);
    await asSuperuser(registry, (db) => putBack(db, backup));
    await forget(tenant);
    expect(await generationOf(tenant)).toBeLessThan(latest);
    expect(await me(before, service)).toBe(200);
    const after = await signIn(tenant);
    await expectCounts(after);
    await signOut(tenant);
    expect(await generationOf(tenant)).toBeGreaterThan(latest);
    for (const session of [before, after]) await expectEnded(session);
  });

  it('ends every session after the clock of the registry went back', async () => {
    const tenant = await service.createTenant();
    const ahead = Date.now() + 3_600_000;
    await sql`update tenants set sessions_generation = ${ahead}::bigint where id = ${tenant.id}`.execute(
      service.app.engine.registry,
    );
    await forget(tenant);
    const session = await signIn(tenant);
    await expectCounts(session);
    await signOut(tenant);
    expect(await generationOf(tenant)).toBe(ahead + 1);
    await expectEnded(session);
    await expectCounts(await signIn(tenant));
  });

  it('ends sessions that a backup of the tenant’s database brings back', async () => {
    const tenant = await service.createTenant();
    const session = await signIn(tenant);
    await inDatabaseOf(tenant, sql`create table sessions_of_then as table sessions`, sql`delete from sessions`);
    await signOut(tenant);
    await inDatabaseOf(tenant, sql`insert into sessions select * from sessions_of_then`);
    await expectEnded(session);
  });
});

describe('beside a former build,', () => {
  /** The statement of a former build. */
  const signOutByFormer = ({ id }: TestTenant): Promise<unknown> =>
    sql`update tenants set sessions_valid_from = now() where id = ${id}`.execute(service.app.engine.registry);

  it('a sign-out by that build ends the sessions of this build within a second, and no later session', async () => {
    const tenant = await service.createTenant();
    const session = await signIn(tenant);
    await beganWithWrongClock(tenant, session, '1 hour');
    for (const by of [service, replica]) expect(await me(session, by)).toBe(200);
    await signOutByFormer(tenant);
    await expectEnded(session);
    const later = await signIn(tenant);
    await beganWithWrongClock(tenant, later, '-1 hour');
    await expectCounts(later);
  });

  it('a sign-out by this build is also one for that build', async () => {
    const tenant = await service.createTenant();
    await signOut(tenant);
    const row = await service.app.engine.tenantDirectory.find(tenant.id);
    const { sessionId } = service.app.tokens.read((await signIn(tenant)).accessToken).principal;
    expect(row?.sessionsValidFrom).toEqual(expect.any(String));
    await inDatabaseOf(
      tenant,
      sql`select 1 / (created_at >= ${row?.sessionsValidFrom})::integer from sessions
      where id = ${sessionId}`,
    );
  });

  it('a session of that build counts if it began after a sign-out, and not if it began before', async () => {
    const tenant = await service.createTenant();
    const before = await signIn(tenant);
    await withoutGeneration(tenant, before);
    await expectCounts(before);
    // The server's own clock decides: in milliseconds.
    await beganWithWrongClock(tenant, before, '-1 second');
    await signOut(tenant);
    await expectEnded(before);
    const after = await signIn(tenant);
    await withoutGeneration(tenant, after);
    await expectCounts(after);
  });

  it('each sign-out by either build increases the epoch', async () => {
    const tenant = await service.createTenant();
    const epoch = async (): Promise<number> =>
      (
        await service.app.engine.registry
          .selectFrom('tenants')
          .select('epoch')
          .where('id', '=', tenant.id)
          .executeTakeFirst()
      )?.epoch ?? NaN;
    const first = await epoch();
    await signOut(tenant);
    const second = await epoch();
    expect(second).toBeGreaterThan(first);
    await signOutByFormer(tenant);
    expect(await epoch()).toBeGreaterThan(second);
  });
});
