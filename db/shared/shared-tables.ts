// The tables that the registry and every tenant's database have, as Kysely sees them: audit and sessions. Types alone, below
// both schemas, so that no schema imports the queries of its tables.
import type { ColumnType, JSONColumnType, Kysely } from 'kysely';

export interface AuditTable {
  id: string;
  at: ColumnType<string, string | undefined, never>;
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
  /** The user, or the operator. */
  account_id: string;
  /** Where it was signed in from. */
  address: string;
  user_agent: string;
  /** Of the refresh token that works now. */
  token_hash: string;
  /** Of the one that it came from, and what the step between them was made with. */
  previous_hash: string | null;
  step: string | null;
  /** Beginnings of the hashes of the tokens that it replaced, each of SHORT_HASH bytes, the newest last. */
  replaced_hashes: ColumnType<Buffer, never, Buffer>;
  /** Its tenant's at the sign-in (db/registry/registry-schema.ts); null in an operator's session, and in one that a former build began. */
  generation: ColumnType<string | null, number | null, never>;
  created_at: ColumnType<string, never, never>;
  refreshed_at: ColumnType<string, never, string>;
  expires_at: ColumnType<string, string, string>;
}

/** What is done to a session is audited beside it. */
export interface WithSessions extends WithAudit {
  sessions: SessionsTable;
}

/** A database that holds sessions, as far as they are concerned. */
export type SessionsDatabase = Kysely<WithSessions>;
