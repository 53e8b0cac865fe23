// The registry's tables as Kysely sees them. Timestamps arrive as ISO 8601 text (db/client.ts).
import type { ColumnType, Generated, GeneratedAlways, JSONColumnType } from 'kysely';
import type { AuditTable } from '../audit.js';
import type { SessionsTable } from '../sessions.js';

/** Written by the database, or given as ISO 8601. */
export type Timestamp = ColumnType<string, string | undefined, string>;

export type TenantStatus = 'provisioning' | 'active' | 'suspended' | 'deleting';

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
  /** Ciphertext (src/tenancy/envelope.ts). */
  db_password: string;
  pool_options: JSONColumnType<StoredPoolOptions>;
  /** The newest migration that the tenant's database has run. */
  schema_version: string;
  /** Grows with every change of the connection settings or the status: counted by a trigger. */
  epoch: Generated<number>;
  /** Sessions from before do not count: a database that is restored from a backup would bring some back. */
  sessions_valid_from: string | null;
  created_at: Timestamp;
  updated_at: Timestamp;
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
  tenants: TenantsTable;
  operators: OperatorsTable;
  sessions: SessionsTable;
  slot_leases: SlotLeasesTable;
  audit: CentralAuditTable;
}
