import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`revoke all on schema public from public`.execute(db);
  // A key with only one possible value limits the table to one row.
  await sql`
    create table tenant_marker (
      only_row boolean primary key default true check (only_row),
      tenant_id uuid not null
    )`.execute(db);
  await sql`
    create table users (
      id uuid primary key,
      email text not null constraint users_email_key unique check (email = lower(email)),
      password text not null,
      first_name text not null,
      last_name text not null,
      active boolean not null default true,
      created_at timestamptz(3) not null default now(),
      updated_at timestamptz(3) not null default now()
    )`.execute(db);
  await sql`create index users_created_at_id on users (created_at, id)`.execute(db);
  await sql`
    create table roles (
      id uuid primary key,
      name text not null constraint roles_name_key unique,
      built_in boolean not null default false
    )`.execute(db);
  await sql`
    create table user_roles (
      user_id uuid not null references users on delete cascade,
      role_id uuid not null references roles on delete cascade,
      primary key (user_id, role_id)
    )`.execute(db);
  await sql`create index user_roles_role_id on user_roles (role_id)`.execute(db);
  // Fixed ids: each built-in role has the same id in every tenant, and tests can use it as a constant.
  await sql`
    insert into roles (id, name, built_in) values
      ('01900000-0000-7000-8000-000000000001', 'admin', true),
      ('01900000-0000-7000-8000-000000000002', 'member', true)`.execute(db);
}
