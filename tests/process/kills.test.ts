// A process of the service is killed at each statement that it sends while it makes, claims, adopts, deletes, restores or removes
// a tenant, changes the password of its database, or makes or drops a standby database. It is killed before the statement is sent,
// or right after: then the server runs the statement for no client. When all are killed another process starts, and soon nothing
// half-made is left. Every acknowledged result is whole.
import { sql } from 'kysely';
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { findCluster } from '../../db/registry/cluster-queries.js';
import { findInstallationId } from '../../db/registry/installation.js';
import { findOperation, insertOperation } from '../../db/registry/operations/operation-rows.js';
import { findOperatorByEmail, insertOperator } from '../../db/registry/operator-queries.js';
import type { Registry, TenantStatus } from '../../db/registry/registry-schema.js';
import { findStandby, insertStandby, listStandby, retireStandby } from '../../db/registry/standby-rows.js';
import { listRestoringTenants } from '../../db/registry/tenant-worklists.js';
import {
  findTenant,
  findTenantBySlug,
  listProvisionedTenants,
  type TenantRecord,
} from '../../db/registry/tenant-queries.js';
import type { ConnectionSettings, DatabaseHandle } from '../../db/driver/client.js';
import { findMarks } from '../../db/server/marks.js';
import { scramVerifier } from '../../db/server/scram.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { openApp, urlOf } from '../support/service.js';
import { localSecrets } from '../../src/boot/local-secrets.js';
import { createEnvelope } from '../../src/secrets/envelope.js';
import { compare } from '../../src/operations/evidence.js';
import { migrateAll } from '../../src/rollouts/migrate-fleet.js';
import { openProvisioner } from '../../src/clusters/provisioner-connections.js';
import { templateName } from '../../src/operations/template/template-names.js';
import { standbyMark } from '../../src/operations/standby/standby-databases.js';
import { newDatabaseName, newDatabasePassword, newTenantId } from '../../src/tenants/tenant-ids.js';
import {
  ADMIN,
  asSuperuser,
  beginGrant,
  connectAs,
  createRegistry,
  OPERATOR,
  sender,
  testConfig,
  TOKEN_KEY,
  type PageOf,
  type Send,
} from '../support/app.js';
import {
  EVERY,
  killEach,
  missedIn,
  prepareKills,
  targetsOf,
  type KilledAct,
  type KilledProcess,
} from '../support/killed-processes.js';
import { holdJobs } from '../support/held-jobs.js';
import { build, eventually, makeDataDir } from '../support/service-process.js';

// A separate provisioner: everything that it owns comes from these processes.
const provisionerRole = `provisioner_${randomBytes(6).toString('hex')}`;

let data: Awaited<ReturnType<typeof makeDataDir>>;
let registryName: string;
let central: DatabaseHandle<Registry>;
let provisioner: ConnectionSettings;
/** Signs a new token of the operator. A run takes longer than a sign-in counts as recent. */
let newToken: () => string;
let removeKills = async (): Promise<void> => undefined;

/** Each killed process keeps its slots of the reserve for 30 s: the next must not wait for them. */
const RESERVE = '500';

/** The time (ms) in which another process finishes or undoes what the killed ones left. There are hundreds if all statements are taken. */
const SETTLED_IN = EVERY === 1 ? 240_000 : 45_000;

/** The act during which a process is killed. */
interface Act extends KilledAct {
  /** Makes the act's targets beforehand, in a service that is not killed. */
  prepare(send: Send, targets: number): Promise<void>;
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
async function makeTargets(send: Send, name: string, count: number): Promise<TenantRecord[]> {
  const targets: TenantRecord[] = [];
  for (let nth = 0; nth < count; nth += 1) {
    const slug = `${name}-${nth}`;
    expect((await send('POST', '/tenants', { token: newToken(), body: made(slug).body })).status).toBe(201);
    const row = await findTenantBySlug(central.db, slug);
    if (row) targets.push(row);
  }
  return targets;
}

/** The same, each tenant after a request to one of its paths. */
async function makeTargetsAfter(
  send: Send,
  name: string,
  count: number,
  method: 'POST' | 'DELETE',
  act = '',
): Promise<TenantRecord[]> {
  const targets = await makeTargets(send, name, count);
  for (const { id } of targets)
    expect((await send(method, `/tenants/${id}${act}`, { token: newToken() })).status).toBeLessThan(300);
  return targets;
}

/** A standby database, and the operation that makes or drops it. */
interface StandbyTarget {
  readonly id: string;
  readonly name: string;
  readonly operationId: string;
}

/** Records a standby database, as the job does, with its operation. */
async function recordStandby(): Promise<StandbyTarget> {
  const place = await findCluster(central.db, clusterId);
  if (!place) throw new Error('there is no cluster');
  const [id, name] = [newTenantId(), newDatabaseName()];
  const context = { id, host: place.host, port: place.port, user: name };
  const row = {
    id,
    clusterId,
    dbName: name,
    dbUser: name,
    dbPassword: createEnvelope(testConfig(registryName).encryptionKeys).seal(newDatabasePassword(), context),
    schemaVersion: latestVersion(tenantMigrations),
  };
  return central.db.transaction().execute(async (trx) => {
    await insertStandby(trx, row, place);
    const operation = await insertOperation(trx, { kind: 'standby', subject: id, clusterId });
    return { id, name, operationId: operation?.id ?? '' };
  });
}

/** Standby databases that are ready. The service that calls this makes them. */
async function makeStandbys(count: number): Promise<StandbyTarget[]> {
  const targets = await Promise.all(Array.from({ length: count }, recordStandby));
  const areReady = async (): Promise<boolean> => {
    const ready = (await listStandby(central.db, { ready: true })).map(({ id }) => id);
    return targets.every(({ id }) => ready.includes(id));
  };
  await eventually('they are ready', areReady, 240_000);
  return targets;
}

/**
 * Lets no worker take any operation until it is retried. Otherwise a process is busy with what the killed ones left, and takes its
 * own operation later, in a look that no request causes.
 */
async function postponeAll(): Promise<void> {
  await sql`update operations set not_before = now() + interval '1 day' where ended_at is null`.execute(central.db);
}

/** An act of operations that a job records. The process begins its operation when an operator retries it. */
function ofJob(operationOf: (nth: number) => string | undefined): Pick<Act, 'alone' | 'request' | 'ended'> {
  return {
    // Another process could take the operation, since it is due after the retry.
    alone: true,
    request: (nth) => ({ method: 'POST', path: `/operations/${operationOf(nth) ?? ''}/retry` }),
    ended: async (nth) => {
      const operation = await findOperation(central.db, operationOf(nth) ?? '');
      return operation !== undefined && operation.endedAt !== null;
    },
  };
}

/** The standby database is whole and ready, or nothing of it is left: then `false`. */
async function standbyOrNothing({ id, name }: StandbyTarget): Promise<boolean> {
  const row = await findStandby(central.db, id);
  const { rows } = await asSuperuser('postgres', (db) =>
    sql<{ open: boolean | null; mark: string | null; role: string | null; login: boolean | null }>`
      select d.datallowconn as open, shobj_description(d.oid, 'pg_database') as mark,
        shobj_description(r.oid, 'pg_authid') as role, r.rolcanlogin as login
      from (select ${name}::text as name) given left join pg_database d on d.datname = name
        left join pg_roles r on r.rolname = name where d.oid is not null or r.oid is not null`.execute(db),
  );
  if (!row) {
    expect(rows, name).toEqual([]);
    return false;
  }
  expect(row.ready, name).toBe(true);
  const mark = standbyMark(await findInstallationId(central.db), id);
  expect(rows, name).toEqual([{ open: false, mark, role: mark, login: false }]);
  return true;
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
let suspended: TenantRecord[] = [];
let resumed: TenantRecord[] = [];
let doomed: TenantRecord[] = [];
let rotated: TenantRecord[] = [];
let begun: StandbyTarget[] = [];
let withdrawn: StandbyTarget[] = [];

const acts: Record<string, Act> = {
  'making a tenant from the template': {
    most: 50,
    prepare: async () => undefined,
    request: (nth) => made(`made-${nth}`),
    check: (nth, answered, send) => wholeOrAbsent(`made-${nth}`, answered, send),
  },
  'making one from a standby database': {
    most: 40,
    prepare: async (_, targets) => {
      await makeStandbys(targets);
    },
    request: (nth) => made(`claimed-${nth}`),
    check: (nth, answered, send) => wholeOrAbsent(`claimed-${nth}`, answered, send),
  },
  'purging one': {
    most: 50,
    prepare: async (send, targets) => {
      doomed = await makeTargetsAfter(send, 'gone', targets, 'DELETE');
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
    most: 36,
    prepare: async (send, targets) => {
      deleted = await makeTargets(send, 'deleted', targets);
    },
    request: (nth) => ({ method: 'DELETE', path: `/tenants/${deleted[nth]?.id ?? ''}` }),
    check: (nth, answered) => closedOrOpen(`deleted-${nth}`, answered ? ['deleted'] : ['deleted', 'active']),
  },
  'restoring one': {
    most: 40,
    prepare: async (send, targets) => {
      restored = await makeTargetsAfter(send, 'restored', targets, 'DELETE');
    },
    request: (nth) => ({ method: 'POST', path: `/tenants/${restored[nth]?.id ?? ''}/restore` }),
    check: (nth, answered) => closedOrOpen(`restored-${nth}`, answered ? ['active'] : ['active', 'deleted']),
  },
  'adopting a database': {
    most: 260,
    prepare: async (_, targets) => {
      for (let nth = 0; nth < targets; nth += 1) await makeLegacy(`killed_${process.pid}_${nth}`);
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
    most: 50,
    prepare: async (send, targets) => {
      rotated = await makeTargets(send, 'rotated', targets);
    },
    request: (nth) => ({ method: 'POST', path: `/tenants/${rotated[nth]?.id ?? ''}/rotate-password` }),
    check: async (nth, answered, send) => {
      const before = rotated[nth];
      if (!before) throw new Error('there is no such tenant');
      await wholeOrAbsent(before.slug, true, send);
      await changedOrNot(before, answered);
    },
  },
  // After the acts that make tenants: they would claim these databases.
  'making a standby database': {
    most: 60,
    ...ofJob((nth) => begun[nth]?.operationId),
    prepare: async (_, targets) => {
      begun = Array.from({ length: targets });
    },
    // Recorded one by one, so that no process makes the others.
    ready: async (nth) => {
      const target = await recordStandby();
      await postponeAll();
      begun[nth] = target;
    },
    check: async (nth, answered) => {
      const target = begun[nth];
      if (!target) throw new Error('there is no such standby database');
      const exists = await standbyOrNothing(target);
      if (answered) expect(exists).toBe(true);
    },
  },
  'dropping a standby database': {
    most: 40,
    ...ofJob((nth) => withdrawn[nth]?.operationId),
    prepare: async (_, targets) => {
      withdrawn = await makeStandbys(targets);
    },
    ready: async (nth) => {
      const target = withdrawn[nth];
      if (!target) throw new Error('there is no such standby database');
      const operationId = await central.db.transaction().execute(async (trx) => {
        expect(await retireStandby(trx, target.id)).toBe(true);
        return (await insertOperation(trx, { kind: 'withdraw', subject: target.id, clusterId }))?.id ?? '';
      });
      await postponeAll();
      withdrawn[nth] = { ...target, operationId };
    },
    check: async (nth) => {
      const target = withdrawn[nth];
      if (!target) throw new Error('there is no such standby database');
      expect(await standbyOrNothing(target)).toBe(false);
    },
  },
  // The sample leaves these two out: they close and open a database with the steps of deleting and restoring.
  ...(EVERY === 1 &&
    ({
      'suspending a tenant': {
        most: 40,
        prepare: async (send, targets) => {
          suspended = await makeTargets(send, 'suspended', targets);
        },
        request: (nth) => ({ method: 'POST', path: `/tenants/${suspended[nth]?.id ?? ''}/suspend` }),
        check: (nth, answered) => closedOrOpen(`suspended-${nth}`, answered ? ['suspended'] : ['suspended', 'active']),
      },
      'resuming a tenant': {
        most: 44,
        prepare: async (send, targets) => {
          resumed = await makeTargetsAfter(send, 'resumed', targets, 'POST', '/suspend');
        },
        request: (nth) => ({ method: 'POST', path: `/tenants/${resumed[nth]?.id ?? ''}/resume` }),
        check: (nth, answered) => closedOrOpen(`resumed-${nth}`, answered ? ['active'] : ['active', 'suspended']),
      },
    } satisfies Record<string, Act>)),
};

/** The killed processes of each act. */
const killedIn = new Map<string, readonly KilledProcess[]>();

beforeAll(async () => {
  await build();
  data = await makeDataDir();
  // Beforehand: if two processes made them at once, one would not find its draft, because the other removed it.
  await localSecrets(data.dir);
  removeKills = await prepareKills();

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
  const app = await startApp();
  const operator = await findOperatorByEmail(central.db, OPERATOR.email);
  const { principal } = await beginGrant(app, { kind: 'operator', operatorId: operator?.id ?? '' });
  newToken = () => app.tokens.sign(principal, 0);
  const { body: clusters } = await sender(app)<PageOf<{ id: string }>>('GET', '/clusters', { token: newToken() });
  clusterId = clusters.data[0]?.id ?? '';
  await app.close();
});

afterAll(async () => {
  await removeKills();
  await data.remove();
  await central.close(0);
});

/** The job that drops standby databases that no cluster wants. None is wanted here, so that acts keep those that they make. */
const REFILLS = 'standby databases';

describe('a process is killed before or inside any statement', () => {
  let resumeJobs = async (): Promise<void> => undefined;
  beforeAll(async () => {
    // No process cleans up after another. Operations that are due are taken all the same.
    const jobs = [
      'leftovers',
      'reconciler',
      REFILLS,
      'rotation',
      'reencryption',
      'lifecycle settle',
      'lifecycle purge',
    ];
    resumeJobs = await holdJobs(registryName, jobs);
  });
  afterAll(() => resumeJobs());

  it.each(Object.entries(acts))(
    'of %s',
    async (name, act) => {
      const app = await startApp(false);
      await act.prepare(sender(app), targetsOf(act.most));
      await app.close();
      const killed = await killEach({ env: environment(), newToken }, act, Object.keys(acts).indexOf(name));
      killedIn.set(name, killed);
      expect(killed.filter(({ answered }) => !answered).length).toBeGreaterThan(EVERY === 1 ? 12 : 0);
      const statements = killed.filter(({ answered }) => answered).map((whole) => whole.statements.length);
      process.stdout.write(`${name}: ${killed.length} processes, ${statements.join(' and ')} statements\n`);
      if (EVERY > 1) return;
      for (const when of ['before', 'after'] as const) expect(missedIn(killed, when)).toEqual([]);
    },
    900_000,
  );
});

describe('another process leaves nothing half-made', () => {
  let app: Awaited<ReturnType<typeof startApp>>;
  let resumeJobs = async (): Promise<void> => undefined;
  let startedAt = 0;
  beforeAll(async () => {
    resumeJobs = await holdJobs(registryName, [REFILLS]);
    // Postponed until now.
    await sql`update operations set not_before = now() where ended_at is null`.execute(central.db);
    app = await startApp();
    startedAt = performance.now();
  });
  afterAll(async () => {
    await app.close();
    await resumeJobs();
  });

  it.each(Object.entries(acts))(
    'after %s',
    async (name, act) => {
      let left = ['not looked at'];
      const rest = Math.max(0, startedAt + SETTLED_IN - performance.now());
      await eventually('nothing is half-made', async () => (left = await halfMade()).length === 0, rest).catch(
        () => undefined,
      );
      expect(left).toEqual([]);
      const killed = killedIn.get(name) ?? [];
      expect(killed).not.toEqual([]);
      for (const { nth, answered } of killed) await act.check(nth, answered, sender(app));
    },
    SETTLED_IN + 240_000,
  );
});

/** Unfinished operations and rows, and databases and roles of this provisioner without a row. */
async function halfMade(): Promise<string[]> {
  const unfinished = await central.db
    .selectFrom('tenants')
    .select(['slug', 'status'])
    .where('status', 'in', ['provisioning', 'deleting'])
    .execute();
  const restoring = await listRestoringTenants(central.db);
  const rotations = await central.db
    .selectFrom('tenants')
    .select('id')
    .where('next_db_password', 'is not', null)
    .where('status', '!=', 'deleting')
    .execute();
  const standbys = await listStandby(central.db);
  const operations = await central.db
    .selectFrom('operations')
    .select(['kind', 'state', 'step', 'error'])
    .where('ended_at', 'is', null)
    .execute();
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
    ...operations.map((row) => `an operation has not ended: ${JSON.stringify(row)}`),
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

async function startApp(reconciles = true): ReturnType<typeof openApp> {
  const config = testConfig(registryName, {
    // A run with KILL_EVERY=1 takes longer than the default lifetime of the token.
    ACCESS_TOKEN_TTL: '14400',
    CLUSTER_CONNECTION_RESERVE: RESERVE,
    RECONCILE_EVERY_MS: reconciles ? '1000' : '3600000',
  });
  return openApp({ ...config, tenants: { ...config.tenants, provisioner } });
}

function environment(): Record<string, string> {
  const { superuser, registryService } = inject('cluster');
  return {
    DATABASE_URL: urlOf({ ...superuser, ...registryService, database: registryName }),
    TENANT_DATABASE_URL: urlOf(provisioner),
    DATA_DIR: data.dir,
    JWT_KEYS: TOKEN_KEY,
    ENCRYPTION_KEYS: `test:${Buffer.alloc(32, 7).toString('base64')}`,
    STANDBY_DATABASES: '0',
    RECONCILE_EVERY_MS: '3600000',
    CLUSTER_CONNECTION_RESERVE: RESERVE,
  };
}
