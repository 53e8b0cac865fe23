// The registry's tables as Kysely sees them. Timestamps arrive as ISO 8601 text (db/driver/client.ts).
import type { ColumnType, Generated, GeneratedAlways, JSONColumnType } from 'kysely';
import type {
  CacheServersTable,
  ChangesTable,
  JobsTable,
  ReadCacheTable,
  ReplicasTable,
  ReportsTable,
  SlotLeasesTable,
  TenantCachesTable,
} from './fleet/fleet-tables.js';
import type { OperationsTable } from './operations/operations-table.js';
import type { RolloutItemsTable, RolloutsTable } from './rollouts/rollouts-table.js';
import type { AuditTable, SessionsTable, Timestamp } from '../shared/shared-tables.js';

export type TenantStatus = 'provisioning' | 'active' | 'suspended' | 'deleted' | 'deleting';

/** A tenant's own bounds for its pool, as stored. An absent key has the service's default. Times in milliseconds. */
export interface StoredPoolOptions {
  readonly max?: number;
  readonly acquireTimeout?: number;
  readonly timeout?: number;
  readonly idleTimeoutMillis?: number;
}

/** A change of pool options: null resets a key to its default. */
export type PoolOptionChanges = {
  readonly [Key in keyof StoredPoolOptions]?: StoredPoolOptions[Key] | null | undefined;
};

export interface TenantsTable {
  id: string;
  name: string;
  slug: string;
  status: TenantStatus;
  /** True if and only if the status is `active`; PostgreSQL computes it. */
  active: GeneratedAlways<boolean>;
  db_host: string;
  db_port: number;
  db_name: string;
  db_user: string;
  /** Ciphertext (src/secrets/envelope.ts). */
  db_password: string;
  /** Ciphertext of the next password; set while the password is being changed. */
  next_db_password: string | null;
  /** When `next_db_password` was set; a trigger writes it. */
  next_password_since: ColumnType<string | null, never, never>;
  password_rotated_at: Timestamp;
  pool_options: JSONColumnType<StoredPoolOptions>;
  limits: ColumnType<StoredLimits, string | undefined, string>;
  /** Null if the tenant is older than the table of clusters and its cluster is not known yet. */
  cluster_id: string | null;
  /** When the tenant was deleted; until it is purged it can be restored. */
  deleted_at: string | null;
  /** The status that a restoration brings back. */
  status_before_deletion: 'active' | 'suspended' | null;
  /** The id of the operation that made the tenant, also in the mark of its database; null in a row of a former build. */
  claim: string | null;
  /** A trigger counts the changes of the status here. The mark of the database has the same number. */
  generation: Generated<number>;
  /** Whether a deleted tenant is being restored. */
  restoring: Generated<boolean>;
  /** The database that is being adopted; null in all other tenants. */
  adopts: string | null;
  /**
   * What happens to the database of a tenant that is being removed. Null drops a database that the service made, and keeps any
   * other.
   */
  on_purge: 'drop' | 'keep' | null;
  /** The newest migration that the tenant's database has run. */
  schema_version: string;
  /** A trigger raises it at every change of the slug, the status, the limits and the values that pools depend on. */
  epoch: Generated<number>;
  /** When the tenant was last signed out. Former builds compare it, and it is compared with the sessions that they began. */
  sessions_valid_from: string | null;
  /**
   * Grows with every sign-out of the tenant. Sessions with a smaller generation are not valid. It is here and not in the
   * tenant's database, because restoring that database from a backup brings sessions back.
   */
  sessions_generation: Generated<number>;
  created_at: Timestamp;
  updated_at: Timestamp;
}

/** A tenant's limits, as stored. An absent key has the service's default. */
export interface StoredLimits {
  readonly requestsPerSecond?: number;
  readonly connections?: number;
  /** ms. */
  readonly statementTimeout?: number;
  readonly users?: number;
  readonly products?: number;
  readonly storageBytes?: number;
}

/** A change of limits: null resets a key to its default. */
export type LimitChanges = { readonly [Key in keyof StoredLimits]?: StoredLimits[Key] | null | undefined };

export interface InstallationTable {
  id: string;
  only_one: Generated<boolean>;
  /** The key to seal passwords with; null before the first start that sets it. */
  encryption_kid: string | null;
  /** When this registry got its table of changes. For some time after, replicas of a former build publish with NOTIFY alone. */
  feed_since: Timestamp;
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
  /** PEM; null trusts the authorities that Node trusts. */
  tls_ca: string | null;
  connection_budget: number;
  connection_reserve: number;
  /** Its share of new tenants, relative to the other clusters. */
  weight: Generated<number>;
  /** Whether the cluster accepts new tenants. */
  accepting: Generated<boolean>;
  /** How many standby databases to keep ready. */
  standby_target: Generated<number>;
  created_at: Timestamp;
  updated_at: Timestamp;
}

/** A database that waits for its tenant. The tenant gets its id. */
export interface StandbyDatabasesTable {
  id: string;
  cluster_id: string;
  db_name: string;
  db_user: string;
  /** Ciphertext, like `db_password` of a tenant. */
  db_password: string;
  schema_version: string;
  /** Whether the database is complete and can be claimed. */
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

/** Requests with an Idempotency-Key that changed something here (db/registry/request-answers.ts). */
export interface RequestAnswersTable {
  id: Buffer;
  /** The caller's tenant; the nil UUID for operators. */
  owner: string;
  number: GeneratedAlways<string>;
  request_hash: string;
  /** The random id of the request that made the row. */
  claim: string;
  /** What the act changed, and which replicas' caches it concerns; null if it changed nothing. */
  target_id: string | null;
  cluster_id: string | null;
  tenant_id: string | null;
  /** The operation that the act began. */
  operation_id: string | null;
  /** The answer; null until it is stored. */
  status: number | null;
  headers: ColumnType<Readonly<Record<string, string>> | null, string | undefined, string>;
  body: string | null;
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

export interface CentralAuditTable extends AuditTable {
  /** The tenant that the act concerns. */
  tenant_id: string | null;
}

export interface Registry {
  installation: InstallationTable;
  clusters: ClustersTable;
  standby_databases: StandbyDatabasesTable;
  idempotency_keys: IdempotencyKeysTable;
  request_answers: RequestAnswersTable;
  tenants: TenantsTable;
  operators: OperatorsTable;
  sessions: SessionsTable;
  slot_leases: SlotLeasesTable;
  audit: CentralAuditTable;
  changes: ChangesTable;
  replicas: ReplicasTable;
  jobs: JobsTable;
  reports: ReportsTable;
  operations: OperationsTable;
  read_cache: ReadCacheTable;
  tenant_caches: TenantCachesTable;
  cache_servers: CacheServersTable;
  rollouts: RolloutsTable;
  rollout_items: RolloutItemsTable;
}
