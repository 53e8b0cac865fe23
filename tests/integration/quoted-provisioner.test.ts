// A provisioner whose name PostgreSQL must quote, as many companies' names of roles are.
import { sql } from 'kysely';
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { findDoorDrift } from '../../db/server/access.js';
import { listForeignObjects } from '../../db/server/content-rights.js';
import { findMarks, listMarkedPage } from '../../db/server/marks.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { asSuperuser, connectAs } from '../support/app.js';

const suffix = randomBytes(6).toString('hex');
const role = `My-Provisioner ${suffix}`;
const database = `quoted_${suffix}`;
const password = randomBytes(12).toString('hex');

beforeAll(async () => {
  await asSuperuser('postgres', async (db) => {
    await sql`create role ${sql.id(role)} login createdb password ${sql.lit(password)}`.execute(db);
    await sql`create database ${sql.id(database)} owner ${sql.id(role)}`.execute(db);
  });
});
afterAll(() =>
  asSuperuser('postgres', async (db) => {
    await sql`drop database if exists ${sql.id(database)} with (force)`.execute(db);
    await sql`drop role if exists ${sql.id(role)}`.execute(db);
  }),
);

it('finds what it owns, on the server and inside a database', async () => {
  const handle = connectAs<TenantDatabase>(database, { user: role, password });
  try {
    await sql`create table own (id int)`.execute(handle.db);
    const cluster = handle.db as never;
    expect(await findMarks(cluster, [database])).toMatchObject([{ name: database, owned: true, open: true }]);
    expect((await listMarkedPage(cluster, 'an installation', 'database', '', 10)).things).toEqual([]);
    expect(await findDoorDrift(cluster, [])).toEqual([]);
    expect((await listForeignObjects(handle.db)).map(({ name }) => name)).not.toContain('TABLE own');
  } finally {
    await handle.close(0);
  }
});
