// Two builds with different schemas of tenants on one registry, as after a rollback: each keeps standby databases of its own.
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { ADMIN, OPERATOR } from '../support/service.js';
import { eventually, type ServiceProcess } from '../support/service-process.js';
import { nextMigration, prepareTwoBuilds, type TwoBuilds } from '../support/two-builds.js';

const OLDER = latestVersion(tenantMigrations);
const NEWER = nextMigration(OLDER, 'newer');

/** Standby databases that each build keeps. */
const KEPT = 2;

let builds: TwoBuilds;

beforeAll(async () => {
  const migration = { of: 'tenant', name: NEWER, statements: ['create table newer (id integer)'] } as const;
  builds = await prepareTwoBuilds([migration], { STANDBY_DATABASES: String(KEPT) });
}, 180_000);
afterAll(() => builds.close(), 60_000);

/** Standby databases that are ready, by schema. */
async function standby(): Promise<Record<string, number>> {
  const rows = await builds.central.db
    .selectFrom('standby_databases')
    .select('schema_version')
    .where('ready', '=', true)
    .execute();
  const counts: Record<string, number> = {};
  for (const { schema_version: version } of rows) counts[version] = (counts[version] ?? 0) + 1;
  return counts;
}

async function ids(version: string): Promise<string[]> {
  const rows = await builds.central.db
    .selectFrom('standby_databases')
    .select('id')
    .where('schema_version', '=', version)
    .execute();
  return rows.map(({ id }) => id).sort();
}

async function post<T>({ url }: ServiceProcess, route: string, body: object, token?: string): Promise<T> {
  const answer = await fetch(url + route, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(token !== undefined && { authorization: `Bearer ${token}` }) },
    body: JSON.stringify(body),
  });
  const text = await answer.text();
  expect([200, 201], text).toContain(answer.status);
  return JSON.parse(text) as T;
}

let tenants = 0;

/** Makes a tenant. @returns its id and the schema of its database */
async function makeTenant(service: ServiceProcess): Promise<{ id: string; schema: string | undefined }> {
  const { accessToken } = await post<{ accessToken: string }>(service, '/auth/operator/login', OPERATOR);
  const slug = `builds-${(tenants += 1)}`;
  const { id } = await post<{ id: string }>(service, '/tenants', { name: slug, slug, admin: ADMIN }, accessToken);
  const { central } = builds;
  const row = await central.db.selectFrom('tenants').select('schema_version').where('id', '=', id).executeTakeFirst();
  return { id, schema: row?.schema_version };
}

/** How many databases were made and dropped so far. */
async function madeAndDropped(): Promise<{ made: number; dropped: number }> {
  const log = await readFile(builds.cluster.logFile ?? '', 'utf8');
  const count = (pattern: RegExp): number => log.match(pattern)?.length ?? 0;
  return { made: count(/: create database "?tn_/gi), dropped: count(/: drop database .*"?tn_/gi) };
}

it(
  'each build keeps standby databases of its own schema, and takes none from the other',
  { timeout: 240_000 },
  async () => {
    await builds.older.migrate();
    const older = await builds.older.start();
    await eventually('the older build has made its own', async () => (await standby())[OLDER] === KEPT, 60_000);

    expect(await builds.newer.migrate()).toMatchObject({ standbyWithdrawn: KEPT, templateMade: true });
    expect((await standby())[OLDER]).toBeUndefined();
    const newer = await builds.newer.start();
    await eventually('the newer build has made its own', async () => (await standby())[NEWER] === KEPT, 60_000);
    const ofNewer = await ids(NEWER);

    // Back to the older build, which needs its template again.
    expect(await builds.older.migrate()).toMatchObject({ standbyWithdrawn: 0, templateMade: true, newer: [NEWER] });
    await eventually('the older build has made its own again', async () => (await standby())[OLDER] === KEPT, 90_000);
    const ofOlder = await ids(OLDER);
    expect(await ids(NEWER)).toEqual(ofNewer);

    // Every claim makes a job look at the standby databases of both schemas, on either replica.
    const before = await madeAndDropped();
    const made = { older: await makeTenant(older), newer: await makeTenant(newer) };
    expect(made.older.schema).toBe(OLDER);
    expect(ofOlder, 'the id of a standby database').toContain(made.older.id);
    expect(made.newer.schema).toBe(NEWER);
    expect(ofNewer).toContain(made.newer.id);
    await sleep(15_000);
    const after = await madeAndDropped();
    expect(after.dropped).toBe(before.dropped);
    expect(after.made - before.made, 'one for each claim').toBeLessThanOrEqual(2);
    const left = [...ofOlder, ...ofNewer].filter((id) => id !== made.older.id && id !== made.newer.id);
    expect([...(await ids(OLDER)), ...(await ids(NEWER))]).toEqual(expect.arrayContaining(left));

    older.signal('SIGTERM');
    expect(await older.exited).toBe(0);
    const surplus = (await ids(OLDER)).length;
    await eventually(
      'the newer build withdraws those of the older one',
      async () => (await ids(OLDER)).length === 0,
      90_000,
    );
    await eventually('the newer build has all of its own', async () => (await standby())[NEWER] === KEPT, 60_000);
    expect(await madeAndDropped()).toMatchObject({ dropped: before.dropped + surplus });
    expect(await ids(NEWER)).toEqual(expect.arrayContaining(ofNewer.filter((id) => id !== made.newer.id)));
  },
);
