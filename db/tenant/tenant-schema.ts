// The tables of a tenant's database as Kysely sees them. Timestamps arrive as ISO 8601 text, numeric as decimal text.
import type { ColumnType, Generated, JSONColumnType } from 'kysely';
import type { AuditTable, SessionsTable, Timestamp } from '../shared/shared-tables.js';

export interface UsersTable {
  id: string;
  /** In lower case. */
  email: string;
  /** argon2id, in the PHC string format. */
  password: string;
  first_name: string;
  last_name: string;
  active: Generated<boolean>;
  created_at: Timestamp;
  updated_at: Timestamp;
}

export interface RolesTable {
  id: string;
  name: string;
  /** Built-in roles cannot be changed or removed. */
  built_in: Generated<boolean>;
  description: string | null;
  created_at: Timestamp;
  updated_at: Timestamp;
}

export interface RolePermissionsTable {
  role_id: string;
  /** `resource:action`. */
  permission: string;
}

export interface UserRolesTable {
  user_id: string;
  role_id: string;
}

export interface ProductsTable {
  id: string;
  name: string;
  description: string | null;
  /** Decimal text with two places. */
  price: ColumnType<string, string, string>;
  stock_quantity: Generated<number>;
  active: Generated<boolean>;
  sku: string | null;
  category: string | null;
  created_at: Timestamp;
  updated_at: Timestamp;
}

/** One row, which names the tenant. The runtime role can read it but not change it. */
export interface TenantMarkerTable {
  tenant_id: string;
  /** The id of the operation that made the tenant, also in the mark of the database. */
  claim: string | null;
}

/** Answers to requests with an Idempotency-Key. */
export interface IdempotencyKeysTable {
  /** SHA-256 of what makes two requests the same one (src/tenants/keyed-write.ts). */
  id: Buffer;
  /** A keyed hash of the request. */
  request_hash: string;
  status: number;
  headers: JSONColumnType<Record<string, string>>;
  body: string;
  /** What must be told to the other replicas, again with each repeated answer. */
  announcements: JSONColumnType<unknown[]>;
  created_at: Timestamp;
}

export interface TenantDatabase {
  tenant_marker: TenantMarkerTable;
  users: UsersTable;
  roles: RolesTable;
  role_permissions: RolePermissionsTable;
  user_roles: UserRolesTable;
  sessions: SessionsTable;
  products: ProductsTable;
  audit: AuditTable;
  idempotency_keys: IdempotencyKeysTable;
}
