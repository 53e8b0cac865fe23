// Idempotency-Key on acts of operators, and on changes of a tenant's row by its users. tests/integration/idempotency.test.ts has
// what is special about making a tenant.
import { sql, type Kysely } from 'kysely';
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findOperatorByEmail, insertOperator } from '../../db/registry/operator-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import {
  ADMIN,
  asSuperuser,
  beginSession,
  connectAs,
  createRegistry,
  startService,
  type Answer,
  type Problem,
  type TestService,
} from '../support/app.js';
import { registryActs, adoptableDatabase, newSlug } from '../support/registry-acts.js';
import { startSecondCluster, type SecondCluster } from '../support/second-cluster.js';

let name: string;
let one: TestService;
let other: TestService;
let registry: Kysely<Registry>;
let second: SecondCluster;

beforeAll(async () => {
  [second, name] = await Promise.all([startSecondCluster(), createRegistry()]);
  one = await startService({ registry: name });
  other = await startService({ registry: name, operator: false });
  registry = one.app.engine.registry;
  // A rollout of an answer stays as the answer shows it.
  await Promise.all([one, other].map(({ app }) => app.engine.rolling.close()));
});
afterAll(async () => {
  await Promise.all([one.close(), other.close()]);
  await second.stop();
});

interface Sent {
  readonly url: string;
  readonly body?: object;
  readonly token?: string;
  readonly to?: TestService;
}

type Given = Answer<Problem & { readonly id: string; readonly name: string; readonly detail: string }>;

const send = (method: string, key: string | undefined, { url, body, token, to = one }: Sent): Promise<Given> =>
  to.send(method as 'POST', url, {
    token: token ?? one.operatorToken,
    ...(body && { body }),
    ...(key !== undefined && { headers: { 'idempotency-key': key } }),
  });

/** As if the process had ended after the act was committed, and before the answer was stored. */
async function forgetAnswers(): Promise<void> {
  await sql`update request_answers set status = null, headers = null, body = null`.execute(registry);
}

async function audited(action: string, target: string): Promise<number> {
  const { rows } = await sql`select from audit where action = ${action} and target_id = ${target}`.execute(registry);
  return rows.length;
}

/** Answers that are stored, or will be. */
async function stored(): Promise<number> {
  const { rows } = await sql<{ n: number }>`select count(*)::int as n from request_answers`.execute(registry);
  return rows[0]?.n ?? -1;
}

function expectReplay(again: Given, first: Given): void {
  expect([again.status, again.text]).toEqual([first.status, first.text]);
  for (const header of ['location', 'etag', 'content-type', 'cache-control'])
    expect([header, again.headers[header]]).toEqual([header, first.headers[header]]);
  expect(again.headers['idempotent-replayed']).toBe('true');
}

it('every route that changes the registry: sent twice with one key it has one effect and one answer, on every replica', async () => {
  const acts = registryActs(one, second);
  const writes = one.app.routeTable
    .filter(({ method, access }) => !['GET', 'HEAD'].includes(method) && access.scope !== 'tenant')
    .filter(
      ({ access }) => access.scope === 'operator' || (access.scope === 'platform' && access.permission !== 'self'),
    )
    .map(({ method, url }) => `${method} ${url}`);
  // It only looks at the server.
  expect([...Object.keys(acts), 'POST /clusters/:id/check'].sort()).toEqual(writes.sort());

  for (const [route, { audited: action, prepare }] of Object.entries(acts)) {
    const [method = ''] = route.split(' ');
    const { other: changed, ...act } = await prepare();
    const key = `key of ${route}`.replaceAll(' ', '-');
    const first = await send(method, key, act);
    expect([route, first.status < 300, first.text]).toEqual([route, true, first.text]);
    expect(first.headers).not.toHaveProperty('idempotent-replayed');
    const target = act.target ?? first.body.id;

    expectReplay(await send(method, key, act), first);
    expectReplay(await send(method, key, { ...act, to: other }), first);
    expect(await send(method, key, { ...act, ...changed }), route).toMatchObject({
      status: 422,
      body: { code: 'idempotency-key-reused' },
    });
    await forgetAnswers();
    const rebuilt = await send(method, key, { ...act, to: other });
    // A worker may have taken the operation since.
    if (action === 'operation.retried') expect(rebuilt).toMatchObject({ status: 200, body: { id: target } });
    else expectReplay(rebuilt, first);
    expectReplay(await send(method, key, act), rebuilt);
    expect([route, await audited(action, target)]).toEqual([route, 1]);
  }
}, 120_000);

it('a check of a cluster takes no key: it looks each time', async () => {
  const { body } = await one.send<{ data: { id: string }[] }>('GET', '/clusters', { token: one.operatorToken });
  const url = `/clusters/${body.data[0]?.id ?? ''}/check`;
  const before = await stored();
  for (let count = 0; count < 2; count += 1) {
    const answer = await send('POST', 'check', { url });
    expect(answer.status).toBe(200);
    expect(answer.headers).not.toHaveProperty('idempotent-replayed');
  }
  expect(await stored()).toBe(before);
});

it('routes under /auth take no key, and store nothing', async () => {
  const before = await stored();
  const body = { email: 'operator@example.com', password: 'operator-password-1' };
  const signIn = () => send('POST', 'auth', { url: '/auth/operator/login', body });
  const [first, again] = [await signIn(), await signIn()];
  expect([first.status, again.status], first.text).toEqual([200, 200]);
  expect(again.text).not.toBe(first.text);
  const { accessToken } = first.body as unknown as { accessToken: string };
  const signOut = () => send('POST', 'auth', { url: '/auth/logout', token: accessToken });
  expect([(await signOut()).status, (await signOut()).status]).toEqual([204, 401]);
  expect(await stored()).toBe(before);
});

it('an adoption that is sent twice with one key gets the tenant of the first', async () => {
  const adopt = { clusterId: await one.app.engine.defaultCluster.ensure(), database: await adoptableDatabase(one) };
  const act = { url: '/tenants', body: { name: 'Adopted', slug: newSlug(), admin: ADMIN, adopt } };
  const first = await send('POST', 'adopt', act);
  expect(first.status, first.text).toBe(201);
  expectReplay(await send('POST', 'adopt', { ...act, to: other }), first);
  // Nothing of the answer was stored: the operation has the key.
  await sql`delete from request_answers`.execute(registry);
  expectReplay(await send('POST', 'adopt', { ...act, to: other }), first);
  const changed = { ...act, body: { ...act.body, name: 'Another' } };
  await sql`delete from request_answers`.execute(registry);
  expect(await send('POST', 'adopt', changed)).toMatchObject({ status: 422, body: { code: 'idempotency-key-reused' } });
  expect(await audited('tenant.created', first.body.id)).toBe(1);
});

describe('a user that renames its own tenant', () => {
  it('does so once, and gets the same answer', async () => {
    const { id, adminToken: token } = await one.createTenant();
    const act = { url: `/tenants/${id}`, body: { name: 'Renamed' }, token };
    const first = await send('PATCH', 'rename', act);
    expect(first.status, first.text).toBe(200);
    await send('PATCH', undefined, { ...act, body: { name: 'Renamed again' } });
    expectReplay(await send('PATCH', 'rename', { ...act, to: other }), first);
    await forgetAnswers();
    expect((await send('PATCH', 'rename', act)).body.name).toBe('Renamed again');
    // A key of an operator is another one.
    const byOperator = await send('PATCH', 'rename', { url: act.url, body: act.body });
    expect(byOperator.headers).not.toHaveProperty('idempotent-replayed');
  });

  it('gets 429 after a hundred keys of its tenant, which takes nothing from others', async () => {
    const { id, adminToken: token } = await one.createTenant();
    await sql`insert into request_answers (id, owner, request_hash, claim)
      select sha256(convert_to(i || ${id}, 'UTF8')), ${id}, 'k.h', gen_random_uuid() from generate_series(1, 100) as i`.execute(
      registry,
    );
    const act = { url: `/tenants/${id}`, body: { name: 'Too often' } };
    const refused = await send('PATCH', 'too-often', { ...act, token });
    expect(refused).toMatchObject({ status: 429, body: { code: 'too-many-idempotency-keys' } });
    expect(await audited('tenant.updated', id)).toBe(0);
    expect((await send('PATCH', 'too-often', act)).status).toBe(200);
    expect((await send('PATCH', undefined, { ...act, token })).status).toBe(200);
  });
});

describe('a key', () => {
  it('belongs to the operator, the method and the path', async () => {
    await insertOperator(registry, { email: 'second@example.com', passwordHash: 'not used' });
    const operator = await findOperatorByEmail(registry, 'second@example.com');
    const token = await beginSession(one.app, { kind: 'operator', operatorId: operator?.id ?? '' });
    const [mine, theirs] = [await one.createTenant(), await one.createTenant()];
    const rename = { url: `/tenants/${mine.id}`, body: { name: 'Mine' } };
    const answers = [
      await send('PATCH', 'shared', rename),
      await send('PATCH', 'shared', { ...rename, body: { name: 'Theirs' }, token }),
      await send('PATCH', 'shared', { url: `/tenants/${theirs.id}`, body: { name: 'Third' } }),
      await send('POST', 'shared', { url: `/tenants/${mine.id}/suspend` }),
      await send('POST', 'shared', { url: `/tenants/${mine.id}/resume` }),
      await send('DELETE', 'shared', { url: `/tenants/${mine.id}` }),
    ];
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200, 200, 204]);
    for (const { headers } of answers) expect(headers).not.toHaveProperty('idempotent-replayed');
  });

  it('is looked at after authorization', async () => {
    const { id, adminToken } = await one.createTenant();
    const bad = 'not a key ';
    const suspend = { url: `/tenants/${id}/suspend` };
    expect((await send('POST', bad, { ...suspend, token: adminToken })).status).toBe(403);
    const stale = await beginSession(one.app, await operatorOf('operator@example.com'), 10 * 60_000);
    expect(await send('DELETE', bad, { url: `/tenants/${id}`, token: stale })).toMatchObject({
      status: 403,
      body: { code: 'confirmation-needed' },
    });
    expect(await send('POST', bad, suspend)).toMatchObject({
      status: 400,
      body: { errors: [{ path: '/idempotency-key', message: 'must be 1 to 200 visible ASCII characters' }] },
    });
  });

  it('is free again after an error, at once and on every replica', async () => {
    const [taken, tenant] = [await one.createTenant(), await one.createTenant()];
    const rename = (slug: string, to: TestService) =>
      send('PATCH', 'freed', { url: `/tenants/${tenant.id}`, body: { slug }, to });
    expect((await rename(taken.slug, one)).status).toBe(409);
    expect((await rename(newSlug(), other)).status).toBe(200);
    const missing = { url: `/tenants/${randomUUID()}/suspend` };
    const before = await stored();
    expect((await send('POST', 'freed', missing)).status).toBe(404);
    expect(await stored()).toBe(before);
  });

  it('is free again after 24 hours, and each request with a key removes ten expired answers', async () => {
    const { id } = await one.createTenant();
    const signOut = (key: string) => send('POST', key, { url: `/tenants/${id}/sign-out` });
    await sql`delete from request_answers`.execute(registry);
    for (let count = 0; count < 15; count += 1) await signOut(`old-${count}`);
    await signOut('expires');
    await sql`update request_answers set created_at = now() - interval '25 hours'`.execute(registry);
    const again = await signOut('expires');
    expect(again.status).toBe(204);
    expect(again.headers).not.toHaveProperty('idempotent-replayed');
    expect(await audited('tenant.signed-out', id)).toBe(17);
    // The expired answer of this key, and ten more.
    expect(await stored()).toBe(16 - 1 - 10 + 1);
  });

  it('gets 429 if the operators have too many answers, which are counted and not guessed from their numbers', async () => {
    const { id } = await one.createTenant();
    const signOut = (key: string) => send('POST', key, { url: `/tenants/${id}/sign-out` });
    await sql`delete from request_answers`.execute(registry);
    await signOut('known');
    const fill = (count: number) =>
      sql`insert into request_answers (id, owner, request_hash, claim)
        select sha256(i::text::bytea), (select owner from request_answers limit 1), 'k.h', gen_random_uuid()
        from generate_series(1, ${count}::integer) as i`.execute(registry);
    await fill(99_999);
    expect(await signOut('one-too-many')).toMatchObject({
      status: 429,
      headers: { 'retry-after': '60' },
      body: { code: 'too-many-idempotency-keys' },
    });
    expect(await audited('tenant.signed-out', id)).toBe(1);
    expect((await signOut('known')).headers['idempotent-replayed']).toBe('true');
    expect((await send('POST', undefined, { url: `/tenants/${id}/sign-out` })).status).toBe(204);
    await sql`delete from request_answers where number between (select min(number) + 1 from request_answers)
      and (select max(number) - 1 from request_answers)`.execute(registry);
    expect((await signOut('far-apart')).status).toBe(204);
    await sql`delete from request_answers`.execute(registry);
  });
});

it('twenty requests with one key on two replicas, while the row is locked: one effect, and the others get 409 at once', async () => {
  const { id } = await one.createTenant();
  const holder = connectAs<Registry>(name);
  const answers: Given[] = [];
  let all: Promise<unknown> = Promise.resolve();
  try {
    await holder.db.transaction().execute(async (trx) => {
      await sql`select from tenants where id = ${id} for update`.execute(trx);
      all = Promise.all(
        Array.from({ length: 20 }, async (_, index) => {
          const to = index % 2 === 0 ? one : other;
          answers.push(await send('PATCH', 'twenty', { url: `/tenants/${id}`, body: { name: 'Twenty' }, to }));
        }),
      );
      await expect.poll(() => answers.length, { timeout: 30_000 }).toBe(19);
      for (const answer of answers)
        expect(answer).toMatchObject({
          status: 409,
          headers: { 'retry-after': '1' },
          body: { code: 'idempotency-key-in-use' },
        });
    });
    await all;
  } finally {
    await holder.close(0);
  }
  expect(answers.at(-1)).toMatchObject({ status: 200, body: { name: 'Twenty' } });
  expect(await audited('tenant.updated', id)).toBe(1);
});

it('stores no password and no token', async () => {
  const secrets = { admin: `password-${randomUUID()}`, key: `key-${randomUUID()}` };
  const body = { name: 'Secret', slug: newSlug(), admin: { ...ADMIN, password: secrets.admin } };
  expect((await send('POST', secrets.key, { url: '/tenants', body })).status).toBe(201);
  const register = await send('POST', `${secrets.key}-2`, { url: '/clusters', body: second.body });
  expect(register.status, register.text).toBe(201);
  const { rows: tables } = await asSuperuser(name, (db) =>
    sql<{ name: string }>`select tablename as name from pg_tables where schemaname = 'public'`.execute(db),
  );
  const texts = await asSuperuser(name, (db) =>
    Promise.all(
      tables.map(async (table) => {
        const { rows } = await sql<{ text: string }>`select t::text as text from ${sql.table(table.name)} t`.execute(
          db,
        );
        return rows.map(({ text }) => text).join('\n');
      }),
    ),
  );
  const dump = texts.join('\n');
  expect(dump).toContain(body.slug);
  for (const secret of [secrets.admin, second.body.provisionerPassword, one.operatorToken, ADMIN.password])
    expect(dump).not.toContain(secret);
  // The keys of tenants are in their operations until they expire.
  expect(texts[tables.findIndex((table) => table.name === 'request_answers')]).not.toContain(secrets.key);
});

async function operatorOf(email: string): Promise<{ kind: 'operator'; operatorId: string }> {
  return { kind: 'operator', operatorId: (await findOperatorByEmail(registry, email))?.id ?? '' };
}
