// Concurrent adoptions: two of one database at once, an adopter that paused while another replica continued, and a mark that
// arrives late. One of them wins, and the database is never shared or left over.
import { sql } from 'kysely';
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, inject, it, onTestFinished } from 'vitest';
import { hasSqlState } from '../../db/driver/database-fault.js';
import type { EngineOptions } from '../../src/engine/index.js';
import {
  asSuperuser,
  connectAs,
  createRegistry,
  startServiceIn,
  type PageOf,
  type TestService,
} from '../support/app.js';
import { createLegacyDatabase, invoicesIn, signIn } from '../support/evidence.js';
import { commentOn, make, roleExists, startQuietService, statusOf, type Answered } from '../support/rows-and-marks.js';
import { isOfWork } from '../support/lost-answers.js';
import { finishOperations } from '../support/operations.js';
import { startStatementProxy, type Statement, type StatementProxy, type Verdict } from '../support/statement-proxy.js';
import { rowOf } from '../support/tenants.js';

const cluster = inject('cluster');

async function newLegacyDatabase(): Promise<string> {
  const database = `legacy_${randomBytes(6).toString('hex')}`;
  await createLegacyDatabase(database, cluster.provisioner.user);
  return database;
}

async function clusterOf({ send, operatorToken: token }: TestService): Promise<string> {
  const { body } = await send<PageOf<{ id: string }>>('GET', '/clusters', { token });
  return body.data[0]?.id ?? '';
}

async function rightsOfPublic(database: string): Promise<readonly string[]> {
  const { rows } = await asSuperuser('postgres', (db) =>
    sql<{ right: string }>`
      select privilege_type as right from pg_database,
        aclexplode(coalesce(datacl, acldefault('d', datdba))) where datname = ${database} and grantee = 0`.execute(db),
  );
  return rows.map(({ right }) => right);
}

/** Every tenant that a marker inside the database names. */
async function markersIn(database: string): Promise<readonly string[]> {
  const { rows } = await asSuperuser(database, (db) =>
    sql<{ id: string }>`select tenant_id as id from tenant_marker`.execute(db),
  );
  return rows.map(({ id }) => id);
}

/** Expects that exactly one answer made the tenant, and that its database is closed to PUBLIC and works. */
async function expectOneWinner(service: TestService, answers: readonly Answered[], database: string): Promise<void> {
  const made = answers.filter(({ status }) => status === 201);
  expect(made, answers.map(({ text }) => text).join('\n')).toHaveLength(1);
  const id = made[0]?.body.id ?? '';
  expect(await rightsOfPublic(database)).toEqual([]);
  expect(await markersIn(database)).toEqual([id]);
  expect(await invoicesIn(database)).toEqual([1, 2]);
  const { slug, claim, dbName, dbUser } = await rowOf(service, { id });
  expect(dbName).toBe(database);
  expect(await commentOn(database)).toContain(`${id} adopted ${claim} `);
  expect(await roleExists(dbUser)).toBe(true);
  expect(await signIn(service, slug)).toBe(200);
}

interface Replicas {
  /** The replica whose statements `onStatement` sees. */
  readonly here: TestService;
  readonly there: TestService;
  readonly clusterId: string;
  /** Sets the function that is called before each statement with which a request of `here` works on a tenant. */
  readonly onStatement: (act: (statement: Statement, target: 'registry' | 'server') => Promise<void> | void) => void;
  /** Frees the tenant locks of all replicas, as a lost connection does. */
  readonly loseLocks: () => Promise<void>;
}

/** @param afterOperationStep called in `here` */
async function startReplicas(afterOperationStep?: EngineOptions['afterOperationStep']): Promise<Replicas> {
  const registry = await createRegistry();
  const proxies = {
    registry: await startStatementProxy(cluster.superuser),
    server: await startStatementProxy(cluster.provisioner),
  };
  onTestFinished(async () => {
    await Promise.all(Object.values(proxies).map((proxy) => proxy.close()));
  });
  const env = { RECONCILE_EVERY_MS: '3600000', STANDBY_DATABASES: '0' };
  const behind = <At>(at: At, { host, port }: StatementProxy): At => ({ ...at, host, port });
  // The same place for both replicas, or they would be two clusters.
  const place = { ...cluster, provisioner: behind(cluster.provisioner, proxies.server) };
  const there = await startServiceIn(place, { registry, env });
  onTestFinished(() => there.close());
  const here = await startServiceIn(
    { ...place, superuser: behind(cluster.superuser, proxies.registry) },
    { registry, env, operator: false, ...(afterOperationStep && { overrides: { afterOperationStep } }) },
  );
  onTestFinished(() => here.close());
  // Wait for the jobs that run at the start. All later statements are then those of requests.
  for (const job of ['reconciler', 'standby databases', 'lifecycle settle', 'lifecycle purge'])
    for (const { app } of [here, there]) await app.engine.housekeeping.runNow(job);
  return {
    here,
    there,
    clusterId: await clusterOf(there),
    onStatement(act) {
      for (const target of ['registry', 'server'] as const) {
        proxies[target].onStatement = async (statement): Promise<Verdict> => {
          const { application } = statement;
          const isAtWork =
            target === 'registry' ? isOfWork(statement) : application.includes(here.app.engine.replicaId);
          if (isAtWork) await act(statement, target);
          return 'pass';
        };
      }
    },
    async loseLocks() {
      await asSuperuser('postgres', (db) =>
        sql`select pg_terminate_backend(pid) from pg_locks join pg_stat_activity using (pid)
          where locktype = 'advisory' and granted and datname = ${registry}
            and application_name = 'tenantry locks'`.execute(db),
      );
      await sleep(300);
    },
  };
}

/** A point at which a request pauses until it is released. */
interface Halt {
  /** Resolves when the request is there. */
  readonly reached: Promise<void>;
  /** Called at that point. */
  readonly stand: () => Promise<void>;
  readonly go: () => void;
}

function newHalt(): Halt {
  let arrive: () => void = () => undefined;
  let go: () => void = () => undefined;
  const reached = new Promise<void>((resolve) => (arrive = resolve));
  const gone = new Promise<void>((resolve) => (go = resolve));
  const stand = (): Promise<void> => {
    arrive();
    return gone;
  };
  return { reached, stand, go };
}

/** Runs a change of a mark that another connection of the provisioner had sent, and that arrives only now. */
async function arriveLate(change: string): Promise<void> {
  const late = connectAs<unknown>('postgres', cluster.provisioner);
  try {
    await sql.raw(change).execute(late.db);
  } catch (error) {
    // The database has another mark by now, so the change is refused.
    if (!hasSqlState(error, 'TN001')) throw error;
  } finally {
    await late.close(0);
  }
}

const isMarkOfAdoption = ({ sql: text }: Statement): boolean =>
  text.includes('tenantry mark') && text.includes(' adopted ');

it('of two simultaneous adoptions of one database, one succeeds and the other leaves the database alone', async () => {
  const service = await startQuietService();
  const clusterId = await clusterOf(service);
  for (let round = 0; round < 4; round += 1) {
    const database = await newLegacyDatabase();
    const adopt = { clusterId, database };
    const answers = await Promise.all(
      ['one', 'other'].map((name) => make(service, service.operatorToken, `${name}-${round}`, { adopt })),
    );
    await finishOperations(service.app.engine);
    await expectOneWinner(service, answers, database);
  }
});

it('an adopter that pauses while another one adopts the database leaves the database alone when it continues', async () => {
  const { here, there, clusterId, onStatement, loseLocks } = await startReplicas();
  const database = await newLegacyDatabase();
  const halt = newHalt();
  let isHeld = false;
  onStatement(async ({ sql: text }, target) => {
    if (isHeld || target !== 'server' || !/\b(grant|revoke)\b/.test(text) || !text.includes(database)) return;
    isHeld = true;
    await halt.stand();
  });
  const adopt = { clusterId, database };
  const first = make(here, there.operatorToken, 'first', { adopt });
  await halt.reached;
  await loseLocks();
  await finishOperations(there.app.engine);
  const second = await make(there, there.operatorToken, 'second', { adopt });
  halt.go();
  const answers = [await first, second];
  for (const { app } of [here, there]) await finishOperations(app.engine);
  await expectOneWinner(there, answers, database);
});

it('an adopter that pauses anywhere in its undo leaves the next adoption of the database alone when it continues', async () => {
  let fails = false;
  const { here, there, clusterId, onStatement, loseLocks } = await startReplicas((_kind, step) => {
    if (step !== 'fill') return;
    fails = true;
    throw new Error('the step failed after it was done');
  });
  const token = there.operatorToken;
  const harm: string[] = [];
  let timesHeld = 0;
  for (let nth = 1; ; nth += 5) {
    const database = await newLegacyDatabase();
    const adopt = { clusterId, database };
    const halt = newHalt();
    let count = 0;
    let heldAt = '';
    fails = false;
    onStatement(async (statement) => {
      if (!fails || (count += 1) !== nth) return;
      heldAt = statement.sql.replace(/\s+/g, ' ').slice(0, 60);
      await halt.stand();
    });
    const first = make(here, token, `first-${nth}`, { adopt });
    const isReached = await Promise.race([halt.reached.then(() => true), first.then(() => false)]);
    // The adopter had already ended.
    if (!isReached) break;
    timesHeld += 1;
    await loseLocks();
    // The paused request may hold a row of the registry: then the other replica waits for it.
    const other = finishOperations(there.app.engine);
    await Promise.race([other, sleep(2_000)]);
    const second = await make(there, token, `second-${nth}`, { adopt });
    halt.go();
    const at = `held at (${heldAt})`;
    const { status } = await first;
    if (status < 500) harm.push(`${at}: answered with ${status}`);
    await other;
    for (const { app } of [here, there]) await finishOperations(app.engine);
    if ((await rowsOf(there, `first-${nth}`)).length > 0) harm.push(`${at}: its row is left`);
    const last = second.status === 201 ? second : await make(there, token, `second-${nth}`, { adopt });
    await expectOneWinner(there, [last], database).catch((error: unknown) => harm.push(`${at}: ${String(error)}`));
  }
  expect(harm).toEqual([]);
  expect(timesHeld).toBeGreaterThan(2);
}, 240_000);

it('a database whose adoption was undone before its mark arrived can be adopted again', async () => {
  const { here, there, clusterId, onStatement, loseLocks } = await startReplicas();
  const database = await newLegacyDatabase();
  const adopt = { clusterId, database };
  let mark = '';
  let sent: () => void = () => undefined;
  const isSent = new Promise<void>((resolve) => (sent = resolve));
  onStatement((statement) => {
    if (!isMarkOfAdoption(statement)) return;
    if (mark === '') mark = statement.sql;
    sent();
    throw new Error('the connection is cut');
  });
  const first = make(here, there.operatorToken, 'adopted', { adopt });
  await isSent;
  await loseLocks();
  await finishOperations(there.app.engine);
  const failed = await first;
  expect(failed.status, failed.text).toBe(503);
  expect(await rowsOf(there, 'adopted')).toEqual([]);
  await arriveLate(mark);

  const again = await make(there, there.operatorToken, 'adopted', { adopt });
  expect(again.status, again.text).toBe(201);
  expect(await statusOf(there, again.body.id)).toBe('active');
  await expectOneWinner(there, [again], database);
});

async function rowsOf(
  { config }: TestService,
  slug: string,
): Promise<readonly { readonly id: string; readonly status: string; readonly role: string }[]> {
  const { rows } = await asSuperuser(config.registry.connection.database, (db) =>
    sql<{ id: string; status: string; role: string }>`
      select id, status, db_user as role from tenants where slug = ${slug}`.execute(db),
  );
  return rows;
}
