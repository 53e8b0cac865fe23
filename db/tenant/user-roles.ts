// Queries on the roles that a tenant's users hold, and on the permissions of those roles.
import { sql, type ExpressionBuilder, type RawBuilder, type Transaction } from 'kysely';
import type { TenantDatabase } from './tenant-schema.js';

/** Prevents the roles of these names from being changed or removed until the transaction ends. Returns the roles that exist. */
export async function keepRoles(
  trx: Transaction<TenantDatabase>,
  names: readonly string[],
): Promise<readonly { readonly id: string; readonly name: string }[]> {
  return trx
    .selectFrom('roles')
    .select(['id', 'name'])
    .where('name', '=', sql<string>`any(${names})`)
    .forKeyShare()
    .execute();
}

/** Replaces the roles of a user. Returns the names that no role of the tenant has; if there are any, nothing was changed. */
export async function setRoles(
  trx: Transaction<TenantDatabase>,
  userId: string,
  roles: readonly string[],
): Promise<readonly string[]> {
  const known = await keepRoles(trx, roles);
  const unknown = roles.filter((name) => !known.some((role) => role.name === name));
  if (unknown.length > 0) return unknown;
  await trx.deleteFrom('user_roles').where('user_id', '=', userId).execute();
  if (known.length > 0) {
    await trx
      .insertInto('user_roles')
      .values(known.map((role) => ({ user_id: userId, role_id: role.id })))
      .execute();
  }
  return [];
}

/**
 * Takes the lock that a transaction needs to reduce the set of active admins. Without it two transactions could each remove one
 * of the last two admins, because each still sees the other's. FOR NO KEY UPDATE, because FOR UPDATE could deadlock with the
 * foreign key check of a role that is being assigned, which comes after the lock on the user.
 */
export async function lockAdmins(trx: Transaction<TenantDatabase>): Promise<void> {
  await trx.selectFrom('roles').select('id').where('name', '=', 'admin').forNoKeyUpdate().execute();
}

/** How many active admins the tenant has, as this transaction sees it. */
export async function countActiveAdmins(trx: Transaction<TenantDatabase>): Promise<number> {
  const { count } = await trx
    .selectFrom('users')
    .innerJoin('user_roles', 'user_roles.user_id', 'users.id')
    .innerJoin('roles', 'roles.id', 'user_roles.role_id')
    .select((eb) => eb.fn.countAll<string>().as('count'))
    .where('roles.name', '=', 'admin')
    .where('users.active', '=', true)
    .executeTakeFirstOrThrow();
  return Number(count);
}

/** A user's role names in alphabetical order, beside the table `users`. */
export const roleNames = sql<string[]>`array(
  select roles.name from user_roles join roles on roles.id = user_roles.role_id
  where user_roles.user_id = users.id order by roles.name)`;

/** The same as one column of a query. */
export function rolesOfUser(): ReturnType<RawBuilder<string[]>['as']> & { alias: 'roles' } {
  return roleNames.as('roles') as never;
}

/** The permissions of all roles of a user, each once, as one column. */
export function permissionsOfUser(
  eb: ExpressionBuilder<TenantDatabase, 'users'>,
): ReturnType<RawBuilder<string[]>['as']> & { alias: 'permissions' } {
  return sql<string[]>`array(${eb
    .selectFrom('user_roles')
    .innerJoin('role_permissions', 'role_permissions.role_id', 'user_roles.role_id')
    .select('role_permissions.permission')
    .distinct()
    .whereRef('user_roles.user_id', '=', 'users.id')
    .orderBy('role_permissions.permission')})`.as('permissions') as never;
}
