// Queries on a tenant's users. The queries on the roles that users hold are in db/tenant/user-roles.ts.
import { sql, type Kysely, type SelectQueryBuilder, type Transaction } from 'kysely';
import { filteredPages } from '../shared/filtered-pages.js';
import { newId } from '../shared/ids.js';
import { afterPosition, containsPattern, type Keyset, type Position } from '../shared/keyset.js';
import { rowVersion, type Versioned } from '../shared/row-version.js';
import { shortRead } from '../driver/statement.js';
import type { TenantDatabase } from './tenant-schema.js';
import { permissionsOfUser, roleNames, rolesOfUser } from './user-roles.js';

/** A user as the API shows it, without the password's hash. */
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
  createdAt: { column: 'created_at', type: 'timestamptz' },
  email: { column: 'email', type: 'text' },
} as const satisfies Record<string, Pick<Keyset<TenantDatabase, 'users'>, 'column' | 'type'>>;

/** The unique constraint that an e-mail address breaks if it is taken. */
export const EMAIL_CONSTRAINT = 'users_email_key';

export async function findUser(db: Kysely<TenantDatabase>, id: string): Promise<(User & Versioned) | undefined> {
  return db
    .selectFrom('users')
    .select([...columns, rowVersion('users')])
    .select(rolesOfUser)
    .where('id', '=', id)
    .executeTakeFirst();
}

/** A user with the password's hash, for sign-in and for changes that require the password. */
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

/** Read for every request of a user: whether the user is active, and the permissions of all its roles. */
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

/** The same for several users, by id. A user that does not exist is missing. */
export async function findStandings(
  db: Kysely<TenantDatabase>,
  ids: readonly string[],
): Promise<ReadonlyMap<string, { active: boolean; permissions: readonly string[] }>> {
  const standings = await standingsByIds(db, { ids });
  return new Map(standings.map(({ id, ...standing }) => [id, standing]));
}

const standingsByIds = shortRead((db: Kysely<TenantDatabase>, { ids }: { ids: readonly string[] }) =>
  db
    .selectFrom('users')
    .select(['id', 'active'])
    .select(permissionsOfUser)
    .where('id', '=', sql<string>`any(${ids}::uuid[])`),
);

interface UserFilters {
  readonly active?: boolean | undefined;
  readonly roleId?: string | undefined;
  readonly pattern?: string | undefined;
}

const filteredPage = filteredPages<TenantDatabase, UserFilters, User>({
  table: 'users',
  columns: [...columns, sql`${roleNames} as roles`],
  reads: columns.map((column) => column.split(' ')[0] ?? ''),
  matches: ({ active, roleId, pattern }) => [
    active !== undefined && ['active', sql`active = ${active}`],
    roleId !== undefined && [
      undefined,
      sql`exists (select from user_roles where user_id = users.id and role_id = ${roleId})`,
    ],
    pattern !== undefined && [
      undefined,
      sql`(email ilike ${pattern} or first_name ilike ${pattern} or last_name ilike ${pattern})`,
    ],
  ],
  leads: { created_at: ['active'] },
});

const roleByName = shortRead((db: Kysely<TenantDatabase>, { name }: { name: string }) =>
  db.selectFrom('roles').select('id').where('name', '=', name),
);

/** One page of users; `search` matches the e-mail address and the names, ignoring case. */
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
  const { sort, direction, after, limit, search, active, role } = page;
  const order = { ...userSorts[sort], direction };
  if (search === undefined && active === undefined && role === undefined) {
    const query = db.selectFrom('users').select(columns).select(rolesOfUser);
    return afterPosition(query, { ...order, id: 'users.id' }, after, limit).execute();
  }
  // By its id: PostgreSQL knows how many users have a role, and cannot know it for a name that it must look up first.
  const [found] = role === undefined ? [] : await roleByName(db, { name: role });
  if (role !== undefined && !found) return [];
  const pattern = search === undefined ? undefined : containsPattern(search);
  return filteredPage(db, { active, roleId: found?.id, pattern }, order, { after, limit });
}

/** Adds a user without roles and returns its id. @param user.id a new one by default */
export async function insertUser(
  db: Kysely<TenantDatabase>,
  user: {
    id?: string;
    email: string;
    passwordHash: string;
    firstName: string;
    lastName: string;
    active?: boolean | undefined;
  },
): Promise<string> {
  const { id = newId() } = user;
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
 * Adds the first admin of a new tenant, in one statement: each round trip delays the making of a tenant.
 *
 * @returns false if there is no role `admin`
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
 * Locks users and their roles until the transaction ends. One statement locks all users, in order of id, so that two
 * transactions with the same two users cannot deadlock.
 *
 * @returns the password's hash and the version of each user that exists, by id
 */
export async function lockUsers(
  trx: Transaction<TenantDatabase>,
  ids: readonly string[],
): Promise<ReadonlyMap<string, { readonly passwordHash: string } & Versioned>> {
  const locked = await trx
    .selectFrom('users')
    .select(['id', 'password as passwordHash', rowVersion('users')])
    .where('id', '=', sql<string>`any(${ids}::uuid[])`)
    .orderBy('id')
    .forNoKeyUpdate()
    .execute();
  return new Map(locked.map(({ id, ...user }) => [id, user]));
}

/** Changes the given fields. */
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
