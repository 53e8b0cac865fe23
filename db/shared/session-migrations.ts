// Steps of migrations that the registry and tenants' databases share: both have a table of sessions.
import { sql, type Kysely } from 'kysely';

/** @param accounts the table of the accounts that sign in */
export async function createSessions(db: Kysely<unknown>, accounts: 'users' | 'operators'): Promise<void> {
  await sql`
    create table sessions (
      id uuid primary key,
      account_id uuid not null references ${sql.table(accounts)} on delete cascade,
      address text not null,
      user_agent text not null,
      token_hash text not null,
      previous_hash text,
      step text,
      created_at timestamptz(3) not null default now(),
      refreshed_at timestamptz(3) not null default now(),
      expires_at timestamptz(3) not null
    )`.execute(db);
  await sql`create index sessions_account_id on sessions (account_id, refreshed_at)`.execute(db);
  await sql`create index sessions_expires_at on sessions (expires_at)`.execute(db);
}

export async function addSessionColumns(db: Kysely<unknown>): Promise<void> {
  // Null in an operator's session, and in a session that a former build began.
  await sql`
    alter table sessions
      add column generation bigint,
      add column replaced_hashes bytea not null default ''`.execute(db);
}
