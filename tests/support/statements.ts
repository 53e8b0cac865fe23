// Runs statements for tenants as the command does, without the command line, and what must be left of a run: nothing.
import { sql } from 'kysely';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import type { Engine } from '../../src/engine/index.js';
import type { StatementReport, StatementWish } from '../../src/fleet-statements/statement-wish.js';
import type { Totals, ResultLine } from '../../src/fleet-statements/tenant-results.js';
import { asSuperuser } from './app.js';

export interface StatementRun {
  readonly report: StatementReport;
  readonly lines: readonly ResultLine[];
  /** Of the dry run. */
  readonly dryLines: readonly ResultLine[];
}

const DEFAULTS = { write: false, limitRows: 100, timeout: 15_000, selection: { statuses: ['active'] as const } };

/** Runs a statement to its end. @param confirm called after the dry run */
export async function runStatement(
  engine: Engine,
  statement: string,
  wish: Partial<StatementWish> = {},
  confirm: (totals: Totals) => Promise<void> = () => Promise.resolve(),
): Promise<StatementRun> {
  const lines: ResultLine[] = [];
  const dryLines: ResultLine[] = [];
  const report = await engine.fleetStatements.run(
    { ...DEFAULTS, statement, signal: new AbortController().signal, ...wish },
    { actor: { kind: 'none' } },
    {
      begins: () => undefined,
      line: (line, dry) => void (dry ? dryLines : lines).push(line),
      confirm,
    },
  );
  return { report, lines, dryLines };
}

/** Makes tenants whose admins never sign in. @returns their ids by slug */
export async function makeTenants(engine: Engine, slugs: readonly string[]): Promise<Map<string, string>> {
  const admin = { email: 'ada@example.com', firstName: 'Ada', lastName: 'Admin', passwordHash: 'a hash of a password' };
  const made = new Map<string, string>();
  for (const slug of slugs) {
    const wish = { name: slug, slug, poolOptions: {}, admin };
    made.set(slug, (await engine.provisioning.create(wish, { actor: { kind: 'none' } })).id);
  }
  return made;
}

/** How many statements that read run in these databases: they read from a cursor. */
export async function statementsRunning(databases: readonly string[]): Promise<number> {
  return asSuperuser('postgres', async (db) => {
    const { rows } = await sql`
      select from pg_stat_activity where datname = any(${databases}) and state = 'active' and query like 'fetch forward%'`.execute(
      db,
    );
    return rows.length;
  });
}

/** The prices of all products of a tenant. */
export async function pricesIn({ dbName }: Pick<TenantRecord, 'dbName'>): Promise<string[]> {
  return asSuperuser(dbName, async (db) => {
    const { rows } = await sql<{ price: string }>`select price from products order by price`.execute(db);
    return rows.map(({ price }) => price);
  });
}

/** Leaves one product, which costs 10. */
export async function oneProductIn({ dbName }: Pick<TenantRecord, 'dbName'>): Promise<void> {
  await asSuperuser(dbName, async (db) => {
    await sql`delete from products`.execute(db);
    await sql`insert into products (id, name, price) values (gen_random_uuid(), 'Lamp', 10)`.execute(db);
  });
}

/** Everything of a tenant's database that a statement could change: rows, rights, objects, settings. */
export async function contentOf({ dbName, dbUser }: Pick<TenantRecord, 'dbName' | 'dbUser'>): Promise<unknown> {
  return asSuperuser(dbName, async (db) => {
    const { rows } = await sql`
      select (select json_agg(p order by id) from products p) as products, (select json_agg(u order by id) from users u) as users,
        (select json_agg(s order by id) from sessions s) as sessions,
        (select json_agg(a order by id) from audit a) as audit,
        (select json_agg(m) from tenant_marker m) as marker,
        (select json_agg(json_build_array(relname, relacl, relkind) order by relname) from pg_class
          where relnamespace = 'public'::regnamespace) as relations,
        (select json_agg(json_build_array(attrelid::regclass, attname, attacl) order by attrelid, attnum) from pg_attribute
          where attacl is not null) as columns,
        (select nspacl from pg_namespace where nspname = 'public') as schema,
        (select json_agg(oid) from pg_largeobject_metadata) as objects,
        (select json_build_array(datacl, datallowconn) from pg_database where datname = current_database()) as database,
        (select json_agg(setconfig) from pg_db_role_setting s join pg_database d on d.oid = setdatabase
          where datname = current_database()) as settings,
        (select json_build_array(rolcanlogin, rolconfig, rolconnlimit) from pg_roles where rolname = ${dbUser}) as role`.execute(
      db,
    );
    return rows[0];
  });
}

/** The guests of an engine's installation, on the shared server. */
export async function guestsOf(engine: Engine): Promise<string[]> {
  const installation = await engine.installation();
  return asSuperuser('postgres', async (db) => {
    const { rows } = await sql<{ name: string }>`
      select rolname as name from pg_roles where shobj_description(oid, 'pg_authid') like ${`tenantry-each ${installation} %`}`.execute(
      db,
    );
    return rows.map(({ name }) => name);
  });
}
