// Access to tenants without the API: their rows in the registry, the credentials of their roles, and users without a sign-up.
import { findTenant, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { findInstallationId } from '../../db/registry/installation.js';
import type { DatabaseHandle } from '../../db/driver/client.js';
import { markText, type Mark } from '../../db/server/marks.js';
import { setRoles } from '../../db/tenant/user-roles.js';
import { insertUser } from '../../db/tenant/user-queries.js';
import { createEnvelope } from '../../src/secrets/envelope.js';
import { sql } from 'kysely';
import { asSuperuser, beginSession, connectAs, type TestService } from './app.js';

export async function rowOf({ app }: Pick<TestService, 'app'>, { id }: { readonly id: string }): Promise<TenantRecord> {
  const row = await findTenant(app.engine.registry, id);
  if (!row) throw new Error('the tenant has no row');
  return row;
}

/** Gives a tenant's database another mark than its row has. */
export async function markAgain(
  service: Pick<TestService, 'app'>,
  id: string,
  state: Mark['state'],
  generation?: number,
): Promise<void> {
  const row = await rowOf(service, { id });
  const installation = await findInstallationId(service.app.engine.registry);
  const mark = markText({ installation, id, state, claim: row.claim, generation: generation ?? row.generation });
  await asSuperuser('postgres', (db) => sql`comment on database ${sql.id(row.dbName)} is ${sql.lit(mark)}`.execute(db));
}

/** The password of a tenant's role. @param sealed if it is not the one in force */
export function passwordOf(
  { config }: Pick<TestService, 'config'>,
  { id, dbHost: host, dbPort: port, dbUser: user, dbPassword }: TenantRecord,
  sealed: string | null = dbPassword,
): string {
  return createEnvelope(config.encryptionKeys).open(sealed ?? '', { id, host, port, user });
}

/** A tenant's role with all that is needed to connect. */
export interface Reached {
  readonly row: TenantRecord;
  readonly password: string;
}

export async function reach(service: TestService, tenant: { readonly id: string }): Promise<Reached> {
  const row = await rowOf(service, tenant);
  return { row, password: passwordOf(service, row) };
}

/** Connects as a tenant's role, to its own database or another one. Close it. */
export function enter({ row, password }: Reached, database = row.dbName): DatabaseHandle<unknown> {
  return connectAs(database, { host: row.dbHost, port: row.dbPort, user: row.dbUser, password });
}

let users = 0;

/** Adds a user without hashing a password: the user has a token and cannot sign in. */
export async function addUser(
  { app }: Pick<TestService, 'app'>,
  { id: tenantId }: { readonly id: string },
  {
    roles = ['member'],
    ...fields
  }: { email?: string; firstName?: string; lastName?: string; roles?: readonly string[] } = {},
): Promise<{ id: string; token: string }> {
  const person = { email: `added-${(users += 1)}@example.com`, firstName: 'Uma', lastName: 'User' };
  const id = await app.engine.tenantPools
    .database(tenantId)
    .transaction()
    .execute(async (trx) => {
      const userId = await insertUser(trx, { ...person, passwordHash: 'x', ...fields });
      await setRoles(trx, userId, roles);
      return userId;
    });
  return { id, token: await beginSession(app, { kind: 'user', tenantId, userId: id }) };
}
