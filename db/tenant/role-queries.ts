// Queries on a tenant's roles and the permissions that they group.
import { sql, type ExpressionBuilder, type Kysely, type RawBuilder, type Transaction } from 'kysely';
import { newId } from '../shared/ids.js';
import { afterPosition, containsPattern, type Keyset, type Position } from '../shared/keyset.js';
import { rowVersion, type Versioned } from '../shared/row-version.js';
import type { TenantDatabase } from './tenant-schema.js';

export interface Role {
  readonly id: string;
  readonly name: string;
  readonly description: string | null;
  readonly builtIn: boolean;
  /** In alphabetical order. */
  readonly permissions: readonly string[];
  readonly createdAt: string;
  readonly updatedAt: string;
}

const columns = [
  'roles.id',
  'roles.name',
  'roles.description',
  'roles.built_in as builtIn',
  'roles.created_at as createdAt',
  'roles.updated_at as updatedAt',
] as const;

/** The sorts that the list of roles offers. */
export const roleSorts = {
  createdAt: { column: 'roles.created_at', type: 'timestamptz' },
  name: { column: 'roles.name', type: 'text' },
} as const satisfies Record<string, Pick<Keyset<TenantDatabase, 'roles'>, 'column' | 'type'>>;

/** The unique constraint that a role's name breaks if it is taken. */
export const ROLE_NAME_CONSTRAINT = 'roles_name_key';

export async function findRole(db: Kysely<TenantDatabase>, id: string): Promise<(Role & Versioned) | undefined> {
  return db
    .selectFrom('roles')
    .select([...columns, rowVersion('roles')])
    .select(permissionsOfRole)
    .where('id', '=', id)
    .executeTakeFirst();
}

/** One page of roles; `search` matches the name and the description, ignoring case. */
export async function listRoles(
  db: Kysely<TenantDatabase>,
  page: {
    sort: keyof typeof roleSorts;
    direction: 'asc' | 'desc';
    after?: Position | undefined;
    limit: number;
    search?: string | undefined;
  },
): Promise<Role[]> {
  let query = db.selectFrom('roles').select(columns).select(permissionsOfRole);
  if (page.search) {
    const pattern = containsPattern(page.search);
    query = query.where((eb) => eb.or([eb('name', 'ilike', pattern), eb('description', 'ilike', pattern)]));
  }
  const keyset = { ...roleSorts[page.sort], id: 'roles.id' as const, direction: page.direction };
  return afterPosition(query, keyset, page.after, page.limit).execute();
}

/** Adds a role without permissions and returns its id. */
export async function insertRole(
  db: Kysely<TenantDatabase>,
  { name, description = null }: { name: string; description?: string | null | undefined },
): Promise<string> {
  const id = newId();
  await db.insertInto('roles').values({ id, name, description }).execute();
  return id;
}

/**
 * Locks a role until the transaction ends: it cannot be changed, or assigned to a user. Returns whether it exists. Read the role
 * after the lock, because data from before may be outdated.
 */
export async function lockRole(trx: Transaction<TenantDatabase>, id: string): Promise<boolean> {
  const locked = await trx.selectFrom('roles').select('id').where('id', '=', id).forUpdate().executeTakeFirst();
  return locked !== undefined;
}

/** Changes the given fields. */
export async function updateRole(
  db: Kysely<TenantDatabase>,
  id: string,
  { name, description }: { name?: string | undefined; description?: string | null | undefined },
): Promise<void> {
  await db
    .updateTable('roles')
    .set({
      ...(name !== undefined && { name }),
      ...(description !== undefined && { description }),
      updated_at: sql<string>`now()`,
    })
    .where('id', '=', id)
    .execute();
}

/** Replaces the permissions of a role. */
export async function setPermissions(
  trx: Transaction<TenantDatabase>,
  roleId: string,
  permissions: readonly string[],
): Promise<void> {
  await trx.deleteFrom('role_permissions').where('role_id', '=', roleId).execute();
  if (permissions.length === 0) return;
  await trx
    .insertInto('role_permissions')
    .values(permissions.map((permission) => ({ role_id: roleId, permission })))
    .execute();
}

/** How many users hold a role, active or not. */
export async function countHolders(db: Kysely<TenantDatabase>, roleId: string): Promise<number> {
  const { count } = await db
    .selectFrom('user_roles')
    .select((eb) => eb.fn.countAll<string>().as('count'))
    .where('role_id', '=', roleId)
    .executeTakeFirstOrThrow();
  return Number(count);
}

export async function deleteRole(db: Kysely<TenantDatabase>, id: string): Promise<void> {
  await db.deleteFrom('roles').where('id', '=', id).execute();
}

function permissionsOfRole(
  eb: ExpressionBuilder<TenantDatabase, 'roles'>,
): ReturnType<RawBuilder<string[]>['as']> & { alias: 'permissions' } {
  return sql<string[]>`array(${eb
    .selectFrom('role_permissions')
    .select('permission')
    .whereRef('role_permissions.role_id', '=', 'roles.id')
    .orderBy('permission')})`.as('permissions') as never;
}
