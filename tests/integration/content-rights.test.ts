// A look at a migrated database says that the rights of its role are as they should be, only if they are.
import { sql, type RawBuilder } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { glanceAt, listWrongRights, type Glance } from '../../db/server/content-rights.js';
import { grantRuntimeRights } from '../../db/tenant/tenant-grants.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import { startService, type TestService } from '../support/app.js';
import { rowOf } from '../support/tenants.js';

let service: TestService;
let row: TenantRecord;

beforeAll(async () => {
  service = await startService();
  row = await rowOf(service, await service.createTenant());
});
afterAll(() => service.close());

/** What is seen after a change by the owner, in which the slow look agrees. */
async function seenAfter(change?: (role: RawBuilder<unknown>) => RawBuilder<unknown>): Promise<Glance> {
  const { provisioners } = service.app.engine;
  const { inDatabase } = await provisioners.at({ host: row.dbHost, port: row.dbPort });
  return inDatabase(row.dbName, async (db) => {
    await grantRuntimeRights(db, row.dbUser);
    if (change) await change(sql.id(row.dbUser)).execute(db);
    const seen = await glanceAt(db, row.dbUser);
    if (seen.rightsAreRight) expect(await listWrongRights(db, row.dbUser)).toEqual([]);
    return seen;
  });
}

it('reads the rights and the marker of a database as it should be', async () => {
  expect(await seenAfter()).toEqual({ rightsAreRight: true, marker: { tenantId: row.id, claim: row.claim } });
});

it.each<[string, (role: RawBuilder<unknown>) => RawBuilder<unknown>]>([
  ['lacks a right', (role) => sql`revoke select on products from ${role}`],
  ['has no right on a table', (role) => sql`revoke all on users from ${role}`],
  ['has a right that is withheld', (role) => sql`grant update on audit to ${role}`],
  ['has a right that no table gives', (role) => sql`grant truncate on products to ${role}`],
  ['may pass a right on', (role) => sql`grant select on products to ${role} with grant option`],
])('sees that the role %s', async (_, change) => {
  expect((await seenAfter(change)).rightsAreRight).toBe(false);
  await seenAfter((role) => sql`revoke all on all tables in schema public from ${role}`);
  expect((await seenAfter()).rightsAreRight).toBe(true);
});

it('sees that everyone has a right', async () => {
  expect((await seenAfter(() => sql`grant select on products to public`)).rightsAreRight).toBe(false);
  expect((await seenAfter(() => sql`revoke all on products from public`)).rightsAreRight).toBe(true);
});

it('sees a table that is new', async () => {
  expect((await seenAfter(() => sql`create table added (id integer)`)).rightsAreRight).toBe(false);
  expect((await seenAfter()).rightsAreRight).toBe(true);
  await seenAfter(() => sql`drop table added`);
});
