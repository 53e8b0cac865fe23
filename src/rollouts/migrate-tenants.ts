// Brings the databases of all tenants to this build's schema: the servers side by side, and on each server a few at a time. A tenant
// that fails does not stop the others, and is tried once more after them.
import type { Kysely } from 'kysely';
import type { Registry } from '../../db/registry/registry-schema.js';
import {
  findTenant,
  listProvisionedTenants,
  recordSchema,
  type TenantRecord,
} from '../../db/registry/tenant-queries.js';
import { whileOpenToOwner } from '../../db/server/access.js';
import { HistoryDiffers } from '../../db/shared/migration-history.js';
import { latestVersion, migrateToLatest, newerMigrations, type MigrationOptions } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { grantRuntimeRights } from '../../db/tenant/tenant-grants.js';
import { claimWithin, look } from '../operations/evidence.js';
import { PlainError } from '../jobs/plain-words.js';
import { databaseIs } from '../tenants/tenant-states.js';
import type { TenantLocks } from '../tenants/tenant-locks.js';
import type { FleetServer, FleetServers } from './fleet-servers.js';
import { settleOlderMaking } from './older-stock.js';

export interface FailedTenant {
  readonly tenant: TenantRecord;
  readonly error: unknown;
}

export interface MigratedTenants {
  readonly migrated: number;
  /** Those that had the newest schema already. */
  readonly current: number;
  readonly failed: readonly FailedTenant[];
  /** Those that are behind on servers that have failed. */
  readonly unreached: number;
  /** Tenants of an older schema that an older build is still making. */
  readonly unfinished: number;
}

/** Called after each attempt. `done` of `all` tenants that are behind are migrated, or have failed for good. */
export type TenantProgress = (
  tenant: TenantRecord,
  outcome: { readonly done: number; readonly all: number; readonly error?: unknown; readonly again?: boolean },
) => void;

export interface TenantsToMigrate {
  readonly registry: Kysely<Registry>;
  readonly locks: TenantLocks;
  readonly servers: FleetServers;
  readonly installation: string;
}

const ATTEMPTS = 2;

/** Longest wait (ms) of a migration for its locks in the first attempt: the tenants after it wait meanwhile. */
const FIRST_PATIENCE = 3_000;

/** Times that the list of tenants is read. Tenants that appear later are for the next run. */
const MOST_ROUNDS = 10;

const version = latestVersion(tenantMigrations);

export async function migrateTenants(deps: TenantsToMigrate, progress: TenantProgress): Promise<MigratedTenants> {
  const { registry, servers } = deps;
  const attempts = new Map<string, number>();
  const failed = new Map<string, FailedTenant>();
  /** Tenants that are not tried again. */
  const lost = new Set<string>();
  let migrated = 0;
  let current: number | undefined;

  /** @param all the number of tenants that were behind, up to now */
  async function migrateOne(server: FleetServer, tenant: TenantRecord, all: number): Promise<void> {
    // The server may have failed since the list was made.
    if (!servers.of(tenant)) return;
    const attempt = (attempts.get(tenant.id) ?? 0) + 1;
    attempts.set(tenant.id, attempt);
    try {
      const options = attempt < ATTEMPTS ? { patience: FIRST_PATIENCE } : {};
      if (!(await migrateTenant(deps, server, tenant, options))) return;
      migrated += 1;
      progress(tenant, { done: migrated + lost.size, all });
    } catch (error) {
      failed.set(tenant.id, { tenant, error });
      // No second attempt can mend another history.
      const again = attempt < ATTEMPTS && !(error instanceof HistoryDiffers);
      if (!again) lost.add(tenant.id);
      progress(tenant, { done: migrated + lost.size, all, error, again });
      await servers.suspect(server, error);
    }
  }

  // Tenants are made meanwhile. So it lists again until all are at the newest schema, or have failed.
  for (let round = 1; ; round += 1) {
    const unfinished = await settleOlderMaking(registry);
    const all = await listProvisionedTenants(registry);
    const behind = all.filter((tenant) => tenant.schemaVersion < version);
    current ??= all.length - behind.length;
    const due = behind.filter(({ id }) => !lost.has(id) && (attempts.get(id) ?? 0) < ATTEMPTS);
    const groups = servers.group(due);
    if (groups.size === 0 || round > MOST_ROUNDS) {
      const reached = behind.filter((tenant) => servers.of(tenant));
      return {
        ...{ migrated, current, unfinished },
        // Another run may have migrated it, or it was purged.
        failed: reached.flatMap(({ id }) => failed.get(id) ?? []),
        unreached: behind.length - reached.length,
      };
    }
    const total = migrated + behind.length;
    await Promise.all(
      [...groups].map(([server, tenants]) =>
        severalAtOnce(server.atOnce, tenants, (tenant) => migrateOne(server, tenant, total)),
      ),
    );
  }
}

async function severalAtOnce<T>(atOnce: number, tasks: readonly T[], work: (task: T) => Promise<void>): Promise<void> {
  const waiting = tasks.values();
  const worker = async (): Promise<void> => {
    for (const task of waiting) await work(task);
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, tasks.length) }, worker));
}

interface Ran {
  /** A newer build has migrated the database. */
  readonly isNewer: boolean;
  /** A migration has run after which some builds cannot work with the database. */
  readonly renews: boolean;
}

/**
 * @returns whether the tenant is at the newest schema now, and was behind
 * @throws the error of its database or of the registry
 */
async function migrateTenant(
  { registry, locks, installation }: TenantsToMigrate,
  server: FleetServer,
  tenant: TenantRecord,
  options: MigrationOptions,
): Promise<boolean> {
  const migrate = (): Promise<Ran> =>
    server.inDatabase(tenant.dbName, async (db) => {
      const ran = await migrateToLatest(db, tenantMigrations, options);
      const renews = ran.some((name) => tenantMigrations[name]?.needs !== undefined);
      const isNewer = (await newerMigrations(db, tenantMigrations)).length > 0;
      // The grants are on all tables. Which rights the tables of a newer build need, only that build knows.
      if (isNewer) return { isNewer, renews };
      await grantRuntimeRights(db, tenant.dbUser);
      await claimWithin(db, tenant);
      return { isNewer, renews };
    });
  // A suspended or deleted tenant is migrated too; otherwise this build could not resume it.
  const ran =
    databaseIs[tenant.status] === 'open'
      ? await migrate()
      : await locks.hold(tenant.id, () => migrateClosed({ registry, installation }, server, tenant, migrate));
  if (!ran || ran.isNewer) return false;
  await recordSchema(registry, tenant.id, { version, renews: ran.renews });
  return true;
}

/**
 * Reads the tenant's state within its lock: it may have been resumed, or purged, since it was listed.
 *
 * @returns undefined if the tenant has no database any more
 */
async function migrateClosed(
  { registry, installation }: Pick<TenantsToMigrate, 'registry' | 'installation'>,
  server: FleetServer,
  { id, dbName }: TenantRecord,
  migrate: () => Promise<Ran>,
): Promise<Ran | undefined> {
  const now = await findTenant(registry, id);
  const database = now && databaseIs[now.status];
  if (database === 'open') return migrate();
  if (!now || database !== 'closed') return undefined;
  const seen = await look(server, now, installation);
  if (seen?.verdict === 'newer' || seen?.verdict === 'foreign')
    throw new PlainError('its database carries a mark of a later change, or of another tenant, and is not opened');
  return whileOpenToOwner(server.cluster, dbName, migrate);
}
