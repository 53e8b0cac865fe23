// Every route that writes, with a valid body, and the content of a database before and after: for tests that are derived from the
// route table.
import { sql, type Kysely } from 'kysely';
import type { RouteEntry } from '../../src/auth/route-access.js';
import { ADMIN, asSuperuser } from './app.js';
import { resources } from './route-resources.js';

export const UNKNOWN_ID = '01900000-0000-7000-8000-00000000ffff';

/** The codes of the answers to a revoked caller. */
export const REVOKED = ['unauthenticated', 'forbidden', 'tenant-suspended'];

/** A valid body for each route that reads one; null: an empty body in chunks. Others have theirs from route-resources.ts. */
const bodies: Readonly<Record<string, object | null>> = {
  'POST /auth/logout': null,
  'POST /auth/logout-all': null,
  'POST /auth/confirm': { password: ADMIN.password },
  'POST /auth/password': { currentPassword: ADMIN.password, newPassword: ADMIN.password },
  'DELETE /auth/sessions/:id': null,
  'POST /users': {
    email: 'new@example.com',
    password: 'user-password-123',
    firstName: 'N',
    lastName: 'N',
    roles: ['admin'],
  },
  'PATCH /users/:id': { firstName: 'Changed' },
  'DELETE /users/:id': null,
  'POST /roles': { name: 'new', permissions: ['products:read'] },
  'PATCH /roles/:id': { description: 'Changed' },
  'DELETE /roles/:id': null,
  'POST /products': { name: 'New', price: '1.00' },
  'PATCH /products/:id': { name: 'Changed' },
  'POST /products/:id/stock': { delta: 1 },
  'DELETE /products/:id': null,
  'POST /tenants': { name: 'New', slug: 'held-back', admin: ADMIN },
  'PATCH /tenants/:id': { name: 'Renamed' },
  'DELETE /tenants/:id': null,
  'POST /tenants/:id/sign-out': null,
  'POST /tenants/:id/suspend': null,
  'POST /tenants/:id/resume': null,
  'POST /tenants/:id/restore': null,
  'POST /tenants/:id/purge': null,
  'POST /tenants/:id/rotate-password': null,
  'POST /clusters': {
    name: 'new',
    host: '127.0.0.1',
    provisionerUser: 'x',
    provisionerPassword: 'x',
    connectionBudget: 100,
  },
  'PATCH /clusters/:id': { weight: 1 },
  'POST /clusters/:id/check': null,
  'POST /clusters/:id/drain': null,
  'DELETE /clusters/:id': null,
  'POST /operations/:id/retry': null,
  'POST /operations/:id/abandon': null,
  'POST /rollouts': { budget: 1 },
  'POST /rollouts/:id/pause': null,
  'POST /rollouts/:id/resume': null,
  'POST /rollouts/:id/retry': null,
  'POST /rollouts/:id/abort': null,
};

export function nameOf({ method, url }: RouteEntry): string {
  return `${method} ${url}`;
}

export function bodyOf(route: RouteEntry): object | null {
  const body = bodies[nameOf(route)] ?? bodyByResource(route);
  if (body === undefined)
    throw new Error(`no body for ${nameOf(route)}: put a line into tests/support/route-resources.ts`);
  return body;
}

/** The first part of a route's path, by which route-resources.ts names its resource. */
export function prefixOf({ url }: Pick<RouteEntry, 'url'>): string {
  return /^\/[^/]+/.exec(url)?.[0] ?? '';
}

function bodyByResource(route: RouteEntry): object | null | undefined {
  const name = nameOf(route);
  if (Object.hasOwn(bodies, name)) return null;
  const resource = resources[prefixOf(route)];
  const below = route.url.slice(prefixOf(route).length) || '/';
  if (resource && below === '/' && route.method === 'POST') return resource.make?.('new');
  if (resource && route.method === 'DELETE') return null;
  return resource?.bodies?.[`${route.method} ${below}`];
}

/** Every row of a database. */
export async function everythingIn(database: string): Promise<Record<string, unknown>> {
  return asSuperuser(database, async (db) => {
    const { rows } = await sql<{ name: string }>`
      select oid::regclass::text as name from pg_class where relkind = 'r' and relnamespace::regnamespace::text
      in ('public', 'migration') order by 1`.execute(db);
    return rowsOf(
      db,
      rows.map(({ name }) => name),
    );
  });
}

/** Every row of these tables, by table. */
export async function rowsOf(db: Kysely<unknown>, tables: readonly string[]): Promise<Record<string, unknown>> {
  const dump: Record<string, unknown> = {};
  for (const table of tables)
    dump[table] = (await sql`select t as row from ${sql.table(table)} t order by t::text`.execute(db)).rows;
  return dump;
}

/** The ids of everything that a request can make in the registry: tenants, operators, clusters and operators' acts. */
export async function everythingInRegistry(registry: string): Promise<unknown> {
  return asSuperuser(registry, async (db) => {
    const { rows } = await sql<{ name: string }>`
      select table_name as name from information_schema.tables
      where table_schema = 'public' and table_name in ('tenants', 'operators', 'clusters', 'operations')
      order by 1`.execute(db);
    const dump: Record<string, unknown> = {};
    for (const { name } of rows)
      dump[name] = (await sql`select t.id from ${sql.table(name)} t order by t.id::text`.execute(db)).rows;
    return dump;
  });
}
