// Two builds with different schemas of tenants on one registry, as during a rolling deployment: the older one is this source, and
// the newer one is a copy of it with one migration more.
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { ConnectionSettings, DatabaseHandle } from '../../db/driver/client.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { startCluster, type TestCluster } from '../support/cluster.js';
import { ADMIN, connectTo, createRegistryIn, OPERATOR } from '../support/service.js';
import {
  eventually,
  isRunning,
  makeDataDir,
  runProgram,
  startProcess,
  type ServiceProcess,
} from '../support/service-process.js';
import { copySource, sealMigrations, type SourceCopy } from '../support/source-copy.js';

const OLDER = latestVersion(tenantMigrations);
const NEWER = `${String(Number(OLDER.slice(0, 4)) + 1).padStart(4, '0')}_newer`;

/** Standby databases that each build keeps. */
const KEPT = 2;

let cluster: TestCluster;
let stop: () => Promise<void>;
let data: Awaited<ReturnType<typeof makeDataDir>>;
let copy: SourceCopy;
let central: DatabaseHandle<Registry>;
let env: Record<string, string>;
/** All processes of the service. */
const started: ServiceProcess[] = [];

async function addMigration(folder: string): Promise<void> {
  const migrations = path.join(folder, 'db/tenant/migrations');
  await writeFile(
    path.join(migrations, `${NEWER}.ts`),
    `import { sql, type Kysely } from 'kysely';
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql\`create table newer (id integer)\`.execute(db);
}
`,
  );
  const index = path.join(migrations, 'index.ts');
  const listed = (await readFile(index, 'utf8'))
    .replace(/^};$/m, `  '${NEWER}': newer,\n};`)
    .replace(/^import \* as /m, `import * as newer from './${NEWER}.js';\n$&`);
  await writeFile(index, listed);
  await sealMigrations(folder);
  await promisify(execFile)('npm', ['run', '--silent', 'build'], { cwd: folder });
}

beforeAll(async () => {
  ({ cluster, stop } = await startCluster({ log_statement: 'ddl' }));
  data = await makeDataDir();
  copy = await copySource();
  await addMigration(copy.folder);
  const database = await createRegistryIn(cluster);
  central = connectTo<Registry>(cluster, database);
  const { superuser, registryOwner, registryService, provisioner } = cluster;
  const urlOf = ({ user, password, host, port, database: name }: ConnectionSettings): string =>
    `postgres://${user}:${password}@${host}:${port}/${name}`;
  env = {
    DATA_DIR: data.dir,
    DATABASE_URL: urlOf({ ...superuser, ...registryService, database }),
    MIGRATION_DATABASE_URL: urlOf({ ...superuser, ...registryOwner, database }),
    TENANT_DATABASE_URL: urlOf(provisioner),
    STANDBY_DATABASES: String(KEPT),
    OPERATOR_EMAIL: OPERATOR.email,
    OPERATOR_PASSWORD: OPERATOR.password,
  };
}, 180_000);

afterAll(async () => {
  for (const service of started)
    if (isRunning(service.pid)) {
      service.signal('SIGTERM');
      await service.exited;
    }
  await central.close(0);
  await Promise.all([stop(), copy.remove(), data.remove()]);
}, 60_000);

async function start(folder?: string): Promise<ServiceProcess> {
  const service = await startProcess(env, folder);
  started.push(service);
  return service;
}

/** Standby databases that are ready, by schema. */
async function standby(): Promise<Record<string, number>> {
  const rows = await central.db
    .selectFrom('standby_databases')
    .select('schema_version')
    .where('ready', '=', true)
    .execute();
  const counts: Record<string, number> = {};
  for (const { schema_version: version } of rows) counts[version] = (counts[version] ?? 0) + 1;
  return counts;
}

async function ids(version: string): Promise<string[]> {
  const rows = await central.db
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
  const row = await central.db.selectFrom('tenants').select('schema_version').where('id', '=', id).executeTakeFirst();
  return { id, schema: row?.schema_version };
}

/** How many databases were made and dropped so far. */
async function madeAndDropped(): Promise<{ made: number; dropped: number }> {
  const log = await readFile(cluster.logFile ?? '', 'utf8');
  const count = (pattern: RegExp): number => log.match(pattern)?.length ?? 0;
  return { made: count(/: create database "?tn_/gi), dropped: count(/: drop database .*"?tn_/gi) };
}

it(
  'each build keeps standby databases of its own schema, and takes none from the other',
  { timeout: 240_000 },
  async () => {
    const older = await start();
    await eventually('the older build has made its own', async () => (await standby())[OLDER] === KEPT, 60_000);
    const ofOlder = await ids(OLDER);

    const migrated = await runProgram('src/cli/migrate.js', env, [], copy.folder);
    expect(migrated.code, migrated.stdout + migrated.stderr).toBe(0);
    const newer = await start(copy.folder);
    await eventually('the newer build has made its own', async () => (await standby())[NEWER] === KEPT, 60_000);
    const ofNewer = await ids(NEWER);
    expect(await ids(OLDER)).toEqual(ofOlder);

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
