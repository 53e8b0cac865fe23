// How long rows of the audit are kept: as long as the configuration says, and no role that writes rows can remove one sooner.
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { insertAudit } from '../../db/shared/audit-rows.js';
import { insertAudit as insertCentralAudit, keepAuditFor } from '../../db/registry/registry-audit.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant } from '../../db/registry/tenant-queries.js';
import { createAuditRetention } from '../../src/clusters/audit-retention.js';
import {
  asSuperuser,
  connectAs,
  createRegistry,
  startService,
  type TestService,
  type TestTenant,
} from '../support/app.js';
import { isServed, migrationsUpTo, rebuildDatabase } from '../support/tenant-schemas.js';

let registry: string;
let service: TestService;
const tenants: TestTenant[] = [];
const databases = new Map<string, string>();
beforeAll(async () => {
  registry = await createRegistry();
  service = await startService({ registry });
  for (let count = 0; count < 3; count += 1) {
    const tenant = await service.createTenant();
    tenants.push(tenant);
    databases.set(tenant.id, (await findTenant(service.app.engine.registry, tenant.id))?.dbName ?? '');
  }
  tenants.sort((one, other) => (one.id < other.id ? -1 : 1));
});
afterAll(() => service.close());

const entry = { actor: { kind: 'none' }, action: 'auth.login-failed' } as const;

/** Adds two rows to each database, and makes one of each pair so many days old. */
async function addAged(days: number): Promise<void> {
  const { registry: central, tenantPools } = service.app.engine;
  for (const requestId of ['old', 'new']) {
    await insertCentralAudit(central, { ...entry, requestId });
    for (const { id } of tenants) await insertAudit(tenantPools.database(id), { ...entry, requestId });
  }
  for (const database of [registry, ...databases.values()])
    await asSuperuser(database, (db) =>
      sql`update audit set at = now() - ${days} * interval '1 day' where request_id = 'old'`.execute(db),
    );
}

async function countOf(database: string, which: 'old' | 'new'): Promise<number> {
  const { rows } = await asSuperuser(database, (db) =>
    sql<{ count: number }>`select count(*)::integer as count from audit where request_id = ${which}`.execute(db),
  );
  return rows[0]?.count ?? 0;
}

async function keepInRegistry(days: number): Promise<void> {
  const owner = connectAs<Registry>(registry);
  await keepAuditFor(owner.db, days).finally(() => owner.close(0));
}

function retention(keepDays: number, limit?: number, errors: unknown[] = []) {
  const { registry: central, provisioners } = service.app.engine;
  return createAuditRetention(
    { registry: central, provisioners, keepDays, onError: (error, context) => errors.push({ error, context }) },
    limit,
  );
}

describe('rows that are older than the time for which they are kept', () => {
  it('are removed in the registry and in every active tenant, page by page; younger rows stay', async () => {
    await addAged(31);
    await keepInRegistry(30);
    const run = retention(30, 2);
    const { signal } = new AbortController();
    await run(signal);
    expect([await countOf(registry, 'old'), await countOf(registry, 'new')]).toEqual([0, 1]);
    const left = async (): Promise<number[]> =>
      Promise.all(tenants.map(({ id }) => countOf(databases.get(id) ?? '', 'old')));
    expect(await left()).toEqual([0, 0, 1]);
    await run(signal);
    expect(await left()).toEqual([0, 0, 0]);
    for (const database of databases.values()) expect(await countOf(database, 'new')).toBe(1);
  });

  it('are removed, but for the newest one: the next row comes after it, whatever the clock says', async () => {
    await keepInRegistry(30);
    const { registry: central, tenantPools } = service.app.engine;
    const [tenant] = tenants;
    const database = databases.get(tenant?.id ?? '') ?? '';
    // Of a server whose clock was ahead of this one's.
    const ahead = '8000000000000000000';
    for (const [name, add] of [
      [registry, () => insertCentralAudit(central, { ...entry, requestId: 'next' })],
      [database, () => insertAudit(tenantPools.database(tenant?.id ?? ''), { ...entry, requestId: 'next' })],
    ] as const) {
      await addAged(31);
      const newest = await asSuperuser(name, async (db) => {
        await sql`update audit set at = now() - interval '31 days', era = ${ahead}, server = server - 1`.execute(db);
        const { rows } = await sql<{ id: string }>`
          select id from audit order by era desc, xid desc, id desc limit 1`.execute(db);
        return rows[0]?.id;
      });
      await retention(30)(new AbortController().signal);
      const rowsOf = async () =>
        asSuperuser(name, async (db) => {
          const { rows } = await sql<{ id: string; after: boolean }>`
            select id, era > ${ahead}::bigint as after from audit order by era, xid, id`.execute(db);
          return rows;
        });
      expect(await rowsOf()).toEqual([{ id: newest, after: false }]);
      await add();
      expect((await rowsOf()).map(({ after }) => after)).toEqual([false, true]);
    }
  });

  it('are removed from a database that has no order of rows yet', async ({ skip }) => {
    skip(!isServed('0011_idempotency_keys'), 'this build serves newer schemas only');
    const tenant = await service.createTenant();
    await rebuildDatabase(service, tenant, migrationsUpTo('0011_idempotency_keys'));
    await service.app.engine.tenantPools.retire(tenant.id);
    const database = (await findTenant(service.app.engine.registry, tenant.id))?.dbName ?? '';
    const db = service.app.engine.tenantPools.database(tenant.id);
    for (const requestId of ['old', 'new']) await insertAudit(db, { ...entry, requestId });
    await asSuperuser(database, (superuser) =>
      sql`update audit set at = now() - interval '31 days' where request_id = 'old'`.execute(superuser),
    );
    const errors: unknown[] = [];
    await retention(30, 100, errors)(new AbortController().signal);
    expect(errors).toEqual([]);
    expect([await countOf(database, 'old'), await countOf(database, 'new')]).toEqual([0, 1]);
  });

  it('stay for ever with 0, and while they are younger', async () => {
    await addAged(29);
    const { signal } = new AbortController();
    await keepInRegistry(0);
    await retention(0)(signal);
    await keepInRegistry(30);
    await retention(30)(signal);
    for (const database of [registry, ...databases.values()]) expect(await countOf(database, 'old')).toBe(1);
  });

  it('of a tenant whose database fails do not keep those of others', async () => {
    await addAged(40);
    const [broken] = tenants;
    const errors: { context: { tenantId?: string } }[] = [];
    const database = databases.get(broken?.id ?? '') ?? '';
    await asSuperuser(database, (db) => sql`alter table audit rename to audit_away`.execute(db));
    try {
      await retention(30, 100, errors)(new AbortController().signal);
    } finally {
      await asSuperuser(database, (db) => sql`alter table audit_away rename to audit`.execute(db));
    }
    expect(errors.map(({ context }) => context.tenantId)).toEqual([broken?.id]);
    for (const { id } of tenants.slice(1)) expect(await countOf(databases.get(id) ?? '', 'old')).toBe(0);
  });
});

describe('the service’s role in the registry', () => {
  it('removes nothing sooner than the owner has set, and cannot change that time', async () => {
    const { registry: central } = service.app.engine;
    await addAged(29);
    await keepInRegistry(30);
    const before = await countOf(registry, 'old');
    await sql`select remove_expired_audit(1000000)`.execute(central);
    expect(await countOf(registry, 'old')).toBe(before);
    for (const statement of [
      'update audit_retention set days = 1',
      'delete from audit_retention',
      'insert into audit_retention values (true, 1)',
      "create or replace function remove_expired_audit(most integer) returns integer language sql as 'select 1'",
      "delete from audit where at < now() - interval '1 day'",
    ])
      await expect(sql.raw(statement).execute(central), statement).rejects.toMatchObject({ reason: '42501' });
  });
});
