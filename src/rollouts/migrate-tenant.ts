// Brings the database of one tenant to this build's schema. It can be repeated: the database's own record says what has run there.
import type { Kysely } from 'kysely';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { whileOpenToOwner } from '../../db/server/access.js';
import { glanceAt, listWrongRights } from '../../db/server/content-rights.js';
import { latestVersion, runMigrations, type MigrationOptions, type Migrations } from '../../db/shared/migrator.js';
import { grantRuntimeRights } from '../../db/tenant/tenant-grants.js';
import { claimMarked, look } from '../operations/evidence.js';
import { PlainError } from '../jobs/plain-words.js';
import { databaseIs } from '../tenants/tenant-states.js';
import type { TenantLocks } from '../tenants/tenant-locks.js';
import type { FleetServer } from './fleet-servers.js';

export interface MigratingDeps {
  readonly registry: Kysely<Registry>;
  readonly locks: TenantLocks;
  readonly installation: string;
  readonly migrations: Migrations;
}

/**
 * - `migrated`: the database has the newest schema. `renews`: a migration has run after which some builds cannot work with it.
 * - `newer`: a newer build has migrated it. It is left as it is.
 * - `gone`: the tenant has no database any more.
 */
export type Migrated =
  { readonly state: 'migrated'; readonly renews: boolean } | { readonly state: 'newer' } | { readonly state: 'gone' };

/**
 * Migrates the database, and renews the rights in it. The tenant's row in the registry stays as it is.
 *
 * @throws the error of its database or of the registry; HistoryDiffers
 */
export async function migrateTenant(
  { registry, locks, installation, migrations }: MigratingDeps,
  server: FleetServer,
  tenant: TenantRecord,
  options: MigrationOptions,
): Promise<Migrated> {
  const migrate = (): Promise<Migrated> =>
    server.inDatabase(tenant.dbName, async (db) => {
      const { ran, newer } = await runMigrations(db, migrations, { ...options, behind: true, closes: true });
      // The grants are on all tables. Which rights the tables of a newer build need, only that build knows.
      if (newer.length > 0) return { state: 'newer' };
      const { rightsAreRight, marker } = await glanceAt(db, tenant.dbUser);
      // A GRANT writes to the catalog row of each table. Few migrations make a table.
      if (!rightsAreRight && (await listWrongRights(db, tenant.dbUser)).length > 0)
        await grantRuntimeRights(db, tenant.dbUser);
      await claimMarked(db, tenant, marker);
      return { state: 'migrated', renews: renews(migrations, ran, tenant) };
    });
  // A suspended or deleted tenant is migrated too; otherwise this build could not resume it.
  return databaseIs[tenant.status] === 'open'
    ? migrate()
    : locks.hold(tenant.id, () => migrateClosed({ registry, installation }, server, tenant, migrate));
}

/** An earlier attempt may have run some of the migrations, and may have ended before the row was changed. */
function renews(migrations: Migrations, ran: readonly string[], { schemaVersion }: TenantRecord): boolean {
  const since = Object.keys(migrations).filter((name) => name > schemaVersion && name <= latestVersion(migrations));
  return [...ran, ...since].some((name) => migrations[name]?.needs !== undefined);
}

/** Reads the tenant's state within its lock: it may have been resumed, or purged, since it was listed. */
async function migrateClosed(
  { registry, installation }: Pick<MigratingDeps, 'registry' | 'installation'>,
  server: FleetServer,
  { id, dbName }: TenantRecord,
  migrate: () => Promise<Migrated>,
): Promise<Migrated> {
  const now = await findTenant(registry, id);
  const database = now && databaseIs[now.status];
  if (database === 'open') return migrate();
  if (!now || database !== 'closed') return { state: 'gone' };
  const seen = await look(server, now, installation);
  if (seen?.verdict === 'newer' || seen?.verdict === 'foreign')
    throw new PlainError('its database carries a mark of a later change, or of another tenant, and is not opened');
  return whileOpenToOwner(server.cluster, dbName, migrate);
}
