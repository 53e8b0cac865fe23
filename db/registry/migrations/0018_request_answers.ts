import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // Requests with an Idempotency-Key that changed something in the registry. The act's own transaction writes the row, and the
  // answer follows. `id` is a hash of caller, method, address and key. `owner` is the caller's tenant, or the nil UUID for
  // operators. With `number` the rows of an owner are counted without reading them all.
  await sql`
    create table request_answers (
      id bytea primary key check (length(id) = 32),
      owner uuid not null,
      number bigint generated always as identity,
      request_hash text not null check (length(request_hash) <= 200),
      claim uuid not null,
      target_id uuid,
      cluster_id uuid,
      tenant_id uuid,
      operation_id uuid,
      status smallint check (status between 200 and 299),
      headers jsonb check (jsonb_typeof(headers) = 'object'),
      body text,
      created_at timestamptz(3) not null default now(),
      constraint request_answers_whole_check
        check ((status is null) = (headers is null) and (status is null) = (body is null))
    )`.execute(db);
  await sql`create index request_answers_owner on request_answers (owner, number)`.execute(db);
  await sql`create index request_answers_created_at on request_answers (created_at)`.execute(db);
}
