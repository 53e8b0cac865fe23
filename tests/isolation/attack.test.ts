// Attacks on the isolation that PostgreSQL enforces, by an attacker with the name and password of a tenant's role, and psql. It
// tests what is refused, and what PostgreSQL allows every role. docs/inside/isolation.md is the prose of this file.
import { sql, type Kysely } from 'kysely';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import type { DatabaseHandle } from '../../db/driver/client.js';
import { boundRuntimeRoles } from '../../db/server/server-admin.js';
import { DatabaseFault, hasSqlState } from '../../db/driver/database-fault.js';
import { scramVerifier } from '../../db/server/scram.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { templateName } from '../../src/operations/template/template-names.js';
import { asSuperuser, connectAs, createRegistry, startService, type TestService } from '../support/app.js';
import { enter, reach, type Reached } from '../support/tenants.js';

const { provisioner, registryTemplate } = inject('cluster');

let registry: string;
let service: TestService;
let a: Reached;
let b: Reached;
/** As the runtime role of tenant A, in its own database. */
let asA: DatabaseHandle<unknown>;

beforeAll(async () => {
  registry = await createRegistry();
  service = await startService({ registry });
  a = await reach(service, await service.createTenant('attacker'));
  b = await reach(service, await service.createTenant('attacked'));
  asA = enter(a);
});
afterAll(async () => {
  await asA.close(0);
  await service.close();
});

const DENIED = '42501';
const TOO_MANY_CONNECTIONS = '53300';

describe('a tenant’s role', () => {
  it('can connect to its own database', async () => {
    const { rows } = await sql`select current_user, current_database(), tenant_id from tenant_marker`.execute(asA.db);
    expect(rows).toEqual([{ current_user: a.row.dbUser, current_database: a.row.dbName, tenant_id: a.row.id }]);
  });

  it.each<[string, () => string, string]>([
    ['another tenant’s', () => b.row.dbName, '42501'],
    ['the registry', () => registry, '42501'],
    ['the registry that the run began with', () => registryTemplate, '42501'],
    ['postgres', () => 'postgres', '42501'],
    ['template1', () => 'template1', '42501'],
    ['template0', () => 'template0', '55000'],
    ['the template of tenant databases', () => templateName(tenantMigrations, provisioner.user), '55000'],
  ])('cannot connect to another database: %s', async (_what, database, sqlState) => {
    const handle = enter(a, database());
    const error: unknown = await sql`select 1`.execute(handle.db).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    await handle.close(0);
    expect(error).toBeInstanceOf(DatabaseFault);
    expect(error).toMatchObject({ kind: 'unavailable', reason: sqlState });
  });
});

describe('a tenant’s role is refused:', () => {
  it.each<[string, string]>([
    ['a table', 'create table mine (id integer)'],
    ['a table in a schema of its own making', 'create schema mine'],
    ['a temporary table', 'create temporary table mine (id integer)'],
    ['a view', 'create view mine as select 1'],
    ['a function', 'create function mine() returns integer language sql as $$ select 1 $$'],
    ['a type', "create type mine as enum ('a')"],
    ['a sequence', 'create sequence mine'],
    ['an extension, a trusted one too', 'create extension citext'],
    [
      'an event trigger',
      'create event trigger mine on ddl_command_start execute function pg_catalog.suppress_redundant_updates_trigger()',
    ],
    ['a publication', 'create publication mine for table products'],
    ['an index', 'create index mine on products (name)'],
    [
      'a trigger',
      'create trigger mine before update on products execute function suppress_redundant_updates_trigger()',
    ],
    ['a policy', 'create policy mine on products'],
    ['a changed table', 'alter table products add column mine integer'],
    ['a disabled constraint', 'alter table products drop constraint products_stock_not_negative'],
    ['a disabled trigger', 'alter table users disable trigger all'],
    ['a dropped table', 'drop table products'],
    ['a truncated table', 'truncate products'],
    ['a taken ownership', 'alter table products owner to current_user'],
    ['a comment on its database', 'comment on database %A is $$mine$$'],
    ['a renamed database', 'alter database %A rename to mine'],
    ['a setting of its database', "alter database %A set statement_timeout = '0'"],
    ['a dropped database', 'drop database %B with (force)'],
    ['a new database', 'create database mine'],
    ['a copy of a tenant’s database', 'create database mine template %B'],
    ['a new role', 'create role mine login'],
    ['more rights for itself', 'alter role current_user createdb'],
    ['a larger connection limit', 'alter role current_user connection limit -1'],
    ['another tenant’s password', "alter role %B password 'mine'"],
    ['the provisioner’s role', 'set role %P'],
    ['another tenant’s role', 'set role %B'],
    ['the provisioner’s session', 'set session authorization %P'],
    ['a predefined role', 'set role pg_read_all_data'],
    ['membership in the provisioner', 'grant %P to current_user'],
    ['a program on the server', 'copy products to program $$true$$'],
    ['a program’s output', 'copy products from program $$true$$'],
    ['a file on the server', 'copy products to $$/tmp/mine$$'],
    ['the server’s files', 'select pg_read_file($$postgresql.conf$$)'],
    ['the server’s folders', 'select pg_ls_dir($$.$$)'],
    ['an imported file', 'select lo_import($$/etc/passwd$$)'],
    ['an exported file', 'select lo_export(1, $$/tmp/mine$$)'],
    ['password verifiers', 'select rolpassword from pg_authid'],
    ['pg_shadow', 'select passwd from pg_shadow'],
    ['the access rules', 'select * from pg_hba_file_rules'],
    ['where the data lies', "select current_setting('data_directory')"],
    ['the server’s configuration', 'alter system set work_mem = $$1GB$$'],
    ['reading it again', 'select pg_reload_conf()'],
    ['writing past triggers and foreign keys', 'set session_replication_role = replica'],
    ['logging', 'set log_statement = $$all$$'],
    ['a replication slot', 'select pg_create_physical_replication_slot($$mine$$)'],
    ['another WAL file', 'select pg_switch_wal()'],
    ['a temporary view', 'create temporary view mine as select 1'],
    ['a temporary copy', 'select * into temporary mine from products'],
    ['a temporary function', 'create function pg_temp.mine() returns integer language sql as $$ select 1 $$'],
    ['a materialized view', 'create materialized view mine as select 1'],
    ['a procedure', 'create procedure mine() language sql as $$ select 1 $$'],
    ['an aggregate', 'create aggregate mine (integer) (sfunc = int4pl, stype = integer)'],
    ['an operator', 'create operator === (leftarg = integer, rightarg = integer, function = int4eq)'],
    ['a domain', 'create domain mine as integer'],
    ['a collation', "create collation mine (locale = 'C')"],
    ['a rule', 'create rule mine as on delete to products do instead nothing'],
    ['statistics', 'create statistics mine on name, price from products'],
    ['a function that C wrote', "create function mine() returns integer language c as 'libc', 'getpid'"],
    ['a library', "load '/tmp/mine.so'"],
    ['a foreign data wrapper', 'create foreign data wrapper mine'],
    ['a way to other servers', 'create extension postgres_fdw'],
    ['a way to other databases', 'create extension dblink'],
    ['a subscription', "create subscription mine connection 'host=192.0.2.1' publication mine with (connect = false)"],
    ['a tablespace', "create tablespace mine location '/tmp'"],
    ['an access method', 'create access method mine type table handler heap_tableam_handler'],
    ['a schema of its database', 'alter schema public rename to mine'],
    ['the tables’ default rights', 'alter default privileges for role %P grant all on tables to current_user'],
    ['what another owns', 'reassign owned by %P to current_user'],
    ['what another owns, dropped', 'drop owned by %P'],
    ['a rebuilt index', 'reindex table products'],
    ['a comment on a table', 'comment on table products is $$mine$$'],
    ['a checkpoint', 'checkpoint'],
    ['another name for a role', 'alter role %B rename to mine'],
    ['a longer life', "alter role current_user valid until 'infinity'"],
    ['row-level rights past', 'alter role current_user bypassrls'],
    ['replication', 'alter role current_user replication'],
    ['a setting of another role', 'alter role %B set work_mem = $$1MB$$'],
    ['another role, dropped', 'drop role %B'],
    ['more temporary files', "set temp_file_limit = '-1'"],
    ['more temporary files for good', "alter role current_user set temp_file_limit = '-1'"],
    ['the size of another’s database', 'select pg_database_size($$%B$$)'],
    ['a file in binary', 'select pg_read_binary_file($$PG_VERSION$$)'],
    ['what a file is', 'select pg_stat_file($$PG_VERSION$$)'],
    ['the list of logs', 'select pg_ls_logdir()'],
    ['the list of WAL files', 'select pg_ls_waldir()'],
    ['the list of temporary files', 'select pg_ls_tmpdir()'],
    ['a new log file', 'select pg_rotate_logfile()'],
    ['a backend’s memory in the log', 'select pg_log_backend_memory_contexts(pg_backend_pid())'],
    ['a backup', 'select pg_backup_start($$mine$$)'],
    ['a restore point', 'select pg_create_restore_point($$mine$$)'],
    ['a logical slot', 'select pg_create_logical_replication_slot($$mine$$, $$test_decoding$$)'],
    ['forgotten statistics', 'select pg_stat_reset()'],
    ['a sample of all rows', 'select * from pg_statistic'],
    ['passwords of foreign servers', 'select * from pg_user_mapping'],
    ['the files of the configuration', 'select * from pg_file_settings'],
    ['the marker, inserted', 'insert into tenant_marker (only_row, tenant_id) values (true, gen_random_uuid())'],
    ['the marker, changed', 'update tenant_marker set tenant_id = gen_random_uuid()'],
    ['the marker, removed', 'delete from tenant_marker'],
    ['the migrator’s schema', 'select * from migration.kysely_migration'],
    ['the migrator’s lock', 'update migration.kysely_migration_lock set is_locked = 1'],
  ])('%s', async (_what, statement) => {
    const named = statement.replace('%A', a.row.dbName).replace('%B', b.row.dbName).replace('%P', provisioner.user);
    const error: unknown = await sql
      .raw(named)
      .execute(asA.db)
      .then(
        () => undefined,
        (thrown: unknown) => thrown,
      );
    expect(error, 'PostgreSQL did it').toBeDefined();
    expect(hasSqlState(error, DENIED), String(error)).toBe(true);
  });

  it('the end of sessions that are not its own', async () => {
    const others = [
      enter(b, b.row.dbName),
      connectAs<unknown>('postgres', provisioner),
      connectAs<unknown>('postgres'),
    ];
    try {
      for (const { db } of others) {
        const pid = await backendOf(db);
        for (const end of ['pg_terminate_backend', 'pg_cancel_backend']) {
          const ended = sql`select ${sql.raw(end)}(${pid}::integer)`.execute(asA.db);
          await expect(ended, end).rejects.toMatchObject({ reason: DENIED });
        }
        expect(await backendOf(db)).toBe(pid);
      }
    } finally {
      await Promise.all(others.map((handle) => handle.close(0)));
    }
  });

  it('the text of others’ queries', async () => {
    const { rows } = await sql<{ query: string }>`
      select distinct query from pg_stat_activity where usename <> current_user`.execute(asA.db);
    expect(rows).not.toEqual([]);
    expect(
      rows.map(({ query }) => query).filter((query) => query !== '<insufficient privilege>' && query !== ''),
    ).toEqual([]);
  });

  it('rights to give away', async () => {
    await sql`grant select on products to public`.execute(asA.db);
    const { rows } = await asSuperuser(a.row.dbName, (db) =>
      sql`select grantee from information_schema.role_table_grants where table_schema = 'public' and grantee = 'PUBLIC'`.execute(
        db,
      ),
    );
    expect(rows).toEqual([]);
  });

  it('more sessions than its connection limit', async () => {
    const limited = await reach(service, await service.createTenant('limited'));
    await asSuperuser('postgres', (db) => sql`alter role ${sql.id(limited.row.dbUser)} connection limit 3`.execute(db));
    await service.app.engine.tenantPools.retire(limited.row.id);
    const sessions = Array.from({ length: 6 }, () => enter(limited));
    const leave: (() => void)[] = [];
    const outcomes = await Promise.all(
      sessions.map(
        ({ db }) =>
          new Promise<string>((resolve) => {
            db.connection()
              .execute(() => {
                resolve('in');
                return new Promise<void>((done) => leave.push(done));
              })
              .catch((error: unknown) => {
                resolve(error instanceof DatabaseFault ? error.reason : String(error));
              });
          }),
      ),
    );
    for (const done of leave) done();
    await Promise.all(sessions.map((handle) => handle.close(0)));
    expect(outcomes.sort()).toEqual([...Array<string>(3).fill(TOO_MANY_CONNECTIONS), 'in', 'in', 'in']);
  });
});

describe('a session of a tenant’s role', () => {
  const bounds = [
    'statement_timeout=60s',
    'lock_timeout=30s',
    'idle_in_transaction_session_timeout=60s',
    'temp_file_limit=1GB',
  ];

  async function configOf({ row }: Reached): Promise<string[]> {
    const { rows } = await asSuperuser('postgres', (db) =>
      sql<{ rolconfig: string[] | null }>`select rolconfig from pg_roles where rolname = ${row.dbUser}`.execute(db),
    );
    return [...(rows[0]?.rolconfig ?? [])].sort();
  }

  it('starts with limits on statements, lock waits, idle transactions and temporary files', async () => {
    expect(await configOf(a)).toEqual([...bounds].sort());
    const { rows } = await sql`
      select current_setting('lock_timeout') as lock, current_setting('temp_file_limit') as temp`.execute(asA.db);
    expect(rows).toEqual([{ lock: '30s', temp: '1GB' }]);
  });

  it('may lift its limits, except the limit on temporary files', async () => {
    await sql`alter role current_user reset all`.execute(asA.db);
    expect(await configOf(a)).toEqual(['temp_file_limit=1GB']);
    await expect(sql`alter role current_user reset temp_file_limit`.execute(asA.db)).rejects.toMatchObject({
      reason: DENIED,
    });
  });

  it('has its limits again after the installation is migrated, even if its role had none', async () => {
    const asProvisioner = connectAs<unknown>('postgres', provisioner);
    try {
      await asSuperuser('postgres', (db) => sql`alter role ${sql.id(b.row.dbUser)} reset all`.execute(db));
      expect(await boundRuntimeRoles(asProvisioner.db, [a.row.dbUser, b.row.dbUser])).toBe(2);
      for (const tenant of [a, b]) expect(await configOf(tenant)).toEqual([...bounds].sort());
      expect(await boundRuntimeRoles(asProvisioner.db, [a.row.dbUser, b.row.dbUser])).toBe(0);
    } finally {
      await asProvisioner.close(0);
    }
  });
});

describe('PostgreSQL lets every role, as docs/inside/isolation.md says,', () => {
  it('see the names of databases and roles, which reveal nothing about tenants', async () => {
    const { rows } = await sql<{ name: string; comment: string | null }>`
      select datname as name, shobj_description(oid, 'pg_database') as comment from pg_database where datname like 'tn\_%'
      union all
      select rolname, shobj_description(oid, 'pg_authid') from pg_roles where rolname like 'tn\_%'`.execute(asA.db);
    expect(rows.filter(({ name }) => name === b.row.dbName)).toHaveLength(2);
    for (const { name, comment } of rows)
      expect([name, comment]).toEqual([
        expect.stringMatching(/^tn_[0-9a-f]{32}$/),
        // The owner's ids; databases that a test made itself have none.
        comment && expect.stringMatching(/^tenantry [0-9a-f-]{36} [0-9a-f-]{36} [a-z]+( [0-9a-f-]{36} \d+)?$/),
      ]);
  });

  it.each([
    ['see who is connected where', 'select datname, usename, client_port from pg_stat_activity'],
    ['see how busy each database is', 'select datname, xact_commit from pg_stat_database'],
    ['take advisory locks in its own database', 'select pg_advisory_unlock(1) where pg_try_advisory_lock(1)'],
    [
      'lift its own time limits',
      "set statement_timeout = '0'; set idle_in_transaction_session_timeout = '0'; reset all",
    ],
    ['count its own tablespace’s bytes', "select pg_tablespace_size('pg_default')"],
    [
      'see the version, the settings and the work of the server',
      'select version(); select * from pg_settings; select * from pg_stat_bgwriter; select * from pg_control_system()',
    ],
    ['see which locks are held', 'select * from pg_locks'],
    [
      'take memory and processors, as its statements need them',
      "set work_mem = '64MB'; select count(*) from generate_series(1, 10000); reset work_mem",
    ],
    ['hold on to a snapshot', 'begin; select pg_export_snapshot(); rollback'],
    ['listen within its database', 'listen something; unlisten something'],
    [
      'keep settings of its own',
      'alter role current_user set work_mem = $$8MB$$; alter role current_user reset work_mem',
    ],
    ['lock its own tables', 'begin; lock table products in access exclusive mode; rollback'],
    ['run code of its own', 'do $$ begin perform 1; end $$'],
    ['notify within its database', 'notify something'],
    ['keep large objects in its own database', 'select lo_unlink(lo_from_bytea(0, $$x$$))'],
  ])('%s', async (_what, statement) => {
    await sql.raw(statement).execute(asA.db);
  });

  it('end its own sessions, including those of the service in its database', async () => {
    const own = enter(a);
    try {
      const pid = await backendOf(own.db);
      const { rows } = await sql`select pg_terminate_backend(${pid}::integer) as ended`.execute(asA.db);
      expect(rows).toEqual([{ ended: true }]);
    } finally {
      await own.close(0);
    }
  });

  it('keep large objects, and the provisioner, who owns the database, cannot revoke that right', async () => {
    const asProvisioner = connectAs<unknown>(a.row.dbName, provisioner);
    try {
      for (const name of [
        'lo_create(oid)',
        'lo_from_bytea(oid, bytea)',
        'pg_notify(text, text)',
        'pg_advisory_lock(bigint)',
      ]) {
        // PostgreSQL gives a warning at most: the functions belong to the superuser.
        await sql`revoke execute on function ${sql.raw(name)} from public`.execute(asProvisioner.db);
        const { rows } = await sql`select has_function_privilege(${name}, 'execute') as may`.execute(asA.db);
        expect(rows, name).toEqual([{ may: true }]);
      }
    } finally {
      await asProvisioner.close(0);
    }
  });

  it('change its own password, which an operator can change again', async () => {
    const changed = await scramVerifier('changed-by-the-tenant', 1);
    await sql`alter role current_user password ${sql.lit(changed)}`.execute(asA.db);
    const answer = await service.send('POST', `/tenants/${a.row.id}/rotate-password`, { token: service.operatorToken });
    expect(answer.status, answer.text).toBe(204);
    const again = await reach(service, a.row);
    const handle = enter(again);
    await sql`select 1`.execute(handle.db);
    await handle.close(0);
  });
});

async function backendOf(db: Kysely<unknown>): Promise<number | undefined> {
  const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(db);
  return rows[0]?.pid;
}
