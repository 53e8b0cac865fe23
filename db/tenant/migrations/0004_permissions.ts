import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table roles
      add column description text,
      add column created_at timestamptz(3) not null default now(),
      add column updated_at timestamptz(3) not null default now()`.execute(db);
  await sql`create index roles_created_at_id on roles (created_at, id)`.execute(db);
  // The program has the list of permissions: a CHECK would have to be replaced for every new resource.
  await sql`
    create table role_permissions (
      role_id uuid not null references roles on delete cascade,
      permission text not null check (permission ~ '^[a-z]+:[a-z]+$'),
      primary key (role_id, permission)
    )`.execute(db);

  // If a role of this name was made by hand, it becomes the built-in role.
  await sql`
    insert into roles (id, name, built_in) values ('01900000-0000-7000-8000-000000000003', 'manager', true)
      on conflict (name) do update set built_in = true`.execute(db);
  await sql`
    update roles set description = case name
      when 'admin' then 'May do everything'
      when 'manager' then 'Manages products, and sees users, roles and the tenant'
      when 'member' then 'Works with products'
    end where built_in`.execute(db);
  await sql`
    insert into role_permissions (role_id, permission)
      select roles.id, permission from roles join (values
        ('admin', array['users:read', 'users:write', 'products:read', 'products:write', 'roles:read', 'roles:write',
                        'tenant:read', 'tenant:write', 'audit:read']),
        ('manager', array['users:read', 'products:read', 'products:write', 'roles:read', 'tenant:read']),
        ('member', array['products:read', 'products:write'])
      ) as built_in (name, permissions) using (name), unnest(permissions) as permission`.execute(db);
  // Until now a user without a role could use products. With permissions, such a user could do nothing.
  await sql`
    insert into user_roles (user_id, role_id)
      select users.id, roles.id from users, roles
      where roles.name = 'member' and not exists (select from user_roles where user_id = users.id)`.execute(db);
}
