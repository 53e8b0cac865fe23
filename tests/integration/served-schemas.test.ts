// Which schemas of tenants' databases this build serves, and what the requests of the other tenants get.
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Migration, Migrations } from '../../db/shared/migration-types.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { SERVED_SCHEMAS } from '../../db/tenant/served-schemas.js';
import { ADMIN, asSuperuser, startService, type Answer, type TestService, type TestTenant } from '../support/app.js';
import { migrateTenant, migrationsUpTo, rebuildDatabase } from '../support/tenant-schemas.js';
import { walkTenant } from '../support/tenant-walk.js';
import { rowOf } from '../support/tenants.js';

/** Everything logged so far. */
const written: string[] = [];
const logStream = {
  write(text: string): void {
    written.push(text);
  },
};

let service: TestService;
let neighbour: TestTenant;
let tenant: TestTenant;
beforeAll(async () => {
  service = await startService({ env: { LOG_LEVEL: 'info' }, overrides: { logStream } });
  neighbour = await service.createTenant();
});
afterAll(() => service.close());
beforeEach(async () => {
  tenant = await service.createTenant();
});

const list = (of: TestTenant): Promise<Answer> => service.send('GET', '/products', { token: of.adminToken });

function signIn<T = Record<string, unknown>>(): Promise<Answer<T>> {
  return service.send<T>('POST', '/auth/login', {
    body: { tenant: tenant.slug, email: ADMIN.email, password: ADMIN.password },
  });
}

/** What the log says about the tenant's schema. */
function saidOf({ id }: TestTenant): { msg: string; level: string; [field: string]: unknown }[] {
  return written
    .map((line) => JSON.parse(line) as { msg: string; level: string; tenantId?: string })
    .filter(({ tenantId, msg }) => tenantId === id && msg.startsWith('a tenant is '));
}

async function shownOf({ id }: TestTenant): Promise<unknown> {
  const { body } = await service.send<{ pool: object }>('GET', `/tenants/${id}/pool`, { token: service.operatorToken });
  return body.pool;
}

/** How many sessions the tenant's database has had. */
async function sessionsEver(of: TestTenant): Promise<number> {
  const { dbName } = await rowOf(service, of);
  return asSuperuser('postgres', async (db) => {
    const { rows } = await sql<{ sessions: number }>`
      select sessions::int from pg_stat_database where datname = ${dbName}`.execute(db);
    return rows[0]?.sessions ?? 0;
  });
}

function expectUpgrading(answer: Answer): void {
  expect(answer).toMatchObject({ status: 503, body: { code: 'tenant-upgrading' } });
  expect(answer.headers['retry-after']).toBe('5');
}

/** The next build: a tenant's migrations of this build, and another one. */
function nextBuild(more: Partial<Migration> = {}): Migrations {
  return {
    ...tenantMigrations,
    '9999_next': {
      up: async (db) => {
        await sql`alter table products add weight integer`.execute(db);
      },
      ...more,
    },
  };
}

describe('a tenant at the oldest schema that this build serves', () => {
  it('can use every route', async () => {
    await rebuildDatabase(service, tenant, migrationsUpTo(SERVED_SCHEMAS.oldest));
    await service.app.engine.tenantPools.retire(tenant.id);
    const used = await walkTenant(service.send, tenant, service.app.routeTable);
    const forUsers = service.app.routeTable
      .filter(({ access, url }) => ['tenant', 'platform'].includes(access.scope) || url === '/auth/login')
      .map(({ method, url }) => `${method} ${url}`);
    expect(used.filter((name) => name !== 'POST /auth/refresh')).toEqual(forUsers.sort());
    expect(await shownOf(tenant)).toMatchObject({ schemaVersion: SERVED_SCHEMAS.oldest });
    expect(saidOf(tenant)).toEqual([]);
  });

  it('keeps being served while it is migrated', async () => {
    await rebuildDatabase(service, tenant, migrationsUpTo(SERVED_SCHEMAS.oldest));
    await service.app.engine.tenantPools.retire(tenant.id);
    const { body } = await signIn<{ accessToken: string }>();
    let migrated = false;
    const statuses = new Set<number>();
    const asking = Array.from({ length: 4 }, async () => {
      while (!migrated) {
        const { status } = await service.send('GET', '/products', { token: body.accessToken });
        statuses.add(status);
      }
    });
    try {
      await walkTenant(service.send, tenant);
      await migrateTenant(service, tenant);
      await walkTenant(service.send, tenant);
    } finally {
      migrated = true;
      await Promise.all(asking);
    }
    expect([...statuses]).toEqual([200]);
  });
});

describe('a tenant at an older schema', () => {
  const older = migrationsUpTo('0007_session_generations');

  async function makeOlder(): Promise<void> {
    await rebuildDatabase(service, tenant, older);
    await service.app.engine.tenantPools.retire(tenant.id);
  }

  it('gets 503 with Retry-After for every request, and its neighbours are served', async () => {
    const before = await signIn<{ refreshToken: string }>();
    await makeOlder();
    expectUpgrading(await signIn());
    const { refreshToken } = before.body;
    expectUpgrading(await service.send('POST', '/auth/refresh', { body: { refreshToken } }));
    for (const { method, url, access } of service.app.routeTable)
      if (['tenant', 'platform'].includes(access.scope)) {
        const path = url.replace(':id', url.startsWith('/tenants') ? tenant.id : neighbour.id);
        expectUpgrading(await service.send(method as 'GET', path, { token: tenant.adminToken }));
      }
    expect((await list(neighbour)).status).toBe(200);
    expect(await shownOf(tenant)).not.toHaveProperty('schemaVersion');
  });

  it('is refused at once if many ask, is reported once, and trips no breaker', async () => {
    await makeOlder();
    const before = await sessionsEver(tenant);
    const body = { name: 'Late', price: '1.00' };
    const ask = (of: TestTenant): Promise<Answer[]> =>
      Promise.all(
        Array.from({ length: 25 }, () => [
          list(of),
          service.send('POST', '/products', { token: of.adminToken, body }),
        ]).flat(),
      );
    const [refused, served] = await Promise.all([ask(tenant), ask(neighbour)]);
    refused.forEach(expectUpgrading);
    expect(new Set(served.map(({ status }) => status))).toEqual(new Set([200, 201]));
    for (let time = 0; time < 100; time += 1) expectUpgrading(await list(tenant));
    // While a refusal is remembered, no connection is opened.
    expect((await sessionsEver(tenant)) - before).toBeLessThan(75);
    await sleep(1_100);
    expectUpgrading(await list(tenant));
    expect(saidOf(tenant)).toMatchObject([{ level: 'warn', schemaVersion: null, needs: null, served: SERVED_SCHEMAS }]);
    const { breakers } = service.app.engine;
    expect(breakers.state('tenant', tenant.id)).toBeUndefined();
  });

  it('is served again soon after it is migrated, without a restart', async () => {
    await makeOlder();
    expectUpgrading(await list(tenant));
    await migrateTenant(service, tenant);
    // A new session: those of before were in the former database.
    await expect.poll(async () => (await signIn()).status, { timeout: 30_000 }).toBe(200);
    await walkTenant(service.send, tenant);
    expect(await shownOf(tenant)).toMatchObject({ schemaVersion: SERVED_SCHEMAS.newest });
    expect(saidOf(tenant)).toMatchObject([{ level: 'warn' }, { level: 'info' }]);
  });

  it('is refused in the same way in the moment between its migration and the grants', async () => {
    await makeOlder();
    const { dbUser, dbName } = await rowOf(service, tenant);
    await migrateTenant(service, tenant, migrationsUpTo('0008_schema_version'));
    await asSuperuser(dbName, (db) => sql`revoke select on tenant_schema_version from ${sql.id(dbUser)}`.execute(db));
    expectUpgrading(await list(tenant));
    expect(service.app.engine.breakers.state('tenant', tenant.id)).toBeUndefined();
  });
});

describe('a tenant that a newer build has migrated', () => {
  it('is served if the newer build only added', async () => {
    await migrateTenant(service, tenant, nextBuild());
    await service.app.engine.tenantPools.retire(tenant.id);
    expect((await list(tenant)).status).toBe(200);
    await walkTenant(service.send, tenant);
    expect(await shownOf(tenant)).toMatchObject({ schemaVersion: '9999_next' });
    expect(saidOf(tenant)).toEqual([]);
  });

  it('is served if this build knows what the newer one needs', async () => {
    await migrateTenant(service, tenant, nextBuild({ needs: SERVED_SCHEMAS.newest }));
    await service.app.engine.tenantPools.retire(tenant.id);
    expect((await list(tenant)).status).toBe(200);
  });

  it('is refused if it needs a newer build', async () => {
    await migrateTenant(service, tenant, nextBuild({ needs: '9999_next' }));
    await service.app.engine.tenantPools.retire(tenant.id);
    expectUpgrading(await list(tenant));
    expect(await shownOf(tenant)).toMatchObject({ schemaVersion: '9999_next' });
    expect(saidOf(tenant)).toMatchObject([{ level: 'warn', schemaVersion: '9999_next', needs: '9999_next' }]);
    expect((await list(neighbour)).status).toBe(200);
  });

  it('is not served by its open connections either, once a new one has found out', async () => {
    expect((await list(tenant)).status).toBe(200);
    const { dbName } = await rowOf(service, tenant);
    await migrateTenant(service, tenant, nextBuild({ needs: '9999_next' }));
    // The longest time without a question for the schema, and enough writes at once for a second connection.
    await sleep(10_000);
    await expect
      .poll(
        async () => {
          const product = { name: 'Late', price: '1.00' };
          const answers = await Promise.all(
            Array.from({ length: 6 }, () =>
              service.send('POST', '/products', { token: tenant.adminToken, body: product }),
            ),
          );
          return answers.map(({ status }) => status);
        },
        { timeout: 30_000 },
      )
      .toEqual(Array.from({ length: 6 }, () => 503));
    for (let time = 0; time < 3; time += 1) {
      expectUpgrading(await list(tenant));
      await sleep(600);
    }
    const open = await asSuperuser('postgres', async (db) => {
      const { rows } = await sql`select from pg_stat_activity where datname = ${dbName}`.execute(db);
      return rows.length;
    });
    expect(open).toBe(0);
  });
});
