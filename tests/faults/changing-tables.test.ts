// Tables of a tenant change while requests run. A statement that a connection prepared before the change no longer fits its table,
// and no request fails because of that.
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { asSuperuser, startService, type TestService, type TestTenant } from '../support/app.js';
import { rowOf } from '../support/tenants.js';

let service: TestService;
let tenant: TestTenant;

beforeAll(async () => {
  service = await startService();
  tenant = await service.createTenant();
});
afterAll(() => service.close());

/** Each changes the type of columns that statements return. */
const CHANGES = [
  'alter table products alter column description type varchar(20000), alter column name type varchar(400)',
  'alter table users alter column first_name type varchar(400), alter column last_name type varchar(400)',
  'alter table roles alter column name type varchar(400)',
  'alter table sessions alter column id type uuid, add column changing text',
];

/** Undoes them, so that each round changes the tables again. */
const BACK = [
  'alter table products alter column description type text, alter column name type text',
  'alter table users alter column first_name type text, alter column last_name type text',
  'alter table roles alter column name type text',
  'alter table sessions drop column changing',
];

const ROUNDS = 4;

it('no request fails while the tables of its tenant change', async () => {
  const { dbName } = await rowOf(service, tenant);
  const { send } = service;
  const token = tenant.adminToken;
  let created = 0;
  const acts: readonly (() => Promise<{ status: number; text: string }>)[] = [
    () => send('POST', '/products', { token, body: { name: `Thing ${(created += 1)}`, price: '1.00' } }),
    () => send('GET', '/products?limit=5', { token }),
    () => send('GET', '/users?limit=5', { token }),
    () => send('GET', '/roles?limit=5', { token }),
    () => send('GET', '/auth/me', { token }),
    () => send('PATCH', `/users/${tenant.adminId}`, { token, body: { lastName: `Name ${created}` } }),
    () =>
      send('POST', '/users', {
        token,
        body: {
          email: `changing-${(created += 1)}@example.com`,
          password: 'a long password',
          firstName: 'A',
          lastName: 'B',
        },
      }),
    async () => {
      const made = await send<{ id: string }>('POST', '/roles', {
        token,
        body: { name: `role-${(created += 1)}`, permissions: ['products:read'] },
      });
      return made.status === 201 ? send('DELETE', `/roles/${made.body.id}`, { token }) : made;
    },
  ];
  for (const act of acts) expect((await act()).status).toBeLessThan(300);

  let changing = true;
  const failed: string[] = [];
  let answered = 0;
  const clients = acts.map(async (act) => {
    while (changing) {
      const { status, text } = await act();
      answered += 1;
      if (status >= 300) failed.push(`${status} ${text}`);
    }
  });
  for (let round = 0; round < ROUNDS; round += 1)
    for (const changes of [CHANGES, BACK])
      for (const change of changes) {
        const before = answered;
        await asSuperuser(dbName, (db) => sql.raw(change).execute(db));
        // Each client meets the change.
        await expect.poll(() => answered, { timeout: 30_000, interval: 5 }).toBeGreaterThan(before + 2 * acts.length);
      }
  changing = false;
  await Promise.all(clients);
  expect(failed).toEqual([]);
});
