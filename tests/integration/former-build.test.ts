// Expand, then contract: the statements of the former build run on this build's schema, because its replicas serve tenants that
// are migrated already.
import { CompiledQuery, sql, type Kysely } from 'kysely';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import type { DatabaseHandle } from '../../db/driver/client.js';
import { hasSqlState } from '../../db/driver/database-fault.js';
import { registryMigrations } from '../../db/registry/migrations/index.js';
import { grantServiceRights } from '../../db/registry/registry-grants.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { migrateToLatest, type Migration, type Migrations } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { grantRuntimeRights } from '../../db/tenant/tenant-grants.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { asSuperuser, connectAs } from '../support/app.js';
import { recordBuild } from '../support/record-build.js';
import { readFormerBuild, type RecordedBuild, type RecordedPart } from '../support/recorded-statements.js';

const former = await readFormerBuild();

const ROLE = `former_build_${process.pid}`;
const PASSWORD = 'the-former-build-1';
let made = 0;

beforeAll(() =>
  asSuperuser('postgres', (db) =>
    sql`create role ${sql.id(ROLE)} login password ${sql.lit(PASSWORD)}`.execute(db).then(() => undefined),
  ),
);
afterAll(() => asSuperuser('postgres', (db) => sql`drop role ${sql.id(ROLE)}`.execute(db).then(() => undefined)));

const grants = {
  tenant: (db: Kysely<unknown>) => grantRuntimeRights(db as Kysely<TenantDatabase>, ROLE),
  registry: (db: Kysely<unknown>) => grantServiceRights(db as Kysely<Registry>, ROLE),
};

/** The errors of rows that are missing, or there already: the parameters are of another database. */
const OF_ROWS = ['23503', '23505'];

/**
 * Runs every statement, with its recorded parameters, as the service's role in a database that has the migrations.
 *
 * @returns the statements that fail, with the reason
 */
async function failuresOn(
  part: keyof typeof grants,
  migrations: Migrations,
  build: RecordedBuild = former,
): Promise<string[]> {
  const name = `former_build_${process.pid}_${(made += 1)}`;
  await asSuperuser('postgres', (db) => sql`create database ${sql.id(name)}`.execute(db));
  try {
    await asSuperuser(name, async (db) => {
      await migrateToLatest(db, migrations);
      await grants[part](db);
    });
    const entered = connectAs<unknown>(name, { user: ROLE, password: PASSWORD });
    return await failuresIn(entered, build[part]).finally(() => entered.close(0));
  } finally {
    await asSuperuser('postgres', (db) => sql`drop database ${sql.id(name)} with (force)`.execute(db));
  }
}

async function failuresIn({ db }: DatabaseHandle<unknown>, { statements }: RecordedPart): Promise<string[]> {
  const failures: string[] = [];
  // One transaction, so that a row can refer to the row of an earlier statement.
  await db.transaction().execute(async (trx) => {
    for (const { text, values } of statements) {
      await sql`savepoint before`.execute(trx);
      try {
        await trx.executeQuery(CompiledQuery.raw(text, [...values]));
      } catch (error) {
        await sql`rollback to savepoint before`.execute(trx);
        if (!OF_ROWS.some((state) => hasSqlState(error, state))) failures.push(`${(error as Error).message}: ${text}`);
      }
    }
  });
  return failures;
}

/** The migrations up to the first that needs a newer build: after that one the former build refuses the database. */
function servedBy(build: RecordedPart, migrations: Migrations): Migrations {
  const all = Object.entries(migrations).sort(([one], [other]) => (one < other ? -1 : 1));
  const refusedFrom = all.findIndex(([, { needs = '' }]) => needs > build.schema);
  return Object.fromEntries(refusedFrom === -1 ? all : all.slice(0, refusedFrom));
}

const parts = [
  ['tenant', tenantMigrations, 'users', 'first_name'],
  ['registry', registryMigrations, 'tenants', 'slug'],
] as const;

describe.each(parts)('the former build’s statements in a %s database', (part, migrations, table, column) => {
  it('run on the newest schema that the former build serves', async () => {
    expect(former[part].statements.length).toBeGreaterThan(50);
    expect(Object.keys(migrations)).toContain(former[part].schema);
    expect(await failuresOn(part, servedBy(former[part], migrations))).toEqual([]);
  });

  const change = (text: string, more: Partial<Migration> = {}): Migrations => ({
    ...migrations,
    '9999_change': {
      up: async (db: Kysely<unknown>) => {
        await sql.raw(text).execute(db);
      },
      ...more,
    },
  });

  it.each([
    ['renames a column', `alter table ${table} rename ${column} to other`],
    ['adds a column that must be given', `alter table audit add given text not null`],
    ['narrows what a column may hold', `alter table audit add check (action = 'none') not valid`],
    ['renames a table', `alter table ${table} rename to others`],
  ])('fail here after a migration that %s', async (_, text) => {
    const changed = change(text);
    expect(await failuresOn(part, servedBy(former[part], changed))).not.toEqual([]);
  });

  it('do not count after a migration that needs a newer build', () => {
    const changed = change('select', { needs: '9999_change' });
    expect(Object.keys(servedBy(former[part], changed))).toEqual(Object.keys(migrations));
    const known = change('select', { needs: former[part].schema });
    expect(Object.keys(servedBy(former[part], known))).toContain('9999_change');
  });
});

it('statements are recorded from a build as it runs', async () => {
  const recorded = await recordBuild(inject('cluster'));
  for (const [part, migrations] of parts) {
    expect(recorded[part].statements.length).toBeGreaterThan(50);
    expect(await failuresOn(part, migrations, recorded)).toEqual([]);
  }
});
