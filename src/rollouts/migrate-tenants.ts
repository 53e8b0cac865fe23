// Brings the databases of all tenants to this build's schema: the servers side by side, and on each server a few at a time. A tenant
// that fails does not stop the others, and is tried once more after them.
import type { Kysely } from 'kysely';
import type { Registry } from '../../db/registry/registry-schema.js';
import {
  findTenant,
  listProvisionedTenants,
  updateTenant,
  type TenantRecord,
} from '../../db/registry/tenant-queries.js';
import { whileOpenToOwner } from '../../db/server/access.js';
import { latestVersion, migrateToLatest, type MigrationOptions } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { grantRuntimeRights } from '../../db/tenant/tenant-grants.js';
import { claimWithin, look } from '../operations/evidence.js';
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
  readonly servers: Pick<FleetServers, 'of' | 'errorOf' | 'group'>;
  readonly installation: string;
}

const ATTEMPTS = 2;

/** Longest wait (ms) of a migration for its locks in the first attempt: the tenants after it wait meanwhile. */
const FIRST_PATIENCE = 3_000;

const version = latestVersion(tenantMigrations);

export async function migrateTenants(deps: TenantsToMigrate, progress: TenantProgress): Promise<MigratedTenants> {
  const { registry } = deps;
  const attempts = new Map<string, number>();
  const failed = new Map<string, FailedTenant>();
  let migrated = 0;
  let current: number | undefined;

  /** @param all the number of tenants that were behind, up to now */
  async function migrateOne(tenant: TenantRecord, all: number): Promise<void> {
    const attempt = (attempts.get(tenant.id) ?? 0) + 1;
    attempts.set(tenant.id, attempt);
    try {
      await migrateTenant(deps, tenant, attempt < ATTEMPTS ? { patience: FIRST_PATIENCE } : {});
      failed.delete(tenant.id);
      migrated += 1;
      progress(tenant, { done: migrated + lost(), all });
    } catch (error) {
      failed.set(tenant.id, { tenant, error });
      progress(tenant, { done: migrated + lost(), all, error, again: attempt < ATTEMPTS });
    }
  }

  /** Tenants that are not tried again. */
  const lost = (): number => [...failed.keys()].filter((id) => attempts.get(id) === ATTEMPTS).length;

  // Tenants are made meanwhile. So it lists again until all are at the newest schema, or have failed.
  for (;;) {
    const unfinished = await settleOlderMaking(registry);
    const all = await listProvisionedTenants(registry);
    const behind = all.filter((tenant) => tenant.schemaVersion < version);
    current ??= all.length - behind.length;
    const due = behind.filter(({ id }) => (attempts.get(id) ?? 0) < ATTEMPTS);
    if (due.length === 0) return { migrated, current, failed: [...failed.values()], unfinished };
    const total = migrated + behind.length;
    await Promise.all(
      [...deps.servers.group(due)].map(async ([server, tenants]) =>
        severalAtOnce(server?.atOnce ?? 1, tenants, (tenant) => migrateOne(tenant, total)),
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

/** @throws the error of its cluster, of its database or of the registry */
async function migrateTenant(deps: TenantsToMigrate, tenant: TenantRecord, options: MigrationOptions): Promise<void> {
  const { registry, locks, servers } = deps;
  const server = servers.of(tenant);
  if (!server) throw servers.errorOf(tenant);
  const migrate = (): Promise<void> =>
    server.inDatabase(tenant.dbName, async (db) => {
      await migrateToLatest(db, tenantMigrations, options);
      await grantRuntimeRights(db, tenant.dbUser);
      await claimWithin(db, tenant);
    });
  // A suspended or deleted tenant is migrated too; otherwise this build could not resume it.
  if (databaseIs[tenant.status] === 'open') await migrate();
  else await locks.hold(tenant.id, () => migrateClosed(deps, server, tenant, migrate));
  await updateTenant(registry, tenant.id, { schemaVersion: version }, ['active', 'suspended', 'deleted']);
}

/** Reads the tenant's state within its lock: it may have been resumed, or purged, since it was listed. */
async function migrateClosed(
  { registry, installation }: TenantsToMigrate,
  server: FleetServer,
  { id, dbName }: TenantRecord,
  migrate: () => Promise<void>,
): Promise<void> {
  const now = await findTenant(registry, id);
  const database = now && databaseIs[now.status];
  if (database === 'open') return migrate();
  if (!now || database !== 'closed') return;
  const seen = await look(server, now, installation);
  if (seen?.verdict === 'newer' || seen?.verdict === 'foreign')
    throw new Error(`its database carries the mark "${seen.found.text ?? ''}", and is not opened for this row`);
  await whileOpenToOwner(server.cluster, dbName, migrate);
}
