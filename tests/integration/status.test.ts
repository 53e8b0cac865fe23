// GET /status: the fleet in one answer, for operators.
import { spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import path from 'node:path';
import { sql } from 'kysely';
import { beforeAll, describe, expect, inject, it, onTestFinished } from 'vitest';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { createEngine } from '../../src/engine/index.js';
import { createLogger } from '../../src/observability/logger.js';
import type { FleetStatus } from '../../src/status/status-types.js';
import {
  ADMIN,
  asSuperuser,
  createRegistry,
  startServiceForTest,
  testConfig,
  tokenSecretsOf,
  type Answer,
  type TestService,
} from '../support/app.js';
import { startSecondCluster } from '../support/second-cluster.js';

const root = path.resolve(import.meta.dirname, '../..');
/** A beat comes every five seconds. */
const SOON = { timeout: 30_000, interval: 250 };

let registry: string;
beforeAll(async () => {
  registry = await createRegistry();
});

/** Jobs that clean up would end unfinished work before it is seen. */
const env = { RECONCILE_EVERY_MS: '3600000' };

async function ask({ send, operatorToken: token }: TestService): Promise<FleetStatus> {
  const answer: Answer<FleetStatus> = await send('GET', '/status', { token });
  expect(answer.status, answer.text).toBe(200);
  return answer.body;
}

/** Asks until the answer has what is expected of it. */
function poll(service: TestService, what: (status: FleetStatus) => unknown) {
  return expect.poll(async () => what(await ask(service)), SOON);
}

async function onRegistry(database: string, statement: string): Promise<void> {
  await asSuperuser(database, (db) => sql.raw(statement).execute(db));
}

/** Less than 5 ms: the two clocks of one machine are read with different resolutions. */
const NO_SKEW = expect.closeTo(0, -1) as unknown;

describe('replicas', () => {
  let child: ChildProcess;

  /** Another replica on the same registry, as a process of its own. */
  async function startReplica(): Promise<string> {
    const arguments_ = [
      '--import',
      'tsx',
      'tests/support/serving-child.ts',
      JSON.stringify(inject('cluster')),
      registry,
    ];
    child = spawn(process.execPath, arguments_, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] });
    onTestFinished(() => void child.kill('SIGKILL'));
    const [output] = (await once(child.stdout ?? child, 'data')) as [Buffer];
    return output.toString().trim();
  }

  it('are shown while they serve, as silent when they were killed, and no longer after an hour', async () => {
    const service = await startServiceForTest({ registry });
    const other = await startReplica();
    const listed = (id: string) => (status: FleetStatus) => status.replicas?.list.find((replica) => replica.id === id);
    await poll(service, listed(other)).toMatchObject({ alive: true, notReady: null, node: process.versions.node });
    const status = await ask(service);
    const { replicaId } = service.app.engine;
    expect(status.replicas).toMatchObject({ alive: 2, silent: 0 });
    expect(listed(replicaId)(status)).toMatchObject({
      version: expect.stringMatching(/^\d+\.\d+\.\d+/) as unknown,
      host: expect.stringMatching(/^[\w.-]+$/) as unknown,
      startedAt: expect.stringMatching(/^\d{4}-.*Z$/) as unknown,
      clockSkew: NO_SKEW,
      alive: true,
    });
    expect(status.here).toMatchObject({ id: replicaId, clockSkew: NO_SKEW, notReady: null, feed: { live: true } });

    child.kill('SIGKILL');
    await once(child, 'exit');
    await onRegistry(registry, `update replicas set seen_at = seen_at - interval '20 seconds' where id = '${other}'`);
    await poll(service, listed(other)).toMatchObject({ alive: false, silentFor: expect.any(Number) as unknown });
    const silent = await ask(service);
    expect(silent.replicas).toMatchObject({ alive: 1, silent: 1 });
    expect(await service.app.engine.fleetStatus.replicasAlive()).toBe(1);
    expect(silent.state).toBe('degraded');
    expect(silent.reasons).toContainEqual(expect.stringMatching(`^Replica ${other} on .* has been silent for \\d+ s`));

    await onRegistry(registry, `update replicas set seen_at = seen_at - interval '1 hour' where id = '${other}'`);
    // A replica that renews these can still write, and its row would stay.
    await onRegistry(
      registry,
      `update slot_leases set renewed_at = renewed_at - interval '1 hour' where replica_id = '${other}'`,
    );
    await poll(service, listed(other)).toBeUndefined();
    // The next replica that starts removes the row.
    await startServiceForTest({ registry, operator: false });
    const rowsOf = () =>
      asSuperuser(registry, async (db) => {
        const { rows } = await sql<{ id: string }>`
          select id from replicas where id = ${other} union all
          select replica_id from replica_jobs where replica_id = ${other}`.execute(db);
        return rows;
      });
    await expect.poll(rowsOf, SOON).toEqual([]);
  }, 60_000);

  it('leave no row when they stop in order, and a process that only runs a command has none', async () => {
    const own = await createRegistry();
    const service = await startServiceForTest({ registry: own });
    await poll(service, ({ replicas }) => replicas?.alive).toBe(1);
    const other = await startServiceForTest({ registry: own, operator: false });
    await poll(service, ({ replicas }) => replicas?.alive).toBe(2);
    await other.close();
    const config = testConfig(own);
    const command = await createEngine(config, createLogger(config.log));
    await command.defaultCluster.ensure();
    await poll(service, ({ replicas }) => replicas?.list.map(({ id }) => id)).toEqual([service.app.engine.replicaId]);
    await command.close();
  }, 60_000);

  it('say that they are stopping, and a clock that is wrong is a reason', async () => {
    const own = await createRegistry();
    const service = await startServiceForTest({ registry: own });
    const wallClock = (): number => Date.now() + 60_000;
    const wrong = await startServiceForTest({ registry: own, operator: false, overrides: { wallClock } });
    const listed = (status: FleetStatus) =>
      status.replicas?.list.find(({ id }) => id === wrong.app.engine.replicaId) ?? { clockSkew: null };
    await expect.poll(() => wrong.app.engine.replicaClock.compare(), SOON).toBeGreaterThan(59_000);
    await poll(service, (status) => listed(status).clockSkew).toBeGreaterThan(59_000);
    wrong.app.readiness.draining = true;
    await poll(service, listed).toMatchObject({ notReady: 'it is shutting down' });
    const { state, reasons } = await ask(service);
    expect(state).toBe('degraded');
    expect(reasons).toContainEqual(
      expect.stringMatching(/^The clock of replica .* is 60 s ahead of the registry's\.$/),
    );
    expect(reasons).toContainEqual(expect.stringMatching(/takes no requests: it is shutting down\.$/));
  }, 60_000);
});

describe('tenants and work', () => {
  it('are counted by status and schema version', async () => {
    const service = await startServiceForTest();
    const { send, operatorToken: token } = service;
    const [, suspended] = [await service.createTenant(), await service.createTenant()];
    expect((await send('POST', `/tenants/${suspended.id}/suspend`, { token })).status).toBe(200);
    await poll(service, ({ tenants }) => tenants?.byStatus).toMatchObject({ active: 1, suspended: 1, deleted: 0 });
    const status = await ask(service);
    expect(status.tenants).toMatchObject({ total: 2, behind: 0, newer: 0 });
    expect(status.tenants?.bySchemaVersion).toEqual([
      { version: status.here.schemaVersion, tenants: 2, comparedToThisBuild: 'current' },
    ]);
    await onRegistry(
      service.config.registry.connection.database,
      `update tenants set schema_version = '0001_identity'`,
    );
    await poll(service, ({ tenants }) => tenants?.behind).toBe(2);
    expect((await ask(service)).reasons).toContain(
      '2 tenants have an older schema than this build: run the migration.',
    );
  }, 60_000);

  it('need a person when an operation does not end within an hour, or has stopped', async () => {
    const service = await startServiceForTest({ env });
    const { database } = service.config.registry.connection;
    await service.createTenant();
    await poll(service, ({ work }) => work).toEqual([]);
    const insert = async (kind: string, state: string, age: string): Promise<string> => {
      const id = randomUUID();
      // A worker may not take it.
      await onRegistry(
        database,
        `insert into operations (id, kind, subject, state, created_at, not_before) values
           ('${id}', '${kind}', gen_random_uuid(), '${state}', now() - interval '${age}', now() + interval '1 hour')`,
      );
      return id;
    };
    const late = await insert('remove', 'waiting', '11 minutes');
    const stopped = await insert('remove', 'needs-person', '1 minute');
    const overdue = await insert('remove', 'waiting', '2 hours');
    await insert('rotate', 'waiting', '1 minute');
    const ended = await insert('create', 'waiting', '2 hours');
    await onRegistry(database, `update operations set state = 'done', ended_at = now() where id = '${ended}'`);
    await poll(service, ({ work }) => work?.find(({ kind }) => kind === 'remove')).toMatchObject({
      count: 3,
      states: { waiting: 2, 'needs-person': 1 },
      late: 3,
      needsPerson: 2,
      oldest: [stopped, overdue, late],
    });
    const status = await ask(service);
    expect(status.work?.find(({ kind }) => kind === 'rotate')).toMatchObject({ count: 1, late: 0, needsPerson: 0 });
    expect(status.work?.map(({ kind }) => kind)).not.toContain('create');
    expect(status.state).toBe('needs-person');
    expect(status.reasons.slice(0, 2)).toEqual([
      'Stopped until a person acts: removing a tenant (1).',
      'Not ended within an hour: removing a tenant (1); the oldest began 2 h ago.',
    ]);
    expect(status.reasons).toContain('Not ended within ten minutes: removing a tenant (1).');
  }, 60_000);

  it('show deleted tenants whose grace time is over, until their removal has begun', async () => {
    const service = await startServiceForTest({ env });
    const { database } = service.config.registry.connection;
    const { housekeeping } = service.app.engine;
    const { id } = await service.createTenant();
    // Not the job: it would begin the removal.
    await housekeeping.close();
    await onRegistry(
      database,
      `update tenants set status = 'deleted', status_before_deletion = 'suspended',
         deleted_at = now() - interval '1 year' where id = '${id}'`,
    );
    const due = (status: FleetStatus) => status.work?.find(({ kind }) => kind === 'purge');
    await poll(service, due).toMatchObject({ count: 1, states: {}, late: 1, needsPerson: 1, oldest: [id] });
    expect((await ask(service)).reasons[0]).toMatch(/^Not ended within an hour: purging a deleted tenant \(1\);/);
    await onRegistry(
      database,
      `insert into operations (id, kind, subject, state, not_before)
         values (gen_random_uuid(), 'remove', '${id}', 'waiting', now() + interval '1 hour')`,
    );
    await poll(service, due).toBeUndefined();
  }, 60_000);

  it('need a person when the evidence refuses, until the person has acted', async () => {
    const service = await startServiceForTest({ env });
    const { send, operatorToken: token, app } = service;
    const { id } = await service.createTenant();
    await send('POST', `/tenants/${id}/suspend`, { token });
    const [row] = await app.engine.registry.selectFrom('tenants').select('db_name as name').execute();
    // The registry went back to an earlier moment, as far as the database can tell.
    await asSuperuser('postgres', async (db) => {
      const { rows } = await sql<{ mark: string }>`
        select shobj_description(oid, 'pg_database') as mark from pg_database where datname = ${row?.name}`.execute(db);
      const newer = (rows[0]?.mark ?? '').replace(/\d+$/, '99');
      await sql`comment on database ${sql.id(row?.name ?? '')} is ${sql.lit(newer)}`.execute(db);
    });
    await app.engine.housekeeping.runNow('lifecycle settle');
    await poll(service, ({ reports }) => reports?.counts.evidence).toBe(1);
    const status = await ask(service);
    expect(status.reports?.oldest).toMatchObject([
      {
        kind: 'evidence',
        tenantId: id,
        database: row?.name,
        why: expect.stringContaining('newer than the registry') as unknown,
      },
    ]);
    expect(status.state).toBe('needs-person');
    expect(status.reasons[0]).toMatch(/^1 database of a tenant is left as found/);
    expect((await send('POST', `/tenants/${id}/resume`, { token })).status).toBe(200);
    await poll(service, ({ reports }) => reports?.counts.evidence).toBe(0);
  }, 60_000);
});

it('names a database that has lost its row as work for a person', async () => {
  const service = await startServiceForTest({ env });
  const { id } = await service.createTenant();
  const [row] = await service.app.engine.registry.selectFrom('tenants').select('db_name as name').execute();
  await onRegistry(service.config.registry.connection.database, `delete from tenants where id = '${id}'`);
  await service.app.engine.housekeeping.runNow('reconciler');
  await poll(service, ({ reports }) => reports?.counts).toEqual({ evidence: 0, orphan: 1 });
  const { state, reports } = await ask(service);
  expect(state).toBe('needs-person');
  expect(reports?.oldest).toMatchObject([{ kind: 'orphan', tenantId: id, database: row?.name }]);
}, 60_000);

it('shows a job that fails, with its words, on every replica, until it works again', async () => {
  const own = await createRegistry();
  const service = await startServiceForTest({ registry: own });
  const other = await startServiceForTest({ registry: own, operator: false });
  const seenByOther = { ...other, operatorToken: service.operatorToken };
  const { housekeeping, replicaId } = service.app.engine;
  const failing = ({ jobs }: FleetStatus) => jobs.find(({ name }) => name === 'idempotency keys')?.failing;
  await poll(service, failing).toEqual([]);
  await onRegistry(own, 'alter table idempotency_keys rename to hidden');
  await housekeeping.runNow('idempotency keys');
  await housekeeping.runNow('idempotency keys');
  const words = { replicaId, failuresInARow: 2, lastError: 'a database refused a statement (42P01)' };
  await poll(service, failing).toMatchObject([words]);
  await poll(seenByOther, failing).toMatchObject([words]);
  const { state, reasons } = await ask(service);
  expect(state).toBe('degraded');
  expect(reasons).toContain(
    `The job "idempotency keys" fails on replica ${replicaId}: a database refused a statement (42P01); 2 failures in a row.`,
  );
  await onRegistry(own, 'alter table hidden rename to idempotency_keys');
  await housekeeping.runNow('idempotency keys');
  await poll(service, failing).toEqual([]);
  await poll(seenByOther, failing).toEqual([]);
  const job = (await ask(seenByOther)).jobs.find(({ name }) => name === 'idempotency keys');
  expect(job).toMatchObject({
    every: 3_600_000,
    lastSuccessAgo: expect.any(Number) as unknown,
    lastRunOn: expect.any(String) as unknown,
  });
}, 60_000);

it('counts a standby database of another schema version as not ready', async () => {
  const own = await createRegistry();
  const service = await startServiceForTest({ registry: own, env });
  await service.createTenant();
  await onRegistry(
    own,
    `update clusters set standby_target = 1;
     insert into standby_databases (id, cluster_id, db_name, db_user, db_password, schema_version, ready)
       select gen_random_uuid(), id, 'old', 'old', 'x', '0001_old', true from clusters`,
  );
  await poll(service, ({ clusters }) => clusters?.[0]?.standby).toMatchObject({ ready: 0, wanted: 1 });
  expect((await ask(service)).reasons).toContainEqual(expect.stringMatching(/has no standby database ready/));
}, 60_000);

it('shows the connections and standby databases of each cluster, and a server that is down', async () => {
  const service = await startServiceForTest({ env: { CLUSTER_HOSTS: '127.0.0.1' } });
  const { send, operatorToken: token } = service;
  await service.createTenant();
  const second = await startSecondCluster();
  onTestFinished(() => second.stop());
  const made = await send<{ id: string }>('POST', '/clusters', { token, body: second.body });
  expect(made.status, made.text).toBe(201);
  const clusterOf = (name: string) => (status: FleetStatus) => status.clusters?.find((known) => known.name === name);
  await poll(service, clusterOf('second')).toMatchObject({
    id: made.body.id,
    host: second.body.host,
    port: second.body.port,
    accepting: true,
    answers: true,
    unreachable: null,
    breaker: 'closed',
    tenants: 0,
    budget: { tenants: second.body.connectionBudget, reserve: second.body.connectionReserve },
    standby: { ready: 0, making: 0, wanted: 0 },
  });
  const { clusters } = await ask(service);
  const first = clusters?.find(({ id }) => id !== made.body.id);
  expect(first).toMatchObject({ tenants: 1, answers: true });
  expect(first?.leased.tenants).toBeGreaterThan(0);
  await poll(service, ({ clusters: now }) => now?.find(({ id }) => id === first?.id)?.used.tenants).toBeGreaterThan(0);
  await second.stop();
  await poll(service, clusterOf('second')).toMatchObject({
    answers: false,
    unreachable: expect.any(String) as unknown,
  });
  const status = await ask(service);
  expect(status.state).toBe('degraded');
  expect(status.reasons).toContainEqual(
    expect.stringMatching(/^The server of cluster "second" does not answer: a database/),
  );
}, 60_000);

it('names passwords whose key is missing as work for a person', async () => {
  const service = await startServiceForTest();
  await service.createTenant();
  expect((await ask(service)).passwords).toMatchObject({ due: null, toEncryptAgain: 0, unreadable: 0 });
  const other = await startServiceForTest();
  await other.createTenant();
  const { database } = other.config.registry.connection;
  await onRegistry(database, `update tenants set db_password = 'v1.lost.aaaa.aaaa.aaaa'`);
  const status = await ask(other);
  expect(status.passwords).toMatchObject({
    unreadable: 1,
    keys: expect.arrayContaining([{ kid: 'lost', held: false, current: false, rows: 1 }]) as unknown,
  });
  expect(status.reasons[0]).toMatch(/^1 database password is encrypted with a key/);
}, 60_000);

it('is for operators only, answers HEAD, and refuses other methods', async () => {
  const service = await startServiceForTest();
  const { send, app, operatorToken } = service;
  const { adminToken } = await service.createTenant();
  expect((await send('GET', '/status')).status).toBe(401);
  expect((await send('GET', '/status', { token: adminToken })).status).toBe(403);
  const headers = { authorization: `Bearer ${operatorToken}` };
  const head = await app.inject({ method: 'HEAD', url: '/status', headers });
  expect([head.statusCode, head.body]).toEqual([200, '']);
  const post = await send<{ code: string }>('POST', '/status', { token: operatorToken, body: {} });
  expect([post.status, post.body.code, post.headers.allow]).toEqual([405, 'method-not-allowed', 'GET, HEAD']);
}, 60_000);

it('contains no secret, no address of a person and no text of a driver, also when jobs fail', async () => {
  const service = await startServiceForTest({ env });
  const { database } = service.config.registry.connection;
  await service.createTenant();
  await onRegistry(database, 'alter table idempotency_keys rename to hidden');
  await service.app.engine.housekeeping.runNow('idempotency keys');
  const answer = await service.send('GET', '/status', { token: service.operatorToken });
  // The name of a migration is no text of a driver.
  const text = answer.text.replaceAll(latestVersion(tenantMigrations), '');
  const { registryService, provisioner } = inject('cluster');
  const sealed = await service.app.engine.registry.selectFrom('tenants').select('db_password as sealed').execute();
  const secrets = [
    registryService.password,
    provisioner.password,
    provisioner.user,
    ...Object.values(tokenSecretsOf(service.config)),
    ...service.config.encryptionKeys.flatMap(({ key }) => [key.toString('base64'), key.toString('hex')]),
    ...sealed.map((row) => row.sealed),
    service.operatorToken,
    ADMIN.email,
    ADMIN.password,
    'operator@example.com',
    'idempotency_keys',
    'relation',
    'select ',
  ];
  for (const secret of secrets) expect(text).not.toContain(secret);
}, 60_000);
