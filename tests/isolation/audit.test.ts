// The roles of the service cannot rewrite the audit: tried in the registry and in a tenant's database, with the rights that the
// service has there. And those rights are no more than it needs.
import { sql, type Kysely } from 'kysely';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { insertAudit } from '../../db/shared/audit-rows.js';
import { insertAudit as insertCentralAudit } from '../../db/registry/registry-audit.js';
import { canRewriteAudit } from '../../db/registry/registry-grants.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant } from '../../db/registry/tenant-queries.js';
import { asSuperuser, connectAs, createRegistry, startService, type TestService } from '../support/app.js';

const { registryOwner, registryService } = inject('cluster');
const DENIED = '42501';

let registry: string;
let service: TestService;
let tenantId: string;
let database: string;
beforeAll(async () => {
  registry = await createRegistry();
  service = await startService({ registry });
  const tenant = await service.createTenant('audited');
  tenantId = tenant.id;
  database = (await findTenant(service.app.engine.registry, tenantId))?.dbName ?? '';
});
afterAll(() => service.close());

const entry = { actor: { kind: 'none' }, action: 'auth.login-failed' } as const;
const places: readonly [
  string,
  {
    /** Connected as the service is. */
    readonly db: () => Kysely<unknown>;
    readonly name: () => string;
    readonly insert: () => Promise<void>;
  },
][] = [
  [
    'the registry',
    {
      db: () => service.app.engine.registry as unknown as Kysely<unknown>,
      name: () => registry,
      insert: () => insertCentralAudit(service.app.engine.registry, entry),
    },
  ],
  [
    'a tenant’s database',
    {
      db: () => service.app.engine.tenantPools.database(tenantId) as unknown as Kysely<unknown>,
      name: () => database,
      insert: () => insertAudit(service.app.engine.tenantPools.database(tenantId), entry),
    },
  ],
];

describe.each(places)('in %s the service', (_where, { db, name, insert }) => {
  const everything = (): Promise<readonly unknown[]> =>
    asSuperuser(name(), async (superuser) => (await sql`select * from audit order by id`.execute(superuser)).rows);

  it('adds rows and reads them', async () => {
    const before = await everything();
    await insert();
    expect(await everything()).toHaveLength(before.length + 1);
    expect((await sql`select id from audit`.execute(db())).rows).toHaveLength(before.length + 1);
  });

  it.each([
    ['changes a row', "update audit set action = 'auth.logout'"],
    ['changes a row that it adds again', insertAgain("update set action = 'auth.logout'")],
    ['removes a row', 'delete from audit'],
    ['removes a row, looking at nothing', 'delete from audit where false'],
    ['merges into rows', 'merge into audit using (select 1) as one on true when matched then delete'],
    ['locks rows for a change', 'select from audit for update'],
    ['empties the table', 'truncate audit'],
    ['changes the table', 'alter table audit add column more text'],
    ['renames the table', 'alter table audit rename to forgotten'],
    ['removes the table', 'drop table audit'],
    ['takes the table', 'alter table audit owner to current_user'],
    ['puts a trigger on it', triggerOn('audit')],
    ['puts a rule on it', 'create rule nothing as on insert to audit do instead nothing'],
    ['removes an index', 'drop index audit_at_id'],
    ['makes a table that stands before it', 'create temporary table audit (id uuid)'],
    ['makes another table', 'create table more (id integer)'],
    ['runs as the superuser', 'set session authorization postgres'],
    ['switches off the trigger that dates rows', 'alter table audit disable trigger stamp_audit'],
    [
      'replaces what dates rows',
      'create or replace function stamp_audit() returns trigger language sql as $$ select new $$',
    ],
    ['switches triggers and keys off', "set session_replication_role = 'replica'"],
  ])('is refused when it %s', async (_what, statement) => {
    await insert();
    const before = await everything();
    await expect(sql.raw(statement).execute(db())).rejects.toMatchObject({ reason: DENIED });
    expect(await everything()).toEqual(before);
  });

  it('cannot give itself the right to change rows of the audit', async () => {
    const before = await everything();
    // PostgreSQL only warns that nothing was granted.
    await sql`grant update, delete on audit to current_user`.execute(db()).catch(() => undefined);
    await expect(sql`delete from audit`.execute(db())).rejects.toMatchObject({ reason: DENIED });
    expect(await everything()).toEqual(before);
  });

  it('may only read and write rows of every other table, and owns nothing', async () => {
    const { rows } = await sql<{ name: string; rights: string | null }>`
      select relname as name, (
        select string_agg(privilege, ' ' order by privilege)
        from unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) as privilege
        where has_table_privilege(oid, privilege)) as rights
      from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace
      order by 1`.execute(db());
    const rights = Object.fromEntries(rows.map((row) => [row.name, row.rights]));
    const { audit, tenant_marker: marker = 'select', audit_retention: retention = 'select', ...others } = rights;
    expect(audit).toBe('insert select');
    expect(marker).toBe('select');
    expect(retention).toBe('select');
    expect(Object.keys(others).length).toBeGreaterThan(1);
    for (const [table, right] of Object.entries(others)) expect(right, table).toBe('delete insert select update');
    const { rows: owned } = await sql`
      select relname from pg_class where relowner = current_user::regrole and relpersistence = 'p'`.execute(db());
    expect(owned).toEqual([]);
  });
});

describe('in the registry', () => {
  it('the service connects as a role other than the owner, and cannot become the owner', async () => {
    const { rows } = await sql`select current_user as role`.execute(service.app.engine.registry);
    expect(rows).toEqual([{ role: registryService.user }]);
    await expect(
      sql`set role ${sql.id(registryOwner.user)}`.execute(service.app.engine.registry),
    ).rejects.toMatchObject({
      reason: DENIED,
    });
  });

  it('the service cannot change the list of migrations that have run', async () => {
    await expect(
      sql`delete from migration.kysely_migration`.execute(service.app.engine.registry),
    ).rejects.toMatchObject({
      reason: DENIED,
    });
  });

  it('the audit counts as rewritable for its owner and for a superuser, and not for the service', async () => {
    const owner = connectAs<Registry>(registry, registryOwner);
    const superuser = connectAs<Registry>(registry);
    expect(await canRewriteAudit(service.app.engine.registry)).toBe(false);
    expect(await canRewriteAudit(owner.db)).toBe(true);
    expect(await canRewriteAudit(superuser.db)).toBe(true);
    await Promise.all([owner.close(0), superuser.close(0)]);
  });

  it('the audit counts as rewritable for a role that was granted one right too many', async () => {
    const own = await createRegistry();
    const as = connectAs<Registry>(own, registryService);
    expect(await canRewriteAudit(as.db)).toBe(false);
    for (const right of ['update', 'delete', 'truncate']) {
      await asSuperuser(own, (db) =>
        sql`grant ${sql.raw(right)} on audit to ${sql.id(registryService.user)}`.execute(db),
      );
      expect(await canRewriteAudit(as.db), right).toBe(true);
      await asSuperuser(own, (db) =>
        sql`revoke ${sql.raw(right)} on audit from ${sql.id(registryService.user)}`.execute(db),
      );
    }
    await as.close(0);
  });
});

function insertAgain(otherwise: string): string {
  return `insert into audit (id, actor_kind, action, details)
    select id, 'none', 'auth.logout', '{}' from audit on conflict (id) do ${otherwise}`;
}

function triggerOn(table: string): string {
  return `create trigger mine before insert on ${table} execute function suppress_redundant_updates_trigger()`;
}

it('the audit of a tenant stays after the tenant is purged', async () => {
  const { id } = await service.createTenant('gone-soon');
  await service.send('DELETE', `/tenants/${id}`, { token: service.operatorToken });
  await service.send('POST', `/tenants/${id}/purge`, { token: service.operatorToken });
  const rows = await service.app.engine.registry
    .selectFrom('audit')
    .select('action')
    .where('tenant_id', '=', id)
    .execute();
  expect(rows.map(({ action }) => action)).toEqual(['tenant.created', 'tenant.deleted', 'tenant.purged']);
  expect(await findTenant(service.app.engine.registry, id)).toBeUndefined();
});
