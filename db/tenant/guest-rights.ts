// The rights of a guest of `tenantry each` in one tenant's database, while the statement runs there: SELECT, or with `--write` also to
// change rows. No DDL, no ownership, and nothing that a session or a password can be made of. Run this as the owner.
import { sql, type Kysely, type RawBuilder } from 'kysely';
import { waitForGrants } from '../shared/grant-lock.js';
import type { TenantDatabase } from './tenant-schema.js';

/** Tables that a guest does not see: hashes of tokens, and answers to requests. */
const WITHHELD = ['sessions', 'idempotency_keys'] as const satisfies readonly (keyof TenantDatabase)[];

/** Columns that a guest does not see: hashes of passwords. Without them `select *` from the table is refused. */
const HIDDEN = { table: 'users', columns: ['password'] } as const;

/** Tables that a guest never changes: whose database it is, and what has happened. */
const UNCHANGED = ['tenant_marker', 'audit'] as const satisfies readonly (keyof TenantDatabase)[];

/**
 * Longest wait (ms) for the lock of one table. It is shorter than PostgreSQL's look for a deadlock (1 s): in a deadlock with a
 * migration this side gives up.
 */
const LOCK_WAIT = 500;

/**
 * Lets a guest connect, and gives it its rights, in one transaction.
 *
 * @param runtimeRole the tenant's role: a migration that gives that role its rights is waited for
 * @throws DatabaseFault `busy` if a table is locked: a repeated call may work
 */
export async function admitGuest(
  db: Kysely<TenantDatabase>,
  { guest, runtimeRole, writes }: { readonly guest: string; readonly runtimeRole: string; readonly writes: boolean },
): Promise<void> {
  const change = (rights: string): RawBuilder<unknown> =>
    writes
      ? sql`if object.kind in ('r', 'p') and object.name <> all (${textArray(UNCHANGED)}) then
          execute format(${sql.lit(rights)}, object.id, visible, guest);
        end if;`
      : sql``;
  await changeRights(
    db,
    { guest, runtimeRole },
    sql`
      execute format('grant connect on database %I to %I', current_database(), guest);
      execute format('grant usage on schema public to %I', guest);`,
    sql`
      if object.kind = 'S' then
        ${writes ? sql`execute format('grant usage on sequence %s to %I', object.id, guest);` : sql`null;`}
      elsif object.name = ${sql.lit(HIDDEN.table)} then
        select string_agg(quote_ident(attname), ', ') into visible from pg_attribute
          where attrelid = object.id and attnum > 0 and not attisdropped and attname <> all (${textArray(HIDDEN.columns)});
        execute format('grant select (%s) on %s to %I', visible, object.id, guest);
        ${change('grant insert (%2$s), update (%2$s), delete on %1$s to %3$I')}
      elsif object.name <> all (${textArray(WITHHELD)}) then
        execute format('grant select on %s to %I', object.id, guest);
        ${change('grant insert, update, delete on %1$s to %3$I')}
      end if;`,
  );
}

/** Takes all rights of a guest in this database, and on it, away. @throws as `admitGuest` */
export async function dismissGuest(
  db: Kysely<TenantDatabase>,
  { guest, runtimeRole }: { readonly guest: string; readonly runtimeRole: string },
): Promise<void> {
  await changeRights(
    db,
    { guest, runtimeRole },
    sql`
      execute format('revoke all on database %I from %I', current_database(), guest);
      execute format('revoke all on schema public from %I', guest);`,
    // All rights on a table include those on its columns.
    sql`execute format('revoke all on %s %s from %I', case object.kind when 'S' then 'sequence' else 'table' end, object.id, guest);`,
  );
}

/**
 * Each relation of the owner is locked against DDL before its rights change: PostgreSQL fails the second of two changes of one row of
 * a catalog (XX000), and that may be the migration's. Rows can be read and written meanwhile.
 */
async function changeRights(
  db: Kysely<TenantDatabase>,
  { guest, runtimeRole }: { readonly guest: string; readonly runtimeRole: string },
  first: RawBuilder<unknown>,
  each: RawBuilder<unknown>,
): Promise<void> {
  await sql`
    select set_config('lock_timeout', ${sql.lit(String(LOCK_WAIT))}, true);
    ${waitForGrants(runtimeRole)};
    do $do$
    declare
      guest text := ${sql.lit(guest)};
      visible text;
      object record;
    begin
      ${first}
      for object in
        select oid::regclass as id, relname::text as name, relkind as kind from pg_class
        where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'f', 'v', 'm', 'S')
          and pg_has_role(relowner, 'USAGE') order by relname
      loop
        if object.kind in ('r', 'p') then
          execute format('lock table %s in share update exclusive mode', object.id);
        end if;
        ${each}
      end loop;
    end $do$`.execute(db);
}

function textArray(names: readonly string[]): RawBuilder<unknown> {
  return sql`array[${sql.join(names.map((name) => sql.lit(name)))}]::text[]`;
}
