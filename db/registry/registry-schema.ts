// The registry's tables as Kysely sees them. Timestamps arrive as ISO 8601 text (db/driver/client.ts).
import type { ColumnType, Generated, GeneratedAlways, JSONColumnType } from 'kysely';
import type { AuditTable, SessionsTable } from '../shared/shared-tables.js';

/** Written by the database, or given as ISO 8601. */
export type Timestamp = ColumnType<string, string | undefined, string>;

export type TenantStatus = 'provisioning' | 'active' | 'suspended' | 'deleted' | 'deleting';

/** A tenant's own bounds for its pool, as stored: what is absent has the service's default. Times in milliseconds. */
export interface StoredPoolOptions {
  readonly max?: number;
  readonly acquireTimeout?: number;
  readonly timeout?: number;
  readonly idleTimeoutMillis?: number;
}

/** A change of those: null takes a key back to the default. */
export type PoolOptionChanges = {
  readonly [Key in keyof StoredPoolOptions]?: StoredPoolOptions[Key] | null | undefined;
};

export interface TenantsTable {
  id: string;
  name: string;
  slug: string;
  status: TenantStatus;
  /** True exactly when status is active: computed by PostgreSQL. */
  active: GeneratedAlways<boolean>;
  db_host: string;
  db_port: number;
  db_name: string;
  db_user: string;
  /** Ciphertext (src/secrets/envelope.ts). */
  db_password: string;
  /** Ciphertext of the one that takes its place; set while it is being changed. */
  next_db_password: string | null;
  password_rotated_at: Timestamp;
  pool_options: JSONColumnType<StoredPoolOptions>;
  limits: ColumnType<StoredLimits, string | undefined, string>;
  /** Null until the cluster of a tenant from before there were clusters is known. */
  cluster_id: string | null;
  /** Since when it is deleted, and may still be restored. */
  deleted_at: string | null;
  /** What a restoration brings back. */
  status_before_deletion: 'active' | 'suspended' | null;
  /** The id of the operation that made the tenant, as the mark of its database has it; null in a row of a former build. */
  claim: string | null;
  /** Counts changes of the status, by a trigger; the mark of the database has the same number. */
  generation: Generated<number>;
  /** Whether a deleted tenant is being restored. */
  restoring: Generated<boolean>;
  /** The database that is being adopted; null in every other tenant. */
  adopts: string | null;
  /** What happens to the database of a tenant that is being removed; null drops what the service made, and keeps the rest. */
  on_purge: 'drop' | 'keep' | null;
  /** The newest migration that the tenant's database has run. */
  schema_version: string;
  /** Grows with every change of the slug, the status, the limits and what pools are built on: counted by a trigger. */
  epoch: Generated<number>;
  /** When the tenant was last signed out: former builds compare it, and sessions that they began are compared with it. */
  sessions_valid_from: string | null;
  /**
   * Grows with every sign-out of the tenant; sessions of a smaller one do not count. It is here and not in the tenant's
   * database, because a restored backup brings sessions back.
   */
  sessions_generation: Generated<number>;
  created_at: Timestamp;
  updated_at: Timestamp;
}

/** A tenant's limits, as stored: what is absent has the service's default. */
export interface StoredLimits {
  readonly requestsPerSecond?: number;
  readonly connections?: number;
  /** ms. */
  readonly statementTimeout?: number;
  readonly users?: number;
  readonly products?: number;
  readonly storageBytes?: number;
}

/** A change of those: null takes a key back to the default. */
export type LimitChanges = { readonly [Key in keyof StoredLimits]?: StoredLimits[Key] | null | undefined };

export interface InstallationTable {
  id: string;
  only_one: Generated<boolean>;
  /** The key that passwords are to be sealed with; null before the first start that says so. */
  encryption_kid: string | null;
  /** When this registry got its table of changes: for some time after, replicas of a former build publish by NOTIFY alone. */
  feed_since: Timestamp;
}

/** What replicas tell each other (db/registry/feed-rows.ts). */
export interface ChangesTable {
  seq: GeneratedAlways<string>;
  /** The transaction that wrote it: an xid8. */
  xid: ColumnType<string, never, never>;
  message: string;
  at: ColumnType<string, never, never>;
}

/** A PostgreSQL server that can hold tenants' databases. */
export interface ClustersTable {
  id: string;
  name: string;
  host: string;
  port: number;
  region: string | null;
  provisioner_user: string;
  /** Ciphertext (src/secrets/envelope.ts). */
  provisioner_password: string;
  tls: 'off' | 'verify-full';
  /** PEM; null trusts what Node trusts. */
  tls_ca: string | null;
  connection_budget: number;
  connection_reserve: number;
  /** Its share of new tenants, beside the others'. */
  weight: Generated<number>;
  /** Whether new tenants are put on it. */
  accepting: Generated<boolean>;
  /** Standby databases to keep ready. */
  standby_target: Generated<number>;
  created_at: Timestamp;
  updated_at: Timestamp;
}

/** A database that waits for its tenant, whose id is its own. */
export interface StandbyDatabasesTable {
  id: string;
  cluster_id: string;
  db_name: string;
  db_user: string;
  /** Ciphertext, as in tenants. */
  db_password: string;
  schema_version: string;
  /** Whether it is complete and can be claimed. */
  ready: Generated<boolean>;
  created_at: Timestamp;
}

export interface IdempotencyKeysTable {
  operator_id: string;
  key: string;
  request_hash: string;
  tenant_id: string;
  created_at: Timestamp;
}

export interface OperatorsTable {
  id: string;
  email: string;
  /** argon2id, in the PHC string format. */
  password: string;
  active: Generated<boolean>;
  created_at: Timestamp;
  updated_at: Timestamp;
}

/** What a connection to a cluster is for: tenant pools, or whatever makes, changes and removes tenants. */
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

export interface CentralAuditTable extends AuditTable {
  /** The tenant that it concerns. */
  tenant_id: string | null;
}

export interface Registry {
  installation: InstallationTable;
  clusters: ClustersTable;
  standby_databases: StandbyDatabasesTable;
  idempotency_keys: IdempotencyKeysTable;
  tenants: TenantsTable;
  operators: OperatorsTable;
  sessions: SessionsTable;
  slot_leases: SlotLeasesTable;
  audit: CentralAuditTable;
  changes: ChangesTable;
}
