// Queries on a tenant's users and the roles that they hold.
import {
  sql,
  type ExpressionBuilder,
  type Kysely,
  type RawBuilder,
  type SelectQueryBuilder,
  type Transaction,
} from 'kysely';
import { newId } from '../ids.js';
import { afterPosition, containsPattern, type Keyset, type Position } from '../keyset.js';
import { shortRead } from '../statement.js';
import type { TenantDatabase } from './schema.js';

/** A user as the API shows it: the password's hash is not among the columns. */
export interface User {
  readonly id: string;
  readonly email: string;
  readonly firstName: string;
  readonly lastName: string;
  readonly active: boolean;
  readonly roles: readonly string[];
  readonly createdAt: string;
  readonly updatedAt: string;
}

const columns = [
  'users.id',
  'users.email',
  'users.first_name as firstName',
  'users.last_name as lastName',
  'users.active',
  'users.created_at as createdAt',
  'users.updated_at as updatedAt',
] as const;

/** The sorts that the list of users offers. */
export const userSorts = {
  createdAt: { column: 'users.created_at', type: 'timestamptz' },
  email: { column: 'users.email', type: 'text' },
} as const satisfies Record<string, Pick<Keyset<TenantDatabase, 'users'>, 'column' | 'type'>>;

/** The unique constraint behind an e-mail address that is taken. */
export const EMAIL_CONSTRAINT = 'users_email_key';

export async function findUser(db: Kysely<TenantDatabase>, id: string): Promise<User | undefined> {
  return db.selectFrom('users').select(columns).select(rolesOfUser).where('id', '=', id).executeTakeFirst();
}

/** A user with the password's hash, for sign-in and for changes that ask for the password. */
export async function findCredentials(
  db: Kysely<TenantDatabase>,
  by: { email: string } | { id: string },
): Promise<(User & { readonly passwordHash: string }) | undefined> {
  const [credentials] = await ('email' in by ? credentialsByEmail(db, by) : credentialsById(db, by));
  return credentials;
}

const credentialsByEmail = shortRead((db: Kysely<TenantDatabase>, { email }: { email: string }) =>
  credentials(db).where('email', '=', email),
);

const credentialsById = shortRead((db: Kysely<TenantDatabase>, { id }: { id: string }) =>
  credentials(db).where('id', '=', id),
);

function credentials(
  db: Kysely<TenantDatabase>,
): SelectQueryBuilder<TenantDatabase, 'users', User & { readonly passwordHash: string }> {
  return db.selectFrom('users').select(columns).select(rolesOfUser).select('users.password as passwordHash');
}

/** What every request of a user depends on: whether it is active, and what its roles together permit. */
export async function findStanding(
  db: Kysely<TenantDatabase>,
  id: string,
): Promise<{ active: boolean; permissions: readonly string[] } | undefined> {
  const [standing] = await standingById(db, { id });
  return standing;
}

const standingById = shortRead((db: Kysely<TenantDatabase>, { id }: { id: string }) =>
  db.selectFrom('users').select('active').select(permissionsOfUser).where('id', '=', id),
);

/** One page of users; `search` looks into e-mail address and names, whatever the case. */
export async function listUsers(
  db: Kysely<TenantDatabase>,
  page: {
    sort: keyof typeof userSorts;
    direction: 'asc' | 'desc';
    after?: Position | undefined;
    limit: number;
    search?: string | undefined;
    active?: boolean | undefined;
    role?: string | undefined;
  },
): Promise<User[]> {
  const { search, active, role } = page;
  let query = db.selectFrom('users').select(columns).select(rolesOfUser);
  if (active !== undefined) query = query.where('active', '=', active);
  if (role !== undefined) {
    query = query.where((eb) =>
      eb.exists(
        eb
          .selectFrom('user_roles')
          .innerJoin('roles', 'roles.id', 'user_roles.role_id')
          .select('user_roles.user_id')
          .whereRef('user_roles.user_id', '=', 'users.id')
          .where('roles.name', '=', role),
      ),
    );
  }
  if (search) {
    const pattern = containsPattern(search);
    query = query.where((eb) =>
      eb.or([eb('email', 'ilike', pattern), eb('first_name', 'ilike', pattern), eb('last_name', 'ilike', pattern)]),
    );
  }
  const keyset = { ...userSorts[page.sort], id: 'users.id' as const, direction: page.direction };
  return afterPosition(query, keyset, page.after, page.limit).execute();
}

/** Adds a user without roles and returns its id. */
export async function insertUser(
  db: Kysely<TenantDatabase>,
  user: { email: string; passwordHash: string; firstName: string; lastName: string; active?: boolean | undefined },
): Promise<string> {
  const id = newId();
  await db
    .insertInto('users')
    .values({
      id,
      email: user.email,
      password: user.passwordHash,
      first_name: user.firstName,
      last_name: user.lastName,
      ...(user.active !== undefined && { active: user.active }),
    })
    .execute();
  return id;
}

/**
 * Adds the first admin of a new tenant, in one statement: making a tenant waits for each round trip.
 *
 * @returns false where there is no role `admin` for it
 */
export async function insertFirstAdmin(
  db: Kysely<TenantDatabase>,
  user: { email: string; passwordHash: string; firstName: string; lastName: string },
): Promise<boolean> {
  const { rows } = await sql`
    with made as (
      insert into users (id, email, password, first_name, last_name)
        values (${newId()}, ${user.email}, ${user.passwordHash}, ${user.firstName}, ${user.lastName}) returning id
    )
    insert into user_roles (user_id, role_id)
      select made.id, roles.id from made, roles where roles.name = 'admin' returning role_id`.execute(db);
  return rows.length === 1;
}

/**
 * Keeps users and their roles as they are until the transaction ends. One statement locks them all, in order of id: two
 * transactions that lock the same two users cannot deadlock.
 *
 * @returns the password's hash of each user that exists, by id
 */
export async function lockUsers(
  trx: Transaction<TenantDatabase>,
  ids: readonly string[],
): Promise<ReadonlyMap<string, string>> {
  const locked = await trx
    .selectFrom('users')
    .select(['id', 'password'])
    .where('id', '=', sql<string>`any(${ids}::uuid[])`)
    .orderBy('id')
    .forNoKeyUpdate()
    .execute();
  return new Map(locked.map(({ id, password }) => [id, password]));
}

/** Changes what is given. */
export async function updateUser(
  db: Kysely<TenantDatabase>,
  id: string,
  changes: {
    email?: string | undefined;
    passwordHash?: string | undefined;
    firstName?: string | undefined;
    lastName?: string | undefined;
    active?: boolean | undefined;
  },
): Promise<void> {
  const { email, passwordHash, firstName, lastName, active } = changes;
  await db
    .updateTable('users')
    .set({
      ...(email !== undefined && { email }),
      ...(passwordHash !== undefined && { password: passwordHash }),
      ...(firstName !== undefined && { first_name: firstName }),
      ...(lastName !== undefined && { last_name: lastName }),
      ...(active !== undefined && { active }),
      updated_at: sql<string>`now()`,
    })
    .where('id', '=', id)
    .execute();
}

export async function deleteUser(db: Kysely<TenantDatabase>, id: string): Promise<void> {
  await db.deleteFrom('users').where('id', '=', id).execute();
}

/** Keeps the roles of these names from being changed or removed until the transaction ends. Returns those that there are. */
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

/**
 * Makes `roles` the roles that a user holds. Returns the names that no role of the tenant has; then nothing was changed.
 */
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
 * Takes the lock under which the set of active admins may shrink. Without it two transactions could each remove one of
 * the last two, each seeing the other's still there. It leaves the key alone: the foreign key check of a role that is
 * being assigned, which comes behind the lock on the user, would deadlock with FOR UPDATE.
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

/** A user's role names in alphabetical order, as one column. */
function rolesOfUser(
  eb: ExpressionBuilder<TenantDatabase, 'users'>,
): ReturnType<RawBuilder<string[]>['as']> & { alias: 'roles' } {
  return sql<string[]>`array(${eb
    .selectFrom('user_roles')
    .innerJoin('roles', 'roles.id', 'user_roles.role_id')
    .select('roles.name')
    .whereRef('user_roles.user_id', '=', 'users.id')
    .orderBy('roles.name')})`.as('roles') as never;
}

/** What a user's roles permit, each permission once, as one column. */
function permissionsOfUser(
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
