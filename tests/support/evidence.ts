// Reads from PostgreSQL, as the superuser, the state of tenants' databases: whether they exist, whether they are open, and what
// they contain.
import { sql, type Kysely } from 'kysely';
import { expect } from 'vitest';
import { ADMIN, asSuperuser, type TestService } from './app.js';

export interface DatabaseState {
  readonly exists: boolean;
  /** Whether it accepts connections. */
  readonly open: boolean;
}

export async function stateOfDatabase(name: string): Promise<DatabaseState> {
  const { rows } = await asSuperuser('postgres', (db) =>
    sql<{ open: boolean }>`select datallowconn as open from pg_database where datname = ${name}`.execute(db),
  );
  return { exists: rows.length > 0, open: rows[0]?.open ?? false };
}

/** Works in a database, even if it is closed, and restores that state. */
export async function inside<T>(name: string, work: (db: Kysely<unknown>) => Promise<T>): Promise<T> {
  const { open } = await stateOfDatabase(name);
  const setOpen = (to: boolean): Promise<unknown> =>
    asSuperuser('postgres', (db) => sql`alter database ${sql.id(name)} allow_connections ${sql.lit(to)}`.execute(db));
  if (!open) await setOpen(true);
  try {
    return await asSuperuser(name, work);
  } finally {
    if (!open) await setOpen(false);
  }
}

/** The content of a tenant's database; undefined if there is no such database. */
export interface Content {
  /** The tenants that the marker in the database names. */
  readonly markers: readonly string[];
  readonly users: readonly string[];
  readonly products: readonly string[];
}

export async function contentOf(name: string): Promise<Content | undefined> {
  if (!(await stateOfDatabase(name)).exists) return undefined;
  return inside(name, async (db) => {
    const { rows } = await sql<Content>`
      select array(select tenant_id::text from tenant_marker) as markers,
        array(select email::text from users order by 1) as users,
        array(select name from products order by 1) as products`.execute(db);
    return rows[0];
  });
}

/** Makes a database with a table `invoices` and two rows, ready for adoption: it belongs to the provisioner. */
export async function createLegacyDatabase(name: string, owner: string): Promise<void> {
  await asSuperuser('postgres', (db) => sql`create database ${sql.id(name)} owner ${sql.id(owner)}`.execute(db));
  await asSuperuser(name, async (db) => {
    await sql`create table invoices (number integer primary key)`.execute(db);
    await sql`insert into invoices values (1), (2)`.execute(db);
    await sql`alter table invoices owner to ${sql.id(owner)}`.execute(db);
  });
}

/** The rows that `createLegacyDatabase` wrote; undefined if the database is gone. */
export async function invoicesIn(name: string): Promise<readonly number[] | undefined> {
  if (!(await stateOfDatabase(name)).exists) return undefined;
  return inside(name, async (db) => {
    const { rows } = await sql<{ number: number }>`select number from invoices order by 1`.execute(db);
    return rows.map(({ number }) => number);
  });
}

/** A tenant whose creation was acknowledged to its operator. */
export interface Acknowledged {
  readonly id: string;
  readonly slug: string;
  readonly dbName: string;
}

/** @throws Error if the registry has no tenant of this slug */
export async function acknowledged({ config }: Pick<TestService, 'config'>, slug: string): Promise<Acknowledged> {
  const { rows } = await asSuperuser(config.registry.connection.database, (db) =>
    sql<{ id: string; dbName: string }>`select id, db_name as "dbName" from tenants where slug = ${slug}`.execute(db),
  );
  const [row] = rows;
  if (!row) throw new Error(`there is no tenant "${slug}"`);
  return { ...row, slug };
}

/** The status of the answer to the first admin's sign-in. */
export async function signIn(service: TestService, tenant: string): Promise<number> {
  const { email, password } = ADMIN;
  return (await service.send('POST', '/auth/login', { body: { tenant, email, password } })).status;
}

/** The product that `writeProduct` makes. */
export const PRODUCT = 'written by the tenant';

/** Signs the first admin in and makes a product, as a newly acknowledged tenant does. */
export async function writeProduct(service: TestService, tenant: string): Promise<void> {
  const { email, password } = ADMIN;
  const admin = await service.send<{ accessToken: string }>('POST', '/auth/login', {
    body: { tenant, email, password },
  });
  expect(admin.status, admin.text).toBe(200);
  const body = { name: PRODUCT, price: '1.00' };
  const made = await service.send('POST', '/products', { token: admin.body.accessToken, body });
  expect(made.status, made.text).toBe(201);
}
