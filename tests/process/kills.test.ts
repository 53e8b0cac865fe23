// A process of the service is killed at each statement that it sends while it makes, claims, adopts, deletes, restores or removes
// a tenant, or changes the password of its database. It is killed before the statement is sent, or right after: then the server
// runs the statement for no client. Another process starts, and within 30 s nothing half-made is left. Every acknowledged result
// is whole.
import { sql, type Kysely } from 'kysely';
import { randomBytes } from 'node:crypto';
import { readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import ts from 'typescript';
import { afterAll, beforeAll, expect, inject, it } from 'vitest';
import { findInstallationId } from '../../db/registry/installation.js';
import { findOperatorByEmail, insertOperator } from '../../db/registry/operator-queries.js';
import type { Registry, TenantStatus } from '../../db/registry/registry-schema.js';
import { listStandby } from '../../db/registry/standby-rows.js';
import { listRestoringTenants, listUnfinishedTenants } from '../../db/registry/tenant-worklists.js';
import {
  findTenant,
  findTenantBySlug,
  listProvisionedTenants,
  type TenantRecord,
} from '../../db/registry/tenant-queries.js';
import type { ConnectionSettings, DatabaseHandle } from '../../db/driver/client.js';
import { findMarks } from '../../db/server/marks.js';
import { scramVerifier } from '../../db/server/scram.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { openApp } from '../support/service.js';
import { localSecrets } from '../../src/boot/local-secrets.js';
import { createEnvelope } from '../../src/secrets/envelope.js';
import { compare } from '../../src/operations/evidence.js';
import { migrateAll } from '../../src/rollouts/migrate-fleet.js';
import { openProvisioner } from '../../src/clusters/provisioner-connections.js';
import { templateName } from '../../src/operations/template/template-names.js';
import {
  ADMIN,
  asSuperuser,
  beginSession,
  connectAs,
  createRegistry,
  OPERATOR,
  sender,
  testConfig,
  TOKEN_KEY,
  type PageOf,
  type Send,
} from '../support/app.js';
import { build, eventually, makeDataDir, startProcess, type ServiceProcess } from '../support/service-process.js';

const root = path.resolve(import.meta.dirname, '../..');
const killAt = path.join(root, 'dist', `kill-at-${process.pid}.js`);

// A separate provisioner: everything that it owns comes from these processes.
const provisionerRole = `provisioner_${randomBytes(6).toString('hex')}`;

let data: Awaited<ReturnType<typeof makeDataDir>>;
let registryName: string;
let central: DatabaseHandle<Registry>;
let provisioner: ConnectionSettings;
let token: string;

/** The sampled statements: KILL_EVERY=1 takes every one, which takes minutes; the suite takes a sample. */
const EVERY = Number(process.env['KILL_EVERY'] ?? 20);

/** More than the statements of an act: statements beyond this number would stay untested. */
const MOST_STATEMENTS = 60;

/** The statements at which processes are killed, one process each, until a process answers. A long act has a sparser sample. */
function killPoints(most = MOST_STATEMENTS): number[] {
  const every = EVERY === 1 ? 1 : Math.ceil((EVERY * most) / MOST_STATEMENTS);
  return Array.from({ length: Math.floor(most / every) }, (_, index) => (index + 1) * every);
}

/** The number of targets for the processes of one act: one for each process, in either of the two lanes. */
const targetsOf = (most?: number): number => 2 * killPoints(most).length;
const TARGETS = targetsOf();

/** Adopting migrates the database, a statement at a time. */
const MOST_OF_ADOPTING = 180;

/** Each killed process keeps its slots of the reserve for 30 s: the next must not wait for them. */
const RESERVE = '500';

type When = 'before' | 'after';

/** The act during which a process is killed. */
interface Act {
  /** Upper bound for its statements, if there are many. */
  readonly most?: number;
  /** Makes the act's targets beforehand, in a service that is not killed. */
  prepare(send: Send): Promise<void>;
  /** @param nth a different number for each process */
  request(nth: number): { readonly method: string; readonly path: string; readonly body?: object };
  /** Checks the target of one process, which was killed or answered. */
  check(nth: number, answered: boolean, send: Send): Promise<void>;
}

const made = (slug: string): { method: string; path: string; body: object } => ({
  method: 'POST',
  path: '/tenants',
  body: { name: 'Killed', slug, admin: ADMIN },
});

/** The tenant is whole, or does not exist: then another can be made. */
async function wholeOrAbsent(slug: string, acknowledged: boolean, send: Send): Promise<void> {
  const row = await findTenantBySlug(central.db, slug);
  if (acknowledged) expect(row, slug).toBeDefined();
  if (!row) return;
  expect(row.status, slug).toBe('active');
  const { email, password } = ADMIN;
  expect((await send('POST', '/auth/login', { body: { tenant: slug, email, password } })).status, slug).toBe(200);
}

/** Makes the tenant of each process of an act, with its number after the name. */
async function makeTargets(send: Send, name: string): Promise<TenantRecord[]> {
  const targets: TenantRecord[] = [];
  for (let nth = 0; nth < TARGETS; nth += 1) {
    const slug = `${name}-${nth}`;
    expect((await send('POST', '/tenants', { token, body: made(slug).body })).status).toBe(201);
    const row = await findTenantBySlug(central.db, slug);
    if (row) targets.push(row);
  }
  return targets;
}

/** Whether the password is the previous one or another one, and the same in the registry, the audit and PostgreSQL. */
async function changedOrNot(before: TenantRecord, acknowledged: boolean): Promise<void> {
  const { id, slug, dbHost: host, dbPort: port, dbName, dbUser: user } = before;
  const row = await findTenant(central.db, id);
  const changed = row?.dbPassword !== before.dbPassword;
  if (acknowledged) expect(changed, slug).toBe(true);
  const told = await central.db
    .selectFrom('audit')
    .select('id')
    .where('tenant_id', '=', id)
    .where('action', '=', 'tenant.password-rotated')
    .execute();
  expect(told, slug).toHaveLength(changed ? 1 : 0);
  const { encryptionKeys } = testConfig(registryName);
  const password = createEnvelope(encryptionKeys).open(row?.dbPassword ?? '', { id, host, port, user });
  const entered = connectAs<unknown>(dbName, { user, password });
  try {
    await sql`select 1`.execute(entered.db);
  } finally {
    await entered.close(0);
  }
}

/** Whether a tenant has one of these statuses, and its database is open or closed accordingly. */
async function closedOrOpen(slug: string, statuses: readonly TenantStatus[]): Promise<void> {
  const row = await findTenantBySlug(central.db, slug);
  expect(statuses, slug).toContain(row?.status);
  expect(await isOpen(row?.dbName ?? ''), slug).toBe(row?.status === 'active');
}

async function isOpen(name: string): Promise<boolean | undefined> {
  const { rows } = await asSuperuser('postgres', (db) =>
    sql<{ open: boolean }>`select datallowconn as open from pg_database where datname = ${name}`.execute(db),
  );
  return rows[0]?.open;
}

/** Makes a database of the provisioner with a row in it, for adoption. */
async function makeLegacy(name: string): Promise<void> {
  const owner = sql.id(provisionerRole);
  await asSuperuser('postgres', (db) => sql`create database ${sql.id(name)} owner ${owner}`.execute(db));
  await asSuperuser(name, async (db) => {
    await sql`create table invoices (number integer)`.execute(db);
    await sql`insert into invoices values (1)`.execute(db);
    await sql`alter table invoices owner to ${owner}`.execute(db);
  });
}

let clusterId = '';
let deleted: TenantRecord[] = [];
let restored: TenantRecord[] = [];
let doomed: TenantRecord[] = [];
let rotated: TenantRecord[] = [];

const acts: Record<string, Act> = {
  'making a tenant from the template': {
    prepare: async () => undefined,
    request: (nth) => made(`made-${nth}`),
    check: (nth, answered, send) => wholeOrAbsent(`made-${nth}`, answered, send),
  },
  'making one from a standby database': {
    prepare: async () => {
      const app = await startApp(TARGETS);
      const ready = async (): Promise<boolean> => (await listStandby(central.db, { ready: true })).length >= TARGETS;
      await eventually('they are ready', ready, 120_000);
      await app.close();
    },
    request: (nth) => made(`claimed-${nth}`),
    check: (nth, answered, send) => wholeOrAbsent(`claimed-${nth}`, answered, send),
  },
  'purging one': {
    prepare: async (send) => {
      doomed = await makeTargets(send, 'gone');
      for (const { id } of doomed) expect((await send('DELETE', `/tenants/${id}`, { token })).status).toBe(204);
    },
    request: (nth) => ({ method: 'POST', path: `/tenants/${doomed[nth]?.id ?? ''}/purge` }),
    check: async (nth, answered) => {
      const row = await findTenantBySlug(central.db, `gone-${nth}`);
      if (answered) expect(row).toBeUndefined();
      // Not begun: the tenant can still be restored.
      else expect([undefined, 'deleted']).toContain(row?.status);
    },
  },
  'deleting one': {
    prepare: async (send) => {
      deleted = await makeTargets(send, 'deleted');
    },
    request: (nth) => ({ method: 'DELETE', path: `/tenants/${deleted[nth]?.id ?? ''}` }),
    check: (nth, answered) => closedOrOpen(`deleted-${nth}`, answered ? ['deleted'] : ['deleted', 'active']),
  },
  'restoring one': {
    prepare: async (send) => {
      restored = await makeTargets(send, 'restored');
      for (const { id } of restored) expect((await send('DELETE', `/tenants/${id}`, { token })).status).toBe(204);
    },
    request: (nth) => ({ method: 'POST', path: `/tenants/${restored[nth]?.id ?? ''}/restore` }),
    check: (nth, answered) => closedOrOpen(`restored-${nth}`, answered ? ['active'] : ['active', 'deleted']),
  },
  'adopting a database': {
    most: MOST_OF_ADOPTING,
    prepare: async () => {
      for (let nth = 0; nth < targetsOf(MOST_OF_ADOPTING); nth += 1) await makeLegacy(`killed_${process.pid}_${nth}`);
    },
    request: (nth) => ({
      method: 'POST',
      path: '/tenants',
      body: {
        ...made(`adopted-${nth}`).body,
        adopt: { clusterId, database: `killed_${process.pid}_${nth}` },
      },
    }),
    check: async (nth, answered, send) => {
      await wholeOrAbsent(`adopted-${nth}`, answered, send);
      const name = `killed_${process.pid}_${nth}`;
      const { rows } = await asSuperuser(name, (db) => sql`select number from invoices`.execute(db));
      expect(rows, name).toEqual([{ number: 1 }]);
    },
  },
  'changing the password of its database': {
    prepare: async (send) => {
      rotated = await makeTargets(send, 'rotated');
    },
    request: (nth) => ({ method: 'POST', path: `/tenants/${rotated[nth]?.id ?? ''}/rotate-password` }),
    check: async (nth, answered, send) => {
      const before = rotated[nth];
      if (!before) throw new Error('there is no such tenant');
      await wholeOrAbsent(before.slug, true, send);
      await changedOrNot(before, answered);
    },
  },
};

beforeAll(async () => {
  await build();
  data = await makeDataDir();
  // Beforehand: if two processes made them at once, one would not find its draft, because the other removed it.
  await localSecrets(data.dir);
  const source = await readFile(path.join(root, 'tests/support/kill-at.ts'), 'utf8');
  const { outputText } = ts.transpileModule(source, {
    compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 },
  });
  await writeFile(killAt, outputText);

  const config = testConfig((registryName = await createRegistry()));
  central = connectAs<Registry>(registryName);
  const password = 'password-of-this-provisioner';
  await asSuperuser('postgres', async (db) => {
    const verifier = sql.lit(await scramVerifier(password, 1));
    await sql`create role ${sql.id(provisionerRole)} login createdb createrole password ${verifier}`.execute(db);
    await sql`grant connect on database postgres to ${sql.id(provisionerRole)}`.execute(db);
  });
  provisioner = { ...config.tenants.provisioner, user: provisionerRole, password };
  const opened = openProvisioner(provisioner, config.tenants.provisionerPool);
  await migrateAll({ registry: central.db, ...opened, provisioner: provisionerRole });
  await opened.close();
  await insertOperator(central.db, { email: OPERATOR.email, passwordHash: 'not used' });
  const app = await startApp(0);
  const operator = await findOperatorByEmail(central.db, OPERATOR.email);
  token = await beginSession(app, { kind: 'operator', operatorId: operator?.id ?? '' });
  const { body: clusters } = await sender(app)<PageOf<{ id: string }>>('GET', '/clusters', { token });
  clusterId = clusters.data[0]?.id ?? '';
  await app.close();
});

afterAll(async () => {
  await rm(killAt, { force: true });
  await data.remove();
  await central.close(0);
});

it.each(Object.keys(acts))(
  '%s: nothing is left half-made if the process is killed before or inside any statement',
  async (name) => {
    const act = acts[name];
    if (!act) throw new Error('there is no such act');
    const before = await startApp(0, false);
    await act.prepare(sender(before));
    await before.close();

    const [early, late] = await withoutHousekeeping(() =>
      Promise.all([killAtEach(act, 'before'), killAtEach(act, 'after')]),
    );
    const killed = [...early, ...late];
    expect(killed.filter(({ answered }) => !answered).length).toBeGreaterThan(12 / EVERY);

    const app = await startApp(0);
    let left = ['not looked at'];
    await eventually('nothing is half-made', async () => (left = await halfMade()).length === 0, 120_000).catch(
      () => undefined,
    );
    expect(left).toEqual([]);
    // Not checked again: from now on the service drops left-over standby databases, one at a time.
    for (const { nth, answered } of killed) await act.check(nth, answered, sender(app));
    await app.close();
  },
  900_000,
);

/** Kills one process after the other, each at a later statement, until one of them answers. */
async function killAtEach(act: Act, when: When): Promise<{ nth: number; answered: boolean }[]> {
  const killed: { nth: number; answered: boolean }[] = [];
  for (const [index, statement] of killPoints(act.most).entries()) {
    const nth = when === 'before' ? index : targetsOf(act.most) - 1 - index;
    const child = await startProcess({
      ...(await environment()),
      KILL_AT: String(statement),
      KILL_WHEN: when,
      NODE_OPTIONS: `--import=${pathToFileURL(killAt).href}`,
    });
    child.signal('SIGUSR2');
    await eventually('it counts', () => child.stdout.includes('armed'));
    const answered = await succeeds(child, act.request(nth));
    if (answered) child.signal('SIGKILL');
    expect(await child.exited).toBeNull();
    killed.push({ nth, answered });
    if (answered) return killed;
  }
  throw new Error(`the act sends more than ${act.most ?? MOST_STATEMENTS} statements`);
}

async function succeeds(child: ServiceProcess, request: ReturnType<Act['request']>): Promise<boolean> {
  const { method, path: where, body } = request;
  const response = await fetch(`${child.url}${where}`, {
    method,
    headers: { authorization: `Bearer ${token}`, ...(body && { 'content-type': 'application/json' }) },
    ...(body && { body: JSON.stringify(body) }),
  }).catch(() => undefined);
  if (response && !response.ok)
    throw new Error(`${method} ${where} answered ${response.status}: ${await response.text()}`);
  return response !== undefined;
}

/**
 * Stops housekeeping, so that no process cleans up after another, or counts statements of such work. Only the last process does.
 */
async function withoutHousekeeping<T>(work: () => Promise<T>): Promise<T> {
  const jobs = ['reconciler', 'standby databases', 'rotation', 'lifecycle settle', 'lifecycle purge'];
  return central.db.connection().execute(async (db: Kysely<Registry>) => {
    for (const job of jobs) await sql`select pg_advisory_lock(hashtextextended(${`tenantry ${job}`}, 0))`.execute(db);
    try {
      return await work();
    } finally {
      await sql`select pg_advisory_unlock_all()`.execute(db);
    }
  });
}

/** Unfinished rows, and databases and roles of this provisioner without a row. */
async function halfMade(): Promise<string[]> {
  const unfinished = await listUnfinishedTenants(central.db);
  const restoring = await listRestoringTenants(central.db);
  const rotations = await central.db
    .selectFrom('tenants')
    .select('id')
    .where('next_db_password', 'is not', null)
    .where('status', '!=', 'deleting')
    .execute();
  const standbys = await listStandby(central.db);
  const known = [
    ...(await listProvisionedTenants(central.db)).flatMap(({ dbName, dbUser }) => [dbName, dbUser]),
    ...standbys.filter(({ ready }) => ready).map(({ dbName }) => dbName),
    templateName(tenantMigrations, provisionerRole),
  ];
  const { rows } = await asSuperuser('postgres', (db) =>
    sql<{ name: string }>`
      select datname as name from pg_database where datdba = ${provisionerRole}::regrole
      union select distinct roleid::regrole::text from pg_auth_members where member = ${provisionerRole}::regrole`.execute(
      db,
    ),
  );
  return [
    ...unfinished.map(({ slug, status }) => `${slug} is ${status}`),
    ...restoring.map((id) => `${id} is half restored`),
    ...(await disagreeing()),
    ...rotations.map(({ id }) => `the password of ${id} is half changed`),
    ...standbys.filter(({ ready }) => !ready).map(({ dbName }) => `${dbName} is half-made`),
    ...rows
      .filter(({ name }) => !known.includes(name) && !name.startsWith('killed_'))
      .map(({ name }) => `${name} has no row`),
  ];
}

/** Tenants whose database is not open or closed as their status demands, or has another mark. */
async function disagreeing(): Promise<string[]> {
  const opened = openProvisioner(provisioner, testConfig(registryName).tenants.provisionerPool);
  try {
    const installation = await findInstallationId(central.db);
    const tenants = await listProvisionedTenants(central.db);
    const found = await findMarks(
      opened.cluster,
      tenants.map(({ dbName }) => dbName),
    );
    return tenants.flatMap((tenant) => {
      const database = found.find(({ name }) => name === tenant.dbName);
      const verdict = database && compare(tenant, database, installation);
      const right = verdict === 'agrees' && database?.open === (tenant.status === 'active');
      return right ? [] : [`${tenant.slug} is ${tenant.status}, its database ${verdict ?? 'is gone'}`];
    });
  } finally {
    await opened.close();
  }
}

async function startApp(standbys: number, reconciles = true): ReturnType<typeof openApp> {
  const config = testConfig(registryName, {
    STANDBY_DATABASES: String(standbys),
    // A run with KILL_EVERY=1 takes longer than the default lifetime of the token.
    ACCESS_TOKEN_TTL: '7200',
    CLUSTER_CONNECTION_RESERVE: RESERVE,
    RECONCILE_EVERY_MS: reconciles ? '1000' : '3600000',
  });
  return openApp({ ...config, tenants: { ...config.tenants, provisioner } });
}

async function environment(): Promise<Record<string, string>> {
  const { superuser, registryService } = inject('cluster');
  return {
    DATABASE_URL: urlOf({ ...superuser, ...registryService, database: registryName }),
    TENANT_DATABASE_URL: urlOf(provisioner),
    DATA_DIR: data.dir,
    JWT_KEYS: TOKEN_KEY,
    ENCRYPTION_KEYS: `test:${Buffer.alloc(32, 7).toString('base64')}`,
    RECONCILE_EVERY_MS: '3600000',
    CLUSTER_CONNECTION_RESERVE: RESERVE,
  };
}

function urlOf({ host, port, user, password, database }: ConnectionSettings): string {
  return `postgres://${user}:${password}@${host}:${port}/${database}`;
}
