// The registry's tables by which replicas work together, as Kysely sees them: what changed, who serves, what each replica holds,
// where answers are cached, jobs, and what jobs found.
import type { ColumnType, Generated, GeneratedAlways, JSONColumnType } from 'kysely';
import type { Timestamp } from '../../shared/shared-tables.js';

/** The changes that replicas publish to each other (db/registry/feed-rows.ts). */
export interface ChangesTable {
  seq: GeneratedAlways<string>;
  /** The transaction that wrote the row: an xid8. */
  xid: ColumnType<string, never, never>;
  message: string;
  at: ColumnType<string, never, never>;
}

/** The purpose of connections to a cluster: tenant pools, or the work that makes, changes and removes tenants. */
export type SlotKind = 'tenants' | 'reserve';

export interface SlotLeasesTable {
  /** `host:port`. */
  cluster: string;
  kind: SlotKind;
  replica_id: string;
  budget: number;
  slots: number;
  wanted: number;
  renewed_at: Timestamp;
}

/** A replica that serves, or has served within the last hour (db/registry/replica-rows.ts). */
export interface ReplicasTable {
  id: string;
  version: string;
  node: string;
  host: string;
  started_at: Timestamp;
  seen_at: Timestamp;
  /** ms by which the replica's clock is ahead of the registry's; null if it does not know. */
  clock_skew: number | null;
  /** Why the replica should get no requests; null if it is ready. */
  not_ready: string | null;
  /** Slots in use, by `<kind> <host:port>`. */
  slots_used: JSONColumnType<Readonly<Record<string, number>>>;
  /** The schema of tenants that the replica's build makes; null if a former build wrote the row. */
  schema_version: string | null;
  /** The id of `read_cache` that the replica knows; null if the replica takes no part in caching answers. */
  cache_id: string | null;
  /** How long (ms) the replica may acknowledge writes after `seen_at`; null if a former build wrote the row. */
  acts_for: string | number | null;
}

/** The store that all replicas cache answers in: one row (db/registry/fleet/read-cache-rows.ts). */
export interface ReadCacheTable {
  only_one: Generated<boolean>;
  /** Part of every key. Each change of the store makes another id. */
  id: string;
  /** `none`, or the identity of the store. */
  store: string;
  /** The `source` of the feed (db/registry/feed-rows.ts) when the row was written. Another registry makes the row void. */
  source: string;
  changed_at: Timestamp;
}

/** The process of PostgreSQL that answers at a place (db/registry/fleet/cache-servers.ts). */
export interface CacheServersTable {
  /** `host:port`. */
  id: string;
  /** When the process started: another process is another server. */
  server: string;
  /** Part of every key. Each change of the server makes another one. */
  generation: Generated<string>;
}

/**
 * - `on`: answers are cached.
 * - `off`: answers are not cached, and writers invalidate nothing.
 * - `rising`: answers are not cached, and writers invalidate again.
 */
export type TenantCacheState = 'on' | 'off' | 'rising';

/** How the answers of a tenant are cached. A tenant without a row is `on`. */
export interface TenantCachesTable {
  /** The id of the tenant. */
  id: string;
  state: TenantCacheState;
  /** Part of every key; raised when the tenant becomes `on` again. */
  generation: number;
  /** Whether an operator allows it. */
  wanted: Generated<boolean>;
  changed_at: Timestamp;
}

/** A job of the fleet (db/registry/job-rows.ts). */
export interface JobsTable {
  name: string;
  every: string | number;
  running_on: string | null;
  running_since: string | null;
  last_run_at: string | null;
  last_run_on: string | null;
  last_duration: string | number | null;
  last_success_at: string | null;
  failures_in_a_row: Generated<number>;
  last_error: string | null;
}

/**
 * - `evidence`: the mark of a tenant's database and the tenant's row do not allow what the row requires.
 * - `orphan`: a database or a role carries our mark, may belong to a tenant, and no row names it.
 */
export type ReportKind = 'evidence' | 'orphan';

/** A database that is left as it is until a person acts. */
export interface ReportsTable {
  kind: ReportKind;
  /** The tenant's id; for an orphan the cluster's id and the name. */
  subject: string;
  tenant_id: string | null;
  /** The generation of the tenant's row. A person's act raises it, and the report no longer counts. */
  generation: number | null;
  database: string;
  why: string;
  first_at: Timestamp;
  seen_at: Timestamp;
}
