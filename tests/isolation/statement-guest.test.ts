// What a statement of `tenantry each` cannot do, however it is written. Each attack runs as the command runs it, in a tenant's database
// that must be the same afterwards.
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import { asSuperuser, startService, type TestService } from '../support/app.js';
import {
  contentOf,
  guestsOf,
  makeTenants,
  runStatement,
  statementsRunning,
  type StatementRun,
} from '../support/statements.js';
import { rowOf } from '../support/tenants.js';

const { provisioner } = inject('cluster');
const LONG = { timeout: 60_000 };

let service: TestService;
let tenant: TenantRecord;
let neighbour: TenantRecord;

beforeAll(async () => {
  service = await startService();
  const ids = await makeTenants(service.app.engine, ['read', 'neighbour']);
  tenant = await rowOf(service, { id: ids.get('read') ?? '' });
  neighbour = await rowOf(service, { id: ids.get('neighbour') ?? '' });
  // What an adopted database may have: functions that write, for their caller or for their owner.
  await asSuperuser(tenant.dbName, async (db) => {
    await sql`insert into products (id, name, price) values (gen_random_uuid(), 'Lamp', 12)`.execute(db);
    for (const [name, security] of [
      ['own_rights', 'invoker'],
      ['owners_rights', 'definer'],
    ] as const)
      await sql
        .raw(
          `create function ${name}(command text) returns text language plpgsql security ${security} as
            $f$ begin execute command; return 'done'; end $f$;
           alter function ${name} owner to "${provisioner.user}"`,
        )
        .execute(db);
    await sql
      .raw(`create procedure ending() language plpgsql as $p$ begin commit; delete from products; commit; end $p$`)
      .execute(db);
  });
}, 60_000);
afterAll(() => service.close());

function attack(text: string): Promise<StatementRun> {
  return runStatement(service.app.engine, text, {
    selection: { statuses: ['active'], tenants: [tenant.id] },
    timeout: 5_000,
  });
}

/** Runs an attack. @returns the rows or the code of its error; `unusable` if it was refused before any database ran it */
async function outcomeOf(text: string): Promise<unknown> {
  try {
    const { lines } = await attack(text);
    const [line] = lines;
    if (!line) return undefined;
    return 'error' in line ? line.error.code : 'rows' in line ? line.rows : line;
  } catch (error) {
    return error instanceof Error && error.name === 'UnusableStatement' ? 'unusable' : error;
  }
}

async function unchanged(work: () => Promise<void>): Promise<void> {
  const before = [await contentOf(tenant), await contentOf(neighbour), await rolesOnServer()];
  await work();
  expect([await contentOf(tenant), await contentOf(neighbour), await rolesOnServer()]).toEqual(before);
  expect(await guestsOf(service.app.engine)).toEqual([]);
}

/** The roles that this test knows: other tests make others meanwhile. */
async function rolesOnServer(): Promise<unknown> {
  return asSuperuser('postgres', async (db) => {
    const names = [tenant.dbUser, neighbour.dbUser, provisioner.user, 'mine'];
    const { rows } = await sql`
      select rolname, rolsuper, rolcanlogin, rolcreaterole, rolconfig from pg_roles where rolname = any(${names}) order by rolname`.execute(
      db,
    );
    return rows;
  });
}

describe('a statement that reads', () => {
  it('reads rows, as a role that is neither the owner nor the tenant’s', LONG, async () => {
    await unchanged(async () => {
      const rows = await outcomeOf(
        `select name, price, (select rolname from pg_roles where rolname = session_user) as session, current_user = session_user as same,
          (select count(*) from pg_auth_members where member = session_user::regrole) as memberships from products;`,
      );
      expect(rows).toEqual([
        {
          name: 'Lamp',
          price: '12.00',
          session: expect.stringMatching(/^tenantry_each_[0-9a-f]{32}$/) as string,
          same: true,
          memberships: 0,
        },
      ]);
    });
  });

  it.each([
    ['two statements', 'select 1; drop table products'],
    ['the end of the transaction before a second statement', 'commit; drop table products'],
    ['the end of the transaction', 'commit'],
    ['the end of the transaction and a new one', 'rollback and chain'],
    ['a change of the transaction', 'set transaction read write'],
    ['a change of the session', 'set session characteristics as transaction read write'],
    ['another role', `set role "${provisioner.user}"`],
    ['the role before', 'reset role'],
    ['another session’s user', `set session authorization "${provisioner.user}"`],
    ['code', 'do $$ begin commit; delete from products; commit; end $$'],
    ['a procedure', 'call ending()'],
    ['a program', "copy products to program 'id'"],
    ['a program that is read', "copy products from program 'id'"],
    ['a file', "copy products to '/tmp/products'"],
    ['copied rows', 'copy products from stdin'],
    ['DDL', 'drop table products'],
    ['a new table', 'select * into mine from products'],
    ['a table from a query', 'create table mine as select 1'],
    ['a change of rows', 'delete from products'],
    ['a change of rows within a query', 'with gone as (delete from products returning 1) select * from gone'],
    ['a prepared transaction', "prepare transaction 'mine'"],
    ['a lock of a table', 'lock table products'],
    ['VACUUM', 'vacuum products'],
    ['a plan that runs a change', 'explain analyze delete from products'],
    ['a notification', 'notify mine'],
    ['nothing', '  '],
    ['only a comment', '-- select 1'],
    ['a NUL and a second message', 'select 1\0Q drop table products'],
  ])('is refused before it runs: %s', LONG, async (_what, text) => {
    await unchanged(async () => {
      expect(await outcomeOf(text)).toBe('unusable');
    });
  });

  it.each<[string, string, string]>([
    ['to write in its transaction', "select set_config('transaction_read_only', 'off', true)", '25001'],
    [
      'to write, and a function that writes',
      "select set_config('transaction_read_only', 'off', false), owners_rights('delete from products')",
      '25001',
    ],
    [
      'to write in the next transaction',
      "select set_config('default_transaction_read_only', 'off', false), owners_rights('delete from products')",
      '25006',
    ],
    ['a function with its own rights', "select own_rights('delete from products')", '25006'],
    ['a function with the owner’s rights', "select owners_rights('delete from products')", '25006'],
    ['a function that ends the transaction', "select owners_rights('commit')", '0A000'],
    ['a function that calls a procedure', "select owners_rights('call ending()')", '2D000'],
    ['a function that drops', "select owners_rights('drop table products')", '25006'],
    ['a function with a prepared text', "select query_to_xml('delete from products', true, true, '')", '0A000'],
    ['a role', `select set_config('role', '${provisioner.user}', false)`, '42501'],
    [
      'a role within a query',
      `with x as materialized (select set_config('role', '${provisioner.user}', true) as r) select r, count(*) from x, products group by r`,
      '42501',
    ],
    ['another session’s user', `select set_config('session_authorization', '${provisioner.user}', false)`, '42501'],
    ['hashes of passwords', 'select password from users', '42501'],
    ['hashes of passwords, unnamed', 'select * from users', '42501'],
    ['hashes of passwords, as a row', 'select users from users', '42501'],
    ['sessions', 'select count(*) from sessions', '42501'],
    ['stored answers', 'select count(*) from idempotency_keys', '42501'],
    ['the history of migrations', 'select * from migration.kysely_migration', '42501'],
    ['a locked row', 'select id from products for update', '25006'],
    ['a file of the server', "select pg_read_file('/etc/passwd')", '42501'],
    ['a folder of the server', "select pg_ls_dir('.')", '42501'],
    ['a file as a large object', "select lo_import('/etc/passwd')", '42501'],
    ['passwords of roles', 'select rolpassword from pg_authid', '42501'],
    ['the log of transactions', 'select pg_switch_wal()', '42501'],
    ['the settings of the server', 'select pg_reload_conf()', '42501'],
    ['its own password', "select own_rights('alter role current_user password ''known''')", '25006'],
  ])('cannot have %s', LONG, async (_what, text, code) => {
    await unchanged(async () => {
      expect(await outcomeOf(text)).toBe(code);
    });
  });

  it('has SELECT only: no other right on any table, column, sequence, schema or database', LONG, async () => {
    const rights = ['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER'];
    await unchanged(async () => {
      const rows = await outcomeOf(`
        select relname, r from pg_class cross join unnest(array['${rights.join("','")}']) as r
          where relkind in ('r', 'p', 'v', 'm') and relnamespace = 'public'::regnamespace and has_table_privilege(oid, r)
        union all select relname, r from pg_class cross join unnest(array['INSERT', 'UPDATE', 'REFERENCES']) as r
          where relkind in ('r', 'p', 'v', 'm') and relnamespace = 'public'::regnamespace and has_any_column_privilege(oid, r)
        union all select nspname, 'CREATE' from pg_namespace where has_schema_privilege(oid, 'CREATE')
        union all select datname, r from pg_database cross join unnest(array['CREATE', 'TEMPORARY']) as r
          where datname = current_database() and has_database_privilege(oid, r)
        union all select rolname, 'MEMBER' from pg_roles where rolname <> session_user and pg_has_role(oid, 'MEMBER')
        union all select rolname, 'OWN' from pg_roles where rolname = session_user
          and (rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls)`);
      expect(rows).toEqual([]);
    });
  });

  it('cannot go on as another role after set_config, in one query', LONG, async () => {
    await unchanged(async () => {
      expect(
        await outcomeOf(
          "select set_config('role', 'none', true), current_user = session_user as same, count(*) from products group by 1",
        ),
      ).toEqual([{ set_config: 'none', same: true, count: 1 }]);
      expect(
        await outcomeOf(
          "with x as materialized (select set_config('role', 'none', true)) select password from x, users",
        ),
      ).toBe('42501');
    });
  });

  it(
    'leaves no large object, no notification and no lock, which PostgreSQL allows in some versions',
    LONG,
    async () => {
      await unchanged(async () => {
        await outcomeOf('select lo_create(0)');
        await outcomeOf("select lo_from_bytea(0, 'mine')");
        await outcomeOf("select pg_notify('mine', 'said')");
        await outcomeOf('select pg_advisory_lock(4711)');
      });
      const { rows } = await asSuperuser('postgres', (db) =>
        sql`select from pg_locks where locktype = 'advisory' and objid = 4711`.execute(db),
      );
      expect(rows).toEqual([]);
    },
  );

  it('cannot end the sessions of others', LONG, async () => {
    const handle = await service.app.engine.tenantPools
      .database(tenant.id)
      .selectFrom('products')
      .select('id')
      .execute();
    expect(handle).toHaveLength(1);
    await unchanged(async () => {
      expect(
        await outcomeOf(
          `select pg_terminate_backend(pid) from pg_stat_activity where usename in ('${tenant.dbUser}', '${provisioner.user}')`,
        ),
      ).toBe('42501');
    });
  });

  it('ends at its deadline, also if it lifts the server’s', LONG, async () => {
    await unchanged(async () => {
      const select = { statuses: ['active'] as const, tenants: [tenant.id] };
      const run = (text: string): Promise<StatementRun> =>
        runStatement(service.app.engine, text, { selection: select, timeout: 500 });
      expect((await run('select pg_sleep(60)')).lines).toMatchObject([{ error: { code: '57014' } }]);
      expect((await run("select set_config('statement_timeout', '0', false), pg_sleep(60)")).lines).toMatchObject([
        { error: { code: expect.stringMatching(/^(57014|unavailable)$/) as string } },
      ]);
    });
    expect(await statementsRunning([tenant.dbName])).toBe(0);
  });

  it('takes no more memory than its bound', LONG, async () => {
    await unchanged(async () => {
      expect(await outcomeOf("select repeat('x', 1000000) from generate_series(1, 50)")).toBe('unavailable');
      expect(await outcomeOf("select repeat('x', 100000000)")).toBe('unavailable');
    });
  });
});

describe('the role of a run', () => {
  it(
    'connects to no database that a statement is not running in, and has its rights only meanwhile',
    LONG,
    async () => {
      const seen: unknown[] = [];
      const look = async (): Promise<void> => {
        const { rows } = await asSuperuser('postgres', (db) =>
          sql`select datname from pg_roles r cross join pg_database d
          where rolname like 'tenantry_each_%' and shobj_description(r.oid, 'pg_authid') like ${`% ${installation} %`}
            and has_database_privilege(r.oid, d.oid, 'CONNECT') and datallowconn
            -- Databases of other tests, which every role may enter.
            and not exists (select from aclexplode(coalesce(datacl, acldefault('d', datdba)))
              where grantee = 0 and privilege_type = 'CONNECT')`.execute(db),
        );
        seen.push(...rows);
      };
      const installation = await service.app.engine.installation();
      const running = attack('select pg_sleep(1)');
      const looks: Promise<void>[] = [];
      const timer = setInterval(() => void looks.push(look()), 50);
      try {
        await running;
      } finally {
        clearInterval(timer);
        await Promise.all(looks);
      }
      expect(seen.length).toBeGreaterThan(0);
      expect(new Set(seen.map((row) => (row as { datname: string }).datname))).toEqual(new Set([tenant.dbName]));
    },
  );
});
