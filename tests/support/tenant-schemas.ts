// Tenants whose databases have the schema of another build.
import { sql } from 'kysely';
import { migrateToLatest, type Migrations } from '../../db/shared/migrator.js';
import { writeMarker } from '../../db/tenant/marker.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { schemaIs } from '../../db/tenant/served-schemas.js';
import { grantRuntimeRights } from '../../db/tenant/tenant-grants.js';
import { setRoles } from '../../db/tenant/user-roles.js';
import { insertUser } from '../../db/tenant/user-queries.js';
import { openProvisioner } from '../../src/clusters/provisioner-connections.js';
import { ADMIN, type TestService } from './service.js';
import { rowOf } from './tenants.js';

type Service = Pick<TestService, 'app' | 'config'>;

/** Whether this build serves tenants whose newest migration is the one of this name. */
export function isServed(name: string): boolean {
  return schemaIs({ name, needs: undefined }) === 'served';
}

/** The tenants' migrations up to the one of this name. */
export function migrationsUpTo(last: string): Migrations {
  return Object.fromEntries(Object.entries(tenantMigrations).filter(([name]) => name <= last));
}

/** The tenants' migrations that come before the one of this name. */
export function migrationsBefore(next: string): Migrations {
  return Object.fromEntries(Object.entries(tenantMigrations).filter(([name]) => name < next));
}

/** Makes a tenant's database again, as a build with these migrations makes it. ADMIN is its only user. */
export async function rebuildDatabase(
  service: Service,
  tenant: { readonly id: string },
  migrations: Migrations,
): Promise<void> {
  const row = await rowOf(service, tenant);
  const passwordHash = await service.app.engine.passwords.hash(ADMIN.password, tenant.id);
  await withProvisioner(service, async ({ inDatabase }) => {
    await inDatabase(row.dbName, async (db) => {
      await sql`drop schema migration cascade`.execute(db);
      const { rows } = await sql<{ table: string }>`
        select tablename as table from pg_tables where schemaname = 'public'`.execute(db);
      for (const { table } of rows) await sql`drop table ${sql.table(table)} cascade`.execute(db);
    });
  });
  await migrateTenant(service, tenant, migrations);
  await withProvisioner(service, ({ inDatabase }) =>
    inDatabase(row.dbName, (db) =>
      db.transaction().execute(async (trx) => {
        await writeMarker(trx, tenant.id);
        const { email, firstName, lastName } = ADMIN;
        await setRoles(trx, await insertUser(trx, { email, firstName, lastName, passwordHash }), ['admin']);
      }),
    ),
  );
}

/** Migrates a tenant's database as `npm run migrate` of a build with these migrations does. */
export async function migrateTenant(
  service: Service,
  tenant: { readonly id: string },
  migrations: Migrations = tenantMigrations,
): Promise<void> {
  const { dbName, dbUser } = await rowOf(service, tenant);
  await withProvisioner(service, ({ inDatabase }) =>
    inDatabase(dbName, async (db) => {
      await migrateToLatest(db, migrations);
      await grantRuntimeRights(db, dbUser);
    }),
  );
}

async function withProvisioner(
  { config }: Service,
  work: (provisioner: ReturnType<typeof openProvisioner>) => Promise<void>,
): Promise<void> {
  const provisioner = openProvisioner(config.tenants.provisioner, config.tenants.provisionerPool);
  await work(provisioner).finally(() => provisioner.close());
}
