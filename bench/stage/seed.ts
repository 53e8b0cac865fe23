// Fills the databases before the measurement: tenants through the API, as an operator makes them; users and products by SQL.
import fastify from 'fastify';
import fp from 'fastify-plugin';
import { sql } from 'kysely';
import { listProvisionedTenants } from '../../db/registry/tenant-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { createDatabase, type ConnectionSettings, type PoolLimits } from '../../db/driver/client.js';
import { newId } from '../../db/shared/ids.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { authentication } from '../../plugins/caller/authentication.js';
import type { AdmissionSteps } from '../../src/http/admission-steps.js';
import type { Principal } from '../../src/auth/tokens.js';
import type { Config } from '../../src/config/index.js';

export interface SeededTenant {
  readonly id: string;
  readonly slug: string;
  readonly database: string;
  readonly users: readonly { readonly email: string; readonly token: string }[];
  readonly productIds: readonly string[];
}

/** The password of every seeded user. */
export const USER_PASSWORD = 'a password of the benchmark';

/** Rows in each tenant's database. */
export interface Size {
  readonly users: number;
  readonly products: number;
}

const limits: PoolLimits = { max: 1, acquireTimeout: 10_000, timeout: 60_000, idleTimeoutMillis: 10_000 };
const options = { applicationName: 'tenantry bench', preparedStatements: false };

/**
 * Makes tenants through the API, fills their databases as their owner, and signs a token for each user with the service's own
 * code. Signing 1,200 users in would take half a minute of hashing before each run.
 *
 * @param passwordHash of USER_PASSWORD; one for all, which makes no difference to verifying it
 * @param provisioner of the server on which the service at `url` makes databases
 * @param atOnce how many are made, and how many are filled, at the same time
 */
export async function seed(deps: {
  readonly url: string;
  readonly operatorToken: string;
  readonly registry: ConnectionSettings;
  readonly provisioner: ConnectionSettings;
  readonly auth: Config['auth'];
  readonly passwordHash: string;
  readonly count: number;
  readonly size: Size;
  readonly atOnce: number;
}): Promise<SeededTenant[]> {
  const { url, operatorToken, registry, provisioner, auth, passwordHash, count, size, atOnce } = deps;
  const ids = new Set(
    await inParallel(numbers(count), atOnce, async () => (await createTenant(url, operatorToken)).id),
  );

  const central = createDatabase<Registry>(registry, limits, options);
  const tenants = await listProvisionedTenants(central.db).finally(() => central.close(0));

  const sign = await createSigner(auth);
  const own = tenants.filter(({ id }) => ids.has(id));
  return inParallel(own, atOnce, async ({ id, slug, dbName }) => {
    const { users, productIds } = await fill({ ...provisioner, database: dbName }, passwordHash, size);
    return {
      id,
      slug,
      database: dbName,
      users: users.map((user) => ({
        email: user.email,
        token: sign({ kind: 'user', tenantId: id, userId: user.id, sessionId: user.sessionId }),
      })),
      productIds,
    };
  });
}

/** Sends a request to the service. @throws Error if the status is not `expected` */
export async function ask(
  url: string,
  [method, path]: readonly [method: string, path: string],
  expected: number,
  { token, body }: { readonly token?: string; readonly body?: object } = {},
): Promise<unknown> {
  const response = await fetch(url + path, {
    method,
    headers: {
      ...(token !== undefined && { authorization: `Bearer ${token}` }),
      ...(body && { 'content-type': 'application/json' }),
    },
    ...(body && { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  if (response.status !== expected) throw new Error(`${method} ${path} answers ${response.status}: ${text}`);
  return text === '' ? undefined : JSON.parse(text);
}

let made = 0;

/** @throws Error if the answer is not 201 */
export async function createTenant(url: string, token: string): Promise<{ id: string }> {
  made += 1;
  const body = {
    name: `Tenant ${made}`,
    slug: `tenant-${made}`,
    admin: { email: 'admin@bench.example', password: USER_PASSWORD, firstName: 'Ada', lastName: 'Admin' },
  };
  return (await ask(url, ['POST', '/tenants'], 201, { token, body })) as { id: string };
}

/** Deletes and purges the tenant. @throws Error if a status is not 204 */
export async function removeTenant(url: string, token: string, id: string): Promise<void> {
  await ask(url, ['DELETE', `/tenants/${id}`], 204, { token });
  await ask(url, ['POST', `/tenants/${id}/purge`], 204, { token });
}

/** @throws Error if the answer is not 200 */
export async function signInOperator(url: string, operator: { email: string; password: string }): Promise<string> {
  const signedIn = await ask(url, ['POST', '/auth/operator/login'], 200, { body: operator });
  return (signedIn as { accessToken: string }).accessToken;
}

/** Makes the part of the service that signs tokens, without the service. */
async function createSigner(auth: Config['auth']): Promise<(principal: Principal) => string> {
  const app = fastify();
  app.decorate('steps', {} as AdmissionSteps);
  // The plugin requires the rate limit's plugin; signing does not.
  await app.register(fp(async () => undefined, { name: 'rate-limit' }));
  await app.register(authentication, { config: auth });
  return (principal) => app.tokens.sign(principal);
}

async function fill(
  connection: ConnectionSettings,
  passwordHash: string,
  size: Size,
): Promise<{ users: { id: string; email: string; sessionId: string }[]; productIds: string[] }> {
  const handle = createDatabase<TenantDatabase>(connection, limits, options);
  const { db } = handle;
  const users = numbers(size.users).map((n) => ({
    id: newId(),
    email: `user-${n}@bench.example`,
    sessionId: newId(),
  }));
  const products = numbers(size.products).map((n) => ({ id: newId(), n }));
  try {
    const member = await db.selectFrom('roles').select('id').where('name', '=', 'member').executeTakeFirstOrThrow();
    await db
      .insertInto('users')
      .values(
        users.map(({ id, email }) => ({ id, email, password: passwordHash, first_name: 'Uma', last_name: 'User' })),
      )
      .execute();
    await db
      .insertInto('user_roles')
      .values(users.map((user) => ({ user_id: user.id, role_id: member.id })))
      .execute();
    await db
      .insertInto('sessions')
      .values(
        users.map(({ id, sessionId }) => ({
          id: sessionId,
          account_id: id,
          address: '127.0.0.1',
          user_agent: 'bench',
          token_hash: 'never refreshed',
          expires_at: new Date(Date.now() + 86_400_000).toISOString(),
        })),
      )
      .execute();
    await db
      .insertInto('products')
      .values(
        products.map(({ id, n }) => ({
          id,
          name: `Product ${n} of a tenant like any other`,
          description: n % 4 === 0 ? null : 'A description of the usual length, with the words that people search for.',
          price: `${n * 17}.${String(n % 100).padStart(2, '0')}`,
          stock_quantity: n * 3,
          sku: n % 2 === 0 ? null : `SKU-${n}`,
          category: `category-${n % 10}`,
          // One product a minute, because in a list by time no two times may be equal.
          created_at: new Date(Date.now() - n * 60_000).toISOString(),
        })),
      )
      .execute();
    // Otherwise autovacuum would do this in the middle of the first round.
    await sql`vacuum analyze`.execute(db);
  } finally {
    await handle.close(0);
  }
  return { users, productIds: products.map(({ id }) => id) };
}

function numbers(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index + 1);
}

/** Runs `work` on each item, at most `atOnce` at a time. Returns the results in the order of the items. The first error ends it. */
async function inParallel<T, R>(items: readonly T[], atOnce: number, work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  const left = items.entries();
  const workOnAndOn = async (): Promise<void> => {
    for (const [index, item] of left) results[index] = await work(item);
  };
  await Promise.all(Array.from({ length: atOnce }, workOnAndOn));
  return results;
}
