import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table tenants (
      id uuid primary key,
      name text not null check (length(name) between 1 and 200),
      slug text not null constraint tenants_slug_key unique check (slug ~ '^[a-z0-9](-?[a-z0-9])*$' and length(slug) <= 63),
      status text not null check (status in ('provisioning', 'active', 'suspended', 'deleting')),
      active boolean not null generated always as (status = 'active') stored,
      db_host text not null,
      db_port integer not null check (db_port between 1 and 65535),
      db_name text not null,
      db_user text not null,
      db_password text not null,
      pool_options jsonb not null default '{}' check (jsonb_typeof(pool_options) = 'object'),
      schema_version text not null,
      epoch integer not null default 1,
      created_at timestamptz(3) not null default now(),
      updated_at timestamptz(3) not null default now(),
      unique (db_host, db_port, db_name)
    )`.execute(db);
  // Every sort that GET /tenants offers, with the id as the last key.
  await sql`create index tenants_created_at_id on tenants (created_at, id)`.execute(db);
  await sql`create index tenants_name_id on tenants (name, id)`.execute(db);
  await sql`
    create table operators (
      id uuid primary key,
      email text not null constraint operators_email_key unique check (email = lower(email)),
      password text not null,
      active boolean not null default true,
      created_at timestamptz(3) not null default now(),
      updated_at timestamptz(3) not null default now()
    )`.execute(db);
}
