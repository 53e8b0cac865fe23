// Kysely's types of the tables that the registry and every tenant's database share: audit and sessions. The file has types only
// and is below both schemas, so that no schema imports the queries of its tables.
import type { ColumnType, JSONColumnType, Kysely } from 'kysely';

/** Set by the database, or given as ISO 8601. */
export type Timestamp = ColumnType<string, string | undefined, string>;

export interface AuditTable {
  id: string;
  at: ColumnType<string, never, never>;
  actor_kind: 'user' | 'operator' | 'none';
  actor_id: string | null;
  action: string;
  target_kind: string | null;
  target_id: string | null;
  address: string | null;
  user_agent: string | null;
  request_id: string | null;
  details: JSONColumnType<Record<string, unknown>>;
}

export interface WithAudit {
  audit: AuditTable;
}

export interface SessionsTable {
  id: string;
  /** The id of the user or the operator. */
  account_id: string;
  /** The address that the sign-in came from. */
  address: string;
  user_agent: string;
  /** The hash of the current refresh token. */
  token_hash: string;
  /** The hash of the previous refresh token, and the step from which the current token was made. */
  previous_hash: string | null;
  step: string | null;
  /** The first SHORT_HASH bytes of the hash of each replaced token, the newest last. */
  replaced_hashes: ColumnType<Buffer, never, Buffer>;
  /**
   * The tenant's generation of sessions at the sign-in (db/registry/registry-schema.ts). Null in an operator's session, and in a
   * session that a former build began.
   */
  generation: ColumnType<string | null, number | null, never>;
  created_at: ColumnType<string, never, never>;
  refreshed_at: ColumnType<string, never, string>;
  expires_at: ColumnType<string, string, string>;
}

/** Acts on sessions are audited in the same database. */
export interface WithSessions extends WithAudit {
  sessions: SessionsTable;
}

/** A database with sessions, reduced to the tables that the queries on sessions need. */
export type SessionsDatabase = Kysely<WithSessions>;
