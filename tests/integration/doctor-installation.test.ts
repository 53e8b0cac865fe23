// `tenantry doctor` on the installation and its servers: each break is found under its code, and nothing else is. The server belongs
// to this file alone.
import { sql, type RawBuilder } from 'kysely';
import { randomBytes } from 'node:crypto';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { DatabaseFault, REFUSED_BY_POOLER } from '../../db/driver/database-fault.js';
import { inspectCluster } from '../../db/server/cluster-inspection.js';
import { createEngine } from '../../src/engine/index.js';
import { createDoctorRoom } from '../../src/engine/doctor-room.js';
import { deepFreeze } from '../../src/config/deep-freeze.js';
import type { DoctorCode } from '../../src/doctor/doctor-codes.js';
import { awayFinding, judgeServer } from '../../src/doctor/server-checks.js';
import { templateName } from '../../src/operations/template/template-names.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { startCluster, type TestCluster } from '../support/cluster.js';
import { codesOf, mend } from '../support/doctor.js';
import { holdEveryJob } from '../support/held-jobs.js';
import { startSecondCluster, type SecondCluster } from '../support/second-cluster.js';
import { connectTo, createRegistryIn, startServiceIn, type TestService } from '../support/service.js';

const QUIET = { RECONCILE_EVERY_MS: '3600000', STANDBY_DATABASES: '0', CLUSTER_HOSTS: '127.0.0.1' };

let cluster: TestCluster;
let stop: () => Promise<void>;
let registry: string;
let service: TestService;
let resumeJobs: () => Promise<void>;

beforeAll(async () => {
  ({ cluster, stop } = await startCluster({}));
  registry = await createRegistryIn(cluster);
  service = await startServiceIn(cluster, { registry, env: QUIET });
  resumeJobs = await holdEveryJob(service, cluster);
  await service.createTenant();
}, 120_000);
afterAll(async () => {
  await resumeJobs();
  await service.close();
  await stop();
});

async function on(database: string, ...statements: readonly RawBuilder<unknown>[]): Promise<void> {
  const handle = connectTo<unknown>(cluster, database, {}, 1);
  try {
    for (const statement of statements) await statement.execute(handle.db);
  } finally {
    await handle.close(0);
  }
}

async function codes(): Promise<string[]> {
  return codesOf((await service.app.engine.doctor.examine()).findings);
}

it('the doctor finds nothing in an installation that is in order', async () => {
  const { findings, tenants, servers } = await service.app.engine.doctor.examine();
  expect(findings.map(({ code, found }) => [code, found])).toEqual([]);
  expect([tenants, servers]).toEqual([1, 1]);
});

interface Break {
  readonly code: DoctorCode;
  readonly what: string;
  readonly database?: () => string;
  readonly done: () => readonly RawBuilder<unknown>[];
  readonly undone: () => readonly RawBuilder<unknown>[];
}

const inRegistry = (): string => registry;
const SYSTEM = sql`set allow_system_table_mods = on`;

/** On a database that no session uses. */
const frozen = (age: number): RawBuilder<unknown> => sql`
  update pg_database set datfrozenxid = (((pg_current_xact_id()::text::numeric + 4294967296 - ${age}) % 4294967296)::text)::xid
  where datname = 'template1'`;

const breaks: readonly Break[] = [
  {
    code: 'registry-newer',
    what: 'a registry that a newer build has migrated',
    database: inRegistry,
    done: () => [sql`insert into migration.kysely_migration (name, timestamp) values ('9999_newer', '')`],
    undone: () => [sql`delete from migration.kysely_migration where name = '9999_newer'`],
  },
  {
    code: 'audit-rewritable',
    what: 'a service that can change the audit',
    database: inRegistry,
    done: () => [sql`grant update on audit to ${sql.id(cluster.registryService.user)}`],
    undone: () => [sql`revoke update on audit from ${sql.id(cluster.registryService.user)}`],
  },
  {
    code: 'work-waits',
    what: 'an operation that waits for a person',
    database: inRegistry,
    done: () => [
      sql`insert into operations (id, kind, subject, state) values (gen_random_uuid(), 'close', gen_random_uuid(), 'needs-person')`,
    ],
    undone: () => [sql`delete from operations where state = 'needs-person'`],
  },
  {
    code: 'key-missing',
    what: 'a password whose key is gone',
    database: inRegistry,
    done: () => [
      sql`insert into standby_databases (id, cluster_id, db_name, db_user, db_password, schema_version)
        select gen_random_uuid(), id, 'tn_none', 'tn_none', 'v1.gone.aaaa.bbbb.cccc', '0001' from clusters`,
    ],
    undone: () => [sql`delete from standby_databases`],
  },
  {
    code: 'server-open',
    what: 'a database to which every role may connect',
    done: () => [sql`create database open_to_all`],
    undone: () => [sql`drop database open_to_all`],
  },
  {
    code: 'wal-kept',
    what: 'a replication slot that nothing uses',
    done: () => [sql`select pg_create_physical_replication_slot('idle', true)`],
    undone: () => [sql`select pg_drop_replication_slot('idle')`],
  },
  {
    code: 'transaction-ids-low',
    what: 'a database that is 1.6 billion transaction ids behind',
    done: () => [SYSTEM, frozen(1_600_000_000)],
    undone: () => [SYSTEM, frozen(10)],
  },
  {
    code: 'collation-changed',
    what: 'a database of another version of the collation',
    done: () => [SYSTEM, sql`update pg_database set datcollversion = '0.0' where datname like 'tn\\_%'`],
    undone: () => [
      SYSTEM,
      sql`update pg_database set datcollversion = pg_database_collation_actual_version(oid) where datname like 'tn\\_%'`,
    ],
  },
  {
    code: 'template-unusable',
    what: 'a template of another version of the collation',
    done: () => [SYSTEM, sql`update pg_database set datcollversion = '0.0' where datname = ${template()}`],
    undone: () => [
      SYSTEM,
      sql`update pg_database set datcollversion = pg_database_collation_actual_version(oid) where datname = ${template()}`,
    ],
  },
  {
    code: 'cluster-unfit',
    what: 'a provisioner that may create no databases',
    done: () => [sql`alter role ${sql.id(cluster.provisioner.user)} nocreatedb`],
    undone: () => [sql`alter role ${sql.id(cluster.provisioner.user)} createdb`],
  },
];

function template(): string {
  return templateName(tenantMigrations, cluster.provisioner.user);
}

describe('the doctor finds, alone and under its code,', () => {
  it.each(breaks)('$what: $code', async ({ database = () => 'postgres', done, undone, code }) => {
    await on(database(), ...done());
    try {
      expect(await codes()).toEqual([code]);
    } finally {
      await on(database(), ...undone());
    }
    expect(await codes()).toEqual([]);
  });

  it('a server with fewer connections than budget and reserve: connections-short', async () => {
    const engine = await createEngine(
      deepFreeze({
        ...service.config,
        tenants: { ...service.config.tenants, clusterBudget: { tenants: 100_000, reserve: 6 } },
      }),
      pino({ level: 'silent' }),
    );
    onTestFinished(() => engine.close());
    expect(codesOf((await engine.doctor.examine()).findings)).toEqual(['connections-short']);
  });

  it('passwords of an older key: key-old', async () => {
    const encryptionKeys = [{ kid: 'new', key: randomBytes(32) }, ...service.config.encryptionKeys];
    const engine = await createEngine({ ...service.config, encryptionKeys }, pino({ level: 'silent' }));
    onTestFinished(() => engine.close());
    const { findings } = await engine.doctor.examine({ only: ['key-old', 'key-missing'] });
    expect(codesOf(findings)).toEqual(['key-old']);
  });

  it('Redis that does not answer, if it is configured: redis-away', async () => {
    const more = await startServiceIn(cluster, {
      registry,
      operator: false,
      env: { ...QUIET, REDIS_URL: 'redis://127.0.0.1:1' },
    });
    onTestFinished(() => more.close());
    expect(codesOf((await more.app.engine.doctor.examine()).findings)).toEqual(['redis-away']);
  });

  it('a clock that differs from the registry’s: clock-wrong', async () => {
    const { engine } = service.app;
    for (const off of [-60_000, 60_000]) {
      const doctor = createDoctorRoom(engine, service.config, { wallClock: () => Date.now() + off });
      expect(codesOf((await doctor.examine()).findings)).toEqual(['clock-wrong']);
    }
  });

  it('a disk that is almost full, under the PostgreSQL that starts by itself: disk-full', async () => {
    const freeOn = (free: number): ReturnType<typeof createDoctorRoom> =>
      createDoctorRoom(service.app.engine, service.config, { freeDisk: () => Promise.resolve(free) });
    expect(codesOf((await freeOn(0.01).examine({ dataDir: '/data' })).findings)).toEqual(['disk-full']);
    expect((await freeOn(0.5).examine({ dataDir: '/data' })).findings).toEqual([]);
    expect((await freeOn(0.01).examine()).findings).toEqual([]);
    expect((await service.app.engine.doctor.examine({ dataDir: '/no/such/folder' })).findings).toEqual([
      expect.objectContaining({ code: 'not-checked' }),
    ]);
  });

  it('what a person should know of searches: search-slow', async () => {
    const place = { host: 'db', port: 5432 };
    const { cluster: db } = await service.app.engine.provisioners.at(cluster.provisioner);
    const inspection = await inspectCluster(db);
    const budget = { tenants: 10, reserve: 2 };
    expect(codesOf(judgeServer(place, { ...inspection, hasTrigrams: false }, budget))).toEqual(['search-slow']);
    expect(codesOf(judgeServer(place, { ...inspection, asciiDatabases: 2 }, budget))).toEqual(['search-slow']);
  });

  it('a pooler that does not fit, with the settings that it needs: pooler', () => {
    for (const reason of Object.values(REFUSED_BY_POOLER)) {
      const found = awayFinding({ host: 'db', port: 6432 }, new DatabaseFault('unavailable', reason));
      expect([found.code, found.todo]).toEqual(['pooler', expect.stringContaining('PgBouncer')]);
    }
  });
});

it('the doctor finds a crowded queue of notifications (PostgreSQL 17 or later): notify-queue-full', async ({
  skip,
}) => {
  const { cluster: db } = await service.app.engine.provisioners.at(cluster.provisioner);
  if ((await inspectCluster(db)).versionNumber < 170_000) skip();
  const small = await startCluster({ max_notify_queue_pages: '64' });
  onTestFinished(() => small.stop());
  const own = await startServiceIn(small.cluster, { env: QUIET });
  onTestFinished(() => own.close());
  const handle = connectTo<unknown>(small.cluster, own.config.registry.connection.database);
  onTestFinished(() => handle.close(0));
  const examine = async (): Promise<string[]> =>
    codesOf((await own.app.engine.doctor.examine({ only: ['notify-queue-full'] })).findings);
  expect(await examine()).toEqual([]);
  // A session that listens reads nothing while its transaction is open.
  await handle.db.connection().execute(async (listener) => {
    await sql`listen crowd`.execute(listener);
    await sql`begin`.execute(listener);
    await sql`select pg_notify('crowd', repeat('x', 7000) || n) from generate_series(1, 45) n`.execute(handle.db);
    expect(await examine()).toEqual(['notify-queue-full']);
    await sql`rollback`.execute(listener);
  });
});

it('a server that refuses a question is not away: not-checked, beside what is found elsewhere on it', async () => {
  const revoke = sql`revoke select on pg_auth_members from public`;
  await on('postgres', revoke, sql`create database open_to_all`);
  const found = await codes();
  await on('postgres', sql`grant select on pg_auth_members to public`, sql`drop database open_to_all`);
  expect(new Set(found)).toEqual(new Set(['not-checked', 'server-open']));
  expect(await codes()).toEqual([]);
});

describe('a server that is away', () => {
  let second: SecondCluster;
  let away: { readonly host: string; readonly port: number };
  beforeAll(async () => {
    second = await startSecondCluster('doctor');
    const made = await service.send('POST', '/clusters', { token: service.operatorToken, body: second.body });
    expect(made.status, made.text).toBe(201);
    away = { host: second.body.host, port: second.body.port };
  }, 60_000);
  afterAll(() => second.stop());

  it('is one finding, and holds up no other server: cluster-away', async () => {
    expect(await codes()).toEqual([]);
    await second.stop();
    await on('postgres', sql`create database open_to_all`);
    const { findings, servers } = await service.app.engine.doctor.examine();
    await on('postgres', sql`drop database open_to_all`);
    expect(codesOf(findings)).toEqual(['cluster-away', 'server-open']);
    expect(findings.find(({ code }) => code === 'cluster-away')?.cluster).toBe(`${away.host}:${away.port}`);
    expect(servers).toBe(2);
    // What could not be checked is never left out.
    const only = await service.app.engine.doctor.examine({ only: ['grants-missing'] });
    expect(codesOf(only.findings)).toEqual(['cluster-away']);
  });

  it('is not examined if another server is asked for', async () => {
    const { findings } = await service.app.engine.doctor.examine({ place: cluster.provisioner });
    expect(findings).toEqual([]);
    expect((await mend(service, { place: cluster.provisioner })).left).toEqual([]);
  });
});
