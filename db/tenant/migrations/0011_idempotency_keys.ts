import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // Answers to requests with an Idempotency-Key. `id` is a hash of caller, method, path and key: a path can be longer than an entry
  // of an index.
  await sql`
    create table idempotency_keys (
      id bytea primary key check (length(id) = 32),
      request_hash text not null check (length(request_hash) <= 200),
      status smallint not null check (status between 200 and 299),
      headers jsonb not null check (jsonb_typeof(headers) = 'object'),
      body text not null,
      announcements jsonb not null check (jsonb_typeof(announcements) = 'array'),
      created_at timestamptz(3) not null default now()
    )`.execute(db);
  await sql`create index idempotency_keys_created_at on idempotency_keys (created_at)`.execute(db);
}
