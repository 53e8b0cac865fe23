// One attempt at an item of a rollout: migrates the tenant's database, and says how the attempt ended. It records nothing.
//
//     tenant is gone, or a newer build has migrated it ───────────────────> skipped
//     its row says that it is at the target ──────────────────────────────> done, without a connection
//     migrated, or its own record says that it was ───────────────────────> done
//     the history differs ────────────────────────────────────────────────> failed: no second attempt can mend that
//     the server or the registry is away, or its reserve is in use ───────> released: that was no attempt
//     any other error ── of the first attempt ────────────────────────────> again, after the others
//                     └─ of the second ───────────────────────────────────> failed
import type { ClaimedItem, SettledItem } from '../../db/registry/rollouts/rollout-claims.js';
import { pingRegistry, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { pingServer } from '../../db/server/cluster-inspection.js';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { HistoryDiffers } from '../../db/shared/migration-history.js';
import { latestVersion } from '../../db/shared/migrator.js';
import type { FleetServer } from './fleet-servers.js';
import { migrateTenant, type MigratingDeps } from './migrate-tenant.js';
import { reasonOf } from './reasons.js';

export const ATTEMPTS = 2;

/** Longest wait (ms) of a migration for its locks in the first attempt: the tenants after it wait meanwhile. */
const FIRST_PATIENCE = 3_000;

/** An item is not released more often in a row: then its own database is what gives no connection. */
const MOST_RELEASES = 5;

export interface Attempted extends SettledItem {
  readonly tenant: TenantRecord | undefined;
  readonly cause?: unknown;
  /** Why the item was released. */
  readonly server?: { readonly is: 'away' | 'busy'; readonly error: unknown };
}

/** @param releases how often the item was released before. Never rejects. */
export async function attemptItem(
  deps: MigratingDeps,
  server: FleetServer,
  { tenantId, place, attempts, tenant }: ClaimedItem,
  releases: number,
): Promise<Attempted> {
  const began = performance.now();
  const end = (
    outcome: SettledItem['outcome'],
    more: { error?: string; renews?: boolean } & Pick<Attempted, 'cause' | 'server'> = {},
  ): Attempted => {
    const { error = null, renews = false, ...rest } = more;
    return { tenantId, tenant, outcome, error, renews, duration: performance.now() - began, ...rest };
  };
  const gone = { error: 'the tenant was purged' };
  if (!tenant) return end('skipped', gone);
  if (tenant.schemaVersion >= latestVersion(deps.migrations)) return end('done');
  // The tenant has moved to another server: settling follows it.
  if (place !== `${tenant.dbHost}:${tenant.dbPort}`) return end('released');
  try {
    const options = attempts + 1 < ATTEMPTS ? { patience: FIRST_PATIENCE } : {};
    const migrated = await migrateTenant(deps, server, tenant, options);
    if (migrated.state === 'gone') return end('skipped', gone);
    if (migrated.state === 'newer') return end('skipped', { error: 'a newer build has migrated its database' });
    return end('done', { renews: migrated.renews });
  } catch (cause) {
    const failure = { error: reasonOf(cause), cause };
    if (cause instanceof HistoryDiffers) return end('failed', failure);
    const why = await notItsFault(deps, server, cause, releases);
    if (why) return end('released', { ...failure, server: why });
    return end(attempts + 1 < ATTEMPTS ? 'again' : 'failed', failure);
  }
}

/** If nothing was answered: whether the whole server is away, or gives no connection, or the registry is away. */
async function notItsFault(
  { registry }: MigratingDeps,
  { cluster }: FleetServer,
  cause: unknown,
  releases: number,
): Promise<Attempted['server']> {
  if (!(cause instanceof DatabaseFault) || cause.answered) return undefined;
  try {
    await pingServer(cluster);
  } catch (error) {
    return { is: 'away', error };
  }
  if (releases >= MOST_RELEASES) return undefined;
  if (cause.kind === 'busy') return { is: 'busy', error: cause };
  try {
    await pingRegistry(registry);
    return undefined;
  } catch (error) {
    return { is: 'busy', error };
  }
}
