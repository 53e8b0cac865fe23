// Tenants: created and removed completely, changed at once, and hidden from other tenants.
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  ADMIN,
  type Answer,
  type PageOf,
  type Problem,
  type Send,
  type TestService,
  type TestTenant,
  asSuperuser,
  startService,
} from '../support/app.js';
import { pagesOf } from '../support/pages.js';

const UNKNOWN_ID = '01900000-0000-7000-8000-00000000ffff';
const DEFAULT_POOL = { max: 5, acquireTimeout: 5_000, timeout: 15_000, idleTimeoutMillis: 30_000 };
const JSON_TYPE = { 'content-type': 'application/json' };

interface Tenant {
  id: string;
  name: string;
  slug: string;
  clusterId: string;
  status: string;
  active: boolean;
  poolOptions: Record<string, number>;
  schemaVersion: string;
  createdAt: string;
  updatedAt: string;
}

type Page = PageOf<Tenant>;

let service: TestService;
let send: Send;
let token: string;
let acme: TestTenant;
/** All answers of this file: the last test searches them for secrets. */
const answers: string[] = [];

beforeAll(async () => {
  service = await startService();
  send = async (...request) => {
    const answer = await service.send<never>(...request);
    answers.push(answer.text, JSON.stringify(answer.headers));
    return answer;
  };
  token = service.operatorToken;
  acme = await service.createTenant('acme');
});
afterAll(() => service.close());

function post(body: object): Promise<Answer<Tenant & Problem>> {
  return send<Tenant & Problem>('POST', '/tenants', { token, body: { name: 'Some name', admin: ADMIN, ...body } });
}

function patch(id: string, body: object, as = token): Promise<Answer<Tenant & Problem>> {
  return send<Tenant & Problem>('PATCH', `/tenants/${id}`, { token: as, body });
}

function signIn(tenant: string): Promise<Answer<{ accessToken: string }>> {
  return send('POST', '/auth/login', { body: { tenant, email: ADMIN.email, password: ADMIN.password } });
}

function rowOf(id: string): Promise<{ db_name: string; db_user: string; db_password: string } | undefined> {
  return service.app.engine.registry
    .selectFrom('tenants')
    .select(['db_name', 'db_user', 'db_password'])
    .where('id', '=', id)
    .executeTakeFirst();
}

/** Whether PostgreSQL has a database and a role with that name. */
async function exists(name: string): Promise<[database: boolean, role: boolean]> {
  return asSuperuser('postgres', async (db) => {
    const { rows } = await sql<{ database: boolean; role: boolean }>`
      select exists (select from pg_database where datname = ${name}) as database,
        exists (select from pg_roles where rolname = ${name}) as role`.execute(db);
    const [row] = rows;
    return [row?.database ?? false, row?.role ?? false];
  });
}

/** A setting on the tenant's own connections. */
async function setting(id: string, name: string): Promise<string> {
  const record = await service.app.engine.tenantDirectory.find(id);
  if (!record) throw new Error('the tenant is gone');
  const db = service.app.engine.tenantPools.database(record.id);
  const { rows } = await sql<{ value: string }>`select current_setting(${name}) as value`.execute(db);
  return rows[0]?.value ?? '';
}

describe('creating a tenant', () => {
  it('answers 201 with the tenant and its address, and its admin can sign in', async () => {
    const answer = await post({ name: 'Blue Ltd', slug: 'blue' });
    expect(answer.status).toBe(201);
    expect(answer.headers.location).toBe(`/tenants/${answer.body.id}`);
    expect(answer.body).toEqual({
      id: expect.stringMatching(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-/) as string,
      name: 'Blue Ltd',
      slug: 'blue',
      clusterId: expect.stringMatching(/^[0-9a-f-]{36}$/) as string,
      status: 'active',
      active: true,
      poolOptions: DEFAULT_POOL,
      limits: {
        requestsPerSecond: null,
        connections: null,
        statementTimeout: null,
        users: null,
        products: null,
        storageBytes: null,
      },
      readCache: true,
      schemaVersion: expect.stringMatching(/^\d{4}/) as string,
      deletedAt: null,
      purgeAfter: null,
      createdAt: expect.stringMatching(/Z$/) as string,
      updatedAt: expect.stringMatching(/Z$/) as string,
    });
    const stored = await send<Tenant>('GET', String(answer.headers.location), { token });
    expect(stored.body).toEqual(answer.body);

    const admin = await signIn('blue');
    expect(admin.status).toBe(200);
    const product = { name: 'First', price: '1' };
    expect((await send('POST', '/products', { token: admin.body.accessToken, body: product })).status).toBe(201);
    expect((await send<Page>('GET', '/products', { token: acme.adminToken })).body.data).toEqual([]);
  });

  it('derives the slug from the name', async () => {
    expect((await post({ name: '  Çafé Zürich & Söhne ' })).body.slug).toBe('cafe-zurich-sohne');
    const taken = await post({ name: 'Cafe, Zurich -- Sohne!' });
    expect([taken.status, taken.body.code]).toEqual([409, 'slug-taken']);
    for (const name of ['日本', '01900000-0000-7000-8000-000000000001']) {
      const impossible = await post({ name });
      expect(impossible.status).toBe(400);
      expect(impossible.body.errors.map(({ path }) => path)).toEqual(['/slug']);
    }
  });

  it('refuses a slug that is taken', async () => {
    const answer = await post({ slug: 'acme' });
    expect([answer.status, answer.body.code]).toEqual([409, 'slug-taken']);
  });

  it('succeeds for one of two simultaneous requests with the same slug', async () => {
    const both = await Promise.all([post({ slug: 'contested' }), post({ slug: 'contested' })]);
    expect(both.map(({ status }) => status).sort()).toEqual([201, 409]);
    expect(both.find(({ status }) => status === 409)?.body.code).toBe('slug-taken');
    expect((await signIn('contested')).status).toBe(200);
  });

  it('works for 8 at once', async () => {
    const slugs = Array.from({ length: 8 }, (_, index) => `parallel-${index}`);
    const made = await Promise.all(slugs.map((slug) => post({ slug })));
    expect(made.map(({ status }) => status)).toEqual(slugs.map(() => 201));
    const signedIn = await Promise.all(slugs.map((slug) => signIn(slug)));
    expect(signedIn.map(({ status }) => status)).toEqual(slugs.map(() => 200));
    // Separate users: each list has only the tenant's own admin.
    const users = await Promise.all(
      signedIn.map(({ body }) => send<{ data: { id: string }[] }>('GET', '/users', { token: body.accessToken })),
    );
    expect(new Set(users.flatMap(({ body }) => body.data.map(({ id }) => id))).size).toBe(8);
  });

  it.each<[string, object, string]>([
    ['an upper-case slug', { slug: 'Acme' }, '/slug'],
    ['a slug with an underscore', { slug: 'a_b' }, '/slug'],
    ['a slug with two dashes', { slug: 'a--b' }, '/slug'],
    ['a slug that ends with a dash', { slug: 'a-' }, '/slug'],
    ['an empty slug', { slug: '' }, '/slug'],
    ['a slug of 64 characters', { slug: 'x'.repeat(64) }, '/slug'],
    ['a slug with a line break', { slug: 'abc\n' }, '/slug'],
    ['a slug that looks like an id', { slug: '01900000-0000-7000-8000-000000000001' }, '/slug'],
    ['an empty name', { name: '' }, '/name'],
    ['NUL in the name', { name: 'a\0b' }, '/name'],
    ['a lone surrogate in the name', { name: '\ud800' }, '/name'],
    ['no admin', { admin: undefined }, '/admin'],
    ['a weak password', { admin: { ...ADMIN, password: 'short' } }, '/admin/password'],
    ['no address', { admin: { ...ADMIN, email: 'x' } }, '/admin/email'],
    ['roles of the admin', { admin: { ...ADMIN, roles: [] } }, '/admin/roles'],
    ['a host', { dbHost: '10.0.0.1' }, '/dbHost'],
    ['a database name', { db_name: 'postgres' }, '/db_name'],
    ['an id', { id: UNKNOWN_ID }, '/id'],
    ['a status', { status: 'active' }, '/status'],
    ['poolOptions that are no object', { poolOptions: 5 }, '/poolOptions'],
    ['poolOptions that are null', { poolOptions: null }, '/poolOptions'],
  ])('refuses %s and names its path', async (_, wrong, path) => {
    const answer = await post({ slug: 'refused', ...wrong });
    expect([answer.status, answer.body.code]).toEqual([400, 'invalid-request']);
    expect(answer.body.errors.map((error) => error.path)).toEqual([path]);
  });
});

describe('poolOptions', () => {
  const refused: [string, string][] = [
    ['{"max":0}', 'max'],
    ['{"max":101}', 'max'],
    ['{"max":-1}', 'max'],
    ['{"max":1e9}', 'max'],
    ['{"max":1.5}', 'max'],
    ['{"max":"NaN"}', 'max'],
    ['{"max":"5"}', 'max'],
    ['{"max":1e400}', 'max'],
    ['{"acquireTimeout":0}', 'acquireTimeout'],
    ['{"acquireTimeout":60001}', 'acquireTimeout'],
    ['{"timeout":99}', 'timeout'],
    ['{"timeout":0}', 'timeout'],
    ['{"timeout":600001}', 'timeout'],
    ['{"idleTimeoutMillis":0}', 'idleTimeoutMillis'],
    ['{"idleTimeoutMillis":3600001}', 'idleTimeoutMillis'],
    ['{"connectionString":"postgres://evil.example.com/x"}', 'connectionString'],
    ['{"options":"-c statement_timeout=0"}', 'options'],
    ['{"ssl":false}', 'ssl'],
    ['{"host":"127.0.0.1"}', 'host'],
    ['{"max":0,"timeout":1,"ssl":true,"options":""}', 'max options ssl timeout'],
  ];

  it.each(refused)('%s gets 422 on creation and on change, naming %s', async (poolOptions, keys) => {
    const body = `{"name":"x","slug":"refused","admin":${JSON.stringify(ADMIN)},"poolOptions":${poolOptions}}`;
    for (const answer of [
      await send<Problem>('POST', '/tenants', { token, headers: JSON_TYPE, body }),
      await send<Problem>('PATCH', `/tenants/${acme.id}`, {
        token,
        headers: JSON_TYPE,
        body: `{"poolOptions":${poolOptions}}`,
      }),
    ]) {
      expect([answer.status, answer.body.code]).toEqual([422, 'invalid-pool-options']);
      expect(answer.body.errors.map(({ path }) => path).sort()).toEqual(
        keys.split(' ').map((key) => `/poolOptions/${key}`),
      );
    }
    expect((await send<Tenant>('GET', `/tenants/${acme.id}`, { token })).body.poolOptions).toEqual(DEFAULT_POOL);
  });

  it('with the key __proto__ are refused', async () => {
    const answer = await send('PATCH', `/tenants/${acme.id}`, {
      token,
      headers: JSON_TYPE,
      body: '{"poolOptions":{"__proto__":{"max":1}}}',
    });
    expect([answer.status, answer.body['code']]).toEqual([400, 'invalid-request']);
  });

  it('apply from the first request on, and changes at once', async () => {
    const { body } = await post({ slug: 'tuned', poolOptions: { timeout: 1_234, max: 2 } });
    expect(body.poolOptions).toEqual({ ...DEFAULT_POOL, timeout: 1_234, max: 2 });
    expect(await setting(body.id, 'statement_timeout')).toBe('1234ms');
    const changed = await patch(body.id, { poolOptions: { timeout: 4_321 } });
    expect(changed.body.poolOptions).toEqual({ ...DEFAULT_POOL, timeout: 4_321, max: 2 });
    expect(await setting(body.id, 'statement_timeout')).toBe('4321ms');
    const reset = await patch(body.id, { poolOptions: { timeout: null, idleTimeoutMillis: 500 } });
    expect(reset.body.poolOptions).toEqual({ ...DEFAULT_POOL, max: 2, idleTimeoutMillis: 500 });
    expect(await setting(body.id, 'statement_timeout')).toBe('15s');
    expect((await send<Tenant>('GET', `/tenants/${body.id}`, { token })).body).toEqual(reset.body);
  });

  it('that change under load fail no request', async () => {
    const busy = await service.createTenant('busy');
    const requests: Promise<Answer>[] = [];
    for (let round = 0; round < 10; round += 1) {
      for (let count = 0; count < 10; count += 1) requests.push(send('GET', '/products', { token: busy.adminToken }));
      requests.push(patch(busy.id, { poolOptions: { max: 2 + round } }) as unknown as Promise<Answer>);
      await Promise.race(requests.slice(-5));
    }
    const statuses = (await Promise.all(requests)).map(({ status }) => status);
    expect(statuses.filter((status) => status !== 200)).toEqual([]);
  });
});

describe('listing tenants', () => {
  beforeAll(async () => {
    // Only rows: listing uses nothing else.
    const { registry } = service.app.engine;
    const { db_password } = (await rowOf(acme.id)) ?? { db_password: '' };
    for (let index = 0; index < 25; index += 1) {
      await registry
        .insertInto('tenants')
        .values({
          id: `01900000-0000-7000-8000-0000000000${String(index).padStart(2, '0')}`,
          name: index === 0 ? '100% Name' : index === 1 ? 'a\\b' : `listed ${index % 4}`,
          slug: `listed-${index}`,
          status: index % 5 === 0 ? 'suspended' : 'active',
          db_host: 'db.example.com',
          db_port: 5432,
          db_name: `listed_${index}`,
          db_user: `listed_${index}`,
          db_password,
          pool_options: '{}',
          schema_version: '0001',
          created_at: `2020-01-0${1 + (index % 3)}T00:00:00.000Z`,
        })
        .execute();
    }
  });

  const walk = async (query: string, limit: number): Promise<Tenant[]> =>
    (await pagesOf<Tenant>(send, `/tenants?limit=${limit}&${query}`, token)).flat();

  it.each(['createdAt', '-createdAt', 'name', '-name', 'slug', '-slug'])(
    'sorted by %s has each row once over all its pages',
    async (sort) => {
      const all = await walk(`sort=${sort}`, 100);
      const paged = await walk(`sort=${sort}`, 4);
      expect(paged).toEqual(all);
      expect(new Set(paged.map(({ id }) => id)).size).toBe(all.length);
      expect(all.length).toBeGreaterThanOrEqual(26);
      if (!sort.endsWith('createdAt')) return;
      const times = all.map(({ createdAt, id }) => createdAt + id);
      expect(times).toEqual(sort.startsWith('-') ? times.toSorted().toReversed() : times.toSorted());
    },
  );

  it('filters by status, and searches name and slug literally', async () => {
    expect(await walk('search=LISTED-', 10)).toHaveLength(25);
    expect(await walk('search=LISTED-&status=suspended', 2)).toHaveLength(5);
    expect(await walk('search=listed-&status=active', 7)).toHaveLength(20);
    expect((await walk('search=%25', 10)).map(({ slug }) => slug)).toEqual(['listed-0']);
    expect((await walk('search=%5C', 10)).map(({ slug }) => slug)).toEqual(['listed-1']);
    expect(await walk('search=_', 10)).toEqual([]);
    const statuses = (await walk('status=suspended', 100)).map(({ status, active }) => [status, active]);
    expect(new Set(statuses.map(String))).toEqual(new Set(['suspended,false']));
  });

  it.each(['limit=0', 'limit=101', 'sort=dbHost', 'status=gone', 'status=active&status=active', 'search=', 'slug=x'])(
    'refuses ?%s',
    async (query) => {
      const answer = await send<Problem>('GET', `/tenants?${query}`, { token });
      expect([answer.status, answer.body.code]).toEqual([400, 'invalid-request']);
    },
  );

  it('refuses cursors of another sort or filter', async () => {
    const { nextCursor } = (await send<Page>('GET', '/tenants?limit=3', { token })).body;
    for (const query of ['sort=name', 'status=active', 'search=listed']) {
      const answer = await send<Problem>('GET', `/tenants?${query}&cursor=${nextCursor ?? ''}`, { token });
      expect([query, answer.status, answer.body.code]).toEqual([query, 400, 'invalid-cursor']);
    }
  });
});

describe('changing a tenant', () => {
  it('changes the given fields only', async () => {
    const { body: before } = await post({ slug: 'before', name: 'Before', poolOptions: { max: 3 } });
    const renamed = await patch(before.id, { name: 'After' });
    expect(renamed.status).toBe(200);
    expect(renamed.body).toEqual({ ...before, name: 'After', updatedAt: renamed.body.updatedAt });
    const moved = await patch(before.id, { slug: 'after' });
    expect(moved.body).toEqual({ ...renamed.body, slug: 'after', updatedAt: moved.body.updatedAt });
    expect((await send<Tenant>('GET', `/tenants/${before.id}`, { token })).body).toEqual(moved.body);
    expect((await signIn('after')).status).toBe(200);
    expect((await signIn('before')).status).toBe(401);
    // The old slug is free again.
    expect((await post({ slug: 'before' })).status).toBe(201);
  });

  it('gives a slug to another tenant within a second, even by hand in SQL and if it was cached', async () => {
    const [one, other] = [await service.createTenant('swapped-one'), await service.createTenant('swapped-other')];
    const whose = async (slug: string): Promise<unknown> => {
      const { body } = await signIn(slug);
      return (body as { user?: { id: string } }).user?.id;
    };
    for (let time = 0; time < 2; time += 1) expect(await whose('swapped-one')).toBe(one.adminId);
    const { registry } = service.app.engine;
    const slugs = { 'swapped-past': one.id, 'swapped-one': other.id };
    for (const [slug, id] of Object.entries(slugs))
      await registry.updateTable('tenants').set({ slug }).where('id', '=', id).execute();
    await expect.poll(() => whose('swapped-one'), { timeout: 1_000 }).toBe(other.adminId);
    expect(await whose('swapped-past')).toBe(one.adminId);
  });

  it('suspends and resumes', async () => {
    const tenant = await service.createTenant('paused');
    const products = async (): Promise<number> => (await send('GET', '/products', { token: tenant.adminToken })).status;
    expect(await products()).toBe(200);
    const suspended = await patch(tenant.id, { active: false });
    expect(suspended.body).toMatchObject({ active: false, status: 'suspended' });
    expect(await products()).toBe(403);
    expect((await signIn('paused')).status).toBe(401);
    expect((await send<Tenant>('GET', `/tenants/${tenant.id}`, { token })).body.active).toBe(false);
    expect((await patch(tenant.id, { active: true })).body).toMatchObject({ active: true, status: 'active' });
    expect(await products()).toBe(200);
    expect((await signIn('paused')).status).toBe(200);
  });

  it('refuses a slug that is taken', async () => {
    const { body } = await post({ slug: 'jealous' });
    const answer = await patch(body.id, { slug: 'acme' });
    expect([answer.status, answer.body.code]).toEqual([409, 'slug-taken']);
  });

  it.each<[string, object, string]>([
    ['nothing', {}, ''],
    ['a bad slug', { slug: 'No' }, '/slug'],
    ['null', { name: null }, '/name'],
    ['a host', { name: 'x', dbHost: '127.0.0.1' }, '/dbHost'],
    ['a password', { name: 'x', dbPassword: 'x' }, '/dbPassword'],
    ['a status', { name: 'x', status: 'deleting' }, '/status'],
    ['active as text', { active: 'false' }, '/active'],
    ['poolOptions that are null', { poolOptions: null }, '/poolOptions'],
  ])('refuses %s', async (_, body, path) => {
    const answer = await patch(acme.id, body);
    expect([answer.status, answer.body.code]).toEqual([400, 'invalid-request']);
    expect(answer.body.errors.map((error) => error.path)).toEqual([path]);
  });

  it('answers 404 for an unknown id and 400 for an invalid id', async () => {
    expect((await patch(UNKNOWN_ID, { name: 'x' })).status).toBe(404);
    expect((await send('GET', `/tenants/${UNKNOWN_ID}`, { token })).status).toBe(404);
    expect((await send('DELETE', `/tenants/${UNKNOWN_ID}`, { token })).status).toBe(404);
    for (const id of [acme.id.toUpperCase(), `%7B${acme.id}%7D`, acme.slug]) {
      expect((await patch(id, { name: 'x' })).status).toBe(400);
      expect((await send('GET', `/tenants/${id}`, { token })).status).toBe(400);
      expect((await send('DELETE', `/tenants/${id}`, { token })).status).toBe(400);
    }
  });
});

describe('a tenant’s own admin', () => {
  it('reads and renames its tenant', async () => {
    const own = await service.createTenant('own');
    const read = await send<Tenant>('GET', `/tenants/${own.id}`, { token: own.adminToken });
    expect([read.status, read.body.slug]).toEqual([200, 'own']);
    const renamed = await patch(own.id, { name: 'Renamed by its admin' }, own.adminToken);
    expect([renamed.status, renamed.body.name]).toEqual([200, 'Renamed by its admin']);
    expect((await send<Tenant>('GET', `/tenants/${own.id}`, { token })).body.name).toBe('Renamed by its admin');
  });

  it.each([
    { slug: 'stolen' },
    { active: false },
    { active: true },
    { poolOptions: { max: 100 } },
    { name: 'x', slug: 'y' },
  ])('does not change %j', async (body) => {
    const before = (await send<Tenant>('GET', `/tenants/${acme.id}`, { token })).body;
    const answer = await patch(acme.id, body, acme.adminToken);
    expect([answer.status, answer.body.code]).toEqual([403, 'forbidden']);
    expect((await send<Tenant>('GET', `/tenants/${acme.id}`, { token })).body).toEqual(before);
  });

  it('gets the same answer for another tenant as for an unknown one', async () => {
    const { body: other } = await post({ slug: 'invisible' });
    const as = acme.adminToken;
    for (const body of [{ name: 'Taken over' }, { slug: 'taken-over' }, { active: false }]) {
      const [there, nowhere] = [await patch(other.id, body, as), await patch(UNKNOWN_ID, body, as)];
      expect([there.status, nowhere.status]).toEqual([404, 404]);
      expect({ ...there.body, requestId: '' }).toEqual({ ...nowhere.body, requestId: '' });
    }
    expect((await send('GET', `/tenants/${other.id}`, { token: as })).status).toBe(404);
    expect((await send<Tenant>('GET', `/tenants/${other.id}`, { token })).body).toEqual(other);
  });

  it('cannot list, create or remove tenants', async () => {
    const as = acme.adminToken;
    for (const [method, url, body] of [
      ['GET', '/tenants', undefined],
      ['POST', '/tenants', { name: 'x', admin: ADMIN }],
      ['DELETE', `/tenants/${acme.id}`, undefined],
      ['DELETE', `/tenants/${UNKNOWN_ID}`, undefined],
    ] as const) {
      const answer = await send(method, url, { token: as, body });
      expect([method, answer.status, answer.body['code']]).toEqual([method, 403, 'forbidden']);
    }
  });

  it('may do more than a member, who gets 403', async () => {
    const member = await service.createUser(acme, 'member@example.com');
    for (const id of [acme.id, UNKNOWN_ID]) {
      expect((await send('GET', `/tenants/${id}`, { token: member.token })).status).toBe(403);
      expect((await patch(id, { name: 'x' }, member.token)).status).toBe(403);
    }
  });
});

describe('removing a tenant', () => {
  it('keeps everything until the purge, which removes the database, the role and the row, and frees the slug', async () => {
    const tenant = await service.createTenant('removed');
    const row = await rowOf(tenant.id);
    const name = row?.db_name ?? '';
    expect(row?.db_user).toBe(name);
    expect(await exists(name)).toEqual([true, true]);

    const deleted = await send('DELETE', `/tenants/${tenant.id}`, { token });
    expect([deleted.status, deleted.text]).toEqual([204, '']);
    expect(await exists(name)).toEqual([true, true]);
    const stored = await send<Tenant>('GET', `/tenants/${tenant.id}`, { token });
    expect(stored.body).toMatchObject({ status: 'deleted', active: false });
    const listed = await send<Page>('GET', '/tenants?status=deleted', { token });
    expect(listed.body.data.map(({ id }) => id)).toContain(tenant.id);
    expect((await patch(tenant.id, { name: 'x' })).body.code).toBe('tenant-state');
    expect((await post({ slug: 'removed' })).body.code).toBe('slug-taken');
    expect((await signIn('removed')).status).toBe(401);

    const gone = await send('POST', `/tenants/${tenant.id}/purge`, { token });
    expect([gone.status, gone.text]).toEqual([204, '']);
    expect(await exists(name)).toEqual([false, false]);
    expect(await rowOf(tenant.id)).toBeUndefined();
    expect((await send('GET', `/tenants/${tenant.id}`, { token })).status).toBe(404);
    expect((await send('DELETE', `/tenants/${tenant.id}`, { token })).status).toBe(404);
    expect((await send('POST', `/tenants/${tenant.id}/purge`, { token })).status).toBe(404);
    expect((await patch(tenant.id, { name: 'x' })).status).toBe(404);
    expect((await signIn('removed')).status).toBe(401);

    const again = await post({ slug: 'removed' });
    expect(again.status).toBe(201);
    expect(again.body.id).not.toBe(tenant.id);
    expect((await send('GET', '/products', { token: tenant.adminToken })).status).toBe(403);
    expect((await signIn('removed')).status).toBe(200);
  });

  it('works for a suspended tenant, and for two simultaneous requests', async () => {
    const { body } = await post({ slug: 'twice' });
    await patch(body.id, { active: false });
    const twice = (method: 'DELETE' | 'POST', url: string): Promise<Answer[]> =>
      Promise.all([send(method, url, { token }), send(method, url, { token })]);
    const deleted = await twice('DELETE', `/tenants/${body.id}`);
    expect(deleted.map(({ status }) => status)).toEqual([204, 204]);
    const purged = await twice('POST', `/tenants/${body.id}/purge`);
    for (const { status } of purged) expect([204, 404]).toContain(status);
    expect(purged.map(({ status }) => status)).toContain(204);
    expect((await send('GET', `/tenants/${body.id}`, { token })).status).toBe(404);
  });
});

describe('answers about tenants', () => {
  it('contain no database password, role, name or host', async () => {
    const rows = await service.app.engine.registry
      .selectFrom('tenants')
      .select(['db_name', 'db_user', 'db_password'])
      .execute();
    const all = answers.join('\n');
    expect(answers.length).toBeGreaterThan(100);
    for (const { db_name, db_user, db_password } of rows) {
      expect(all).not.toContain(db_password);
      expect(all).not.toContain(db_name);
      expect(all).not.toContain(db_user);
    }
    // Except if the request named one.
    expect(all.replaceAll(/"path":"\/(?:dbPassword|db_name|dbHost)"/g, '')).not.toMatch(
      /db_?(?:password|user|name|host|port)/i,
    );
    expect(all).not.toContain(service.config.tenants.provisioner.password);
    expect(all).not.toContain(ADMIN.password);
  });
});
