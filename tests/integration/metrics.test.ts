// Every metric changes by an act: a metric that nothing changes, or that nobody wrote an act for, fails here. One real service on
// real servers, with a proxy in front of the registry and one in front of the tenants' server.
import { sql, type Kysely } from 'kysely';
import { readFileSync } from 'node:fs';
import { connect, type AddressInfo, type Socket } from 'node:net';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, inject, it, onTestFinished, vi } from 'vitest';
import { insertOperation } from '../../db/registry/operations/operation-rows.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { SERVED_SCHEMAS } from '../../db/tenant/served-schemas.js';
import type { Config } from '../../src/config/index.js';
import { createEngine, type Engine, type EngineOptions } from '../../src/engine/index.js';
import { metricDefinitions } from '../../src/engine/metrics/index.js';
import { createLogger } from '../../src/observability/logger.js';
import type { OperationKindName } from '../../src/operations/runner/operation-kinds.js';
import {
  ADMIN,
  asSuperuser,
  beginGrant,
  beginSession,
  connectAs,
  createRegistry,
  sender,
  startServiceForTest,
  startServiceIn,
  type TestService,
  type Answer,
  type TestTenant,
} from '../support/app.js';
import { parseExposition, type Exposition } from '../support/exposition.js';
import { untilCached } from '../support/cached-replicas.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import { insertStoppedRollout } from '../support/rollout-rows.js';
import { noRedis, redisNote, startRedis, type RedisServer } from '../support/redis.js';

/** A constant, which no act can change. */
const CONSTANT = 'tenantry_build_info';

/** For what happens a moment later, in ms: long, because a machine can be busy. */
const PATIENCE = { timeout: 30_000, interval: 50 };

type Labels = Readonly<Record<string, string>>;

interface Act {
  /** What happens, as the name of the test. */
  readonly what: string;
  /** The metrics that the act changes; of each the sum of the series with these labels. */
  readonly changes: Readonly<Record<string, Labels>>;
  /** Begins. Returns what ends it, after the metrics were looked at. */
  readonly act: () => Promise<(() => Promise<unknown>) | undefined>;
  /** What is scraped before and after, instead of the service. */
  readonly before?: () => Promise<Exposition>;
  readonly after?: () => Promise<Exposition>;
}

let registryName: string;
let registryProxy: Proxy;
let clusterProxy: Proxy;
let redis: RedisServer | undefined;
let service: TestService;
let engine: Engine;
let tenant: TestTenant;
/** A service that caches answers. */
let caching: TestService;
let overloaded: TestService;
/** The public port of the service. */
let port: number;

beforeAll(async () => {
  const cluster = inject('cluster');
  [registryProxy, clusterProxy] = await Promise.all([startProxy(cluster.superuser), startProxy(cluster.provisioner)]);
  if (noRedis === undefined) redis = await startRedis();
  const through = ({ host, port: at }: Proxy): { host: string; port: number } => ({ host, port: at });
  registryName = await createRegistry();
  service = await startServiceIn(
    {
      ...cluster,
      superuser: { ...cluster.superuser, ...through(registryProxy) },
      provisioner: { ...cluster.provisioner, ...through(clusterProxy) },
    },
    {
      registry: registryName,
      env: {
        SIGN_IN_FAILURES_ACCOUNT: '2',
        REGISTRY_POOL_MAX: '2',
        POOL_MAX: '2',
        POOL_STATEMENT_TIMEOUT_MS: '1000',
        HASH_CONCURRENCY: '1',
        CLUSTER_CONNECTION_BUDGET: '8',
        RECONCILE_EVERY_MS: '3600000',
        LOG_LEVEL: 'info',
        ...(redis && { REDIS_URL: redis.url }),
      },
      overrides: { logStream: { write: () => undefined } },
    },
  );
  ({ engine } = service.app);
  await service.app.listen({ host: '127.0.0.1', port: 0 });
  ({ port } = service.app.server.address() as AddressInfo);
}, 120_000);
afterEach(() => {
  registryProxy.mode = 'pass';
  clusterProxy.mode = 'pass';
});
afterAll(async () => {
  await service.close();
  await Promise.all([registryProxy.close(), clusterProxy.close(), redis?.close()]);
});

async function scrapeOf({ metrics }: Pick<Engine, 'metrics'>): Promise<Exposition> {
  return parseExposition((await metrics.expose()).body);
}

const scrape = (): Promise<Exposition> => scrapeOf(engine);

/** Another replica, which has asked the registry for nothing yet and runs no jobs. */
async function scrapeNewReplica(
  config: Config = service.config,
  options: EngineOptions = {},
  isReady: (other: Engine) => boolean = () => true,
): Promise<Exposition> {
  const other = await createEngine(config, createLogger(config.log), options);
  try {
    await expect.poll(() => isReady(other), PATIENCE).toBe(true);
    return await scrapeOf(other);
  } finally {
    await other.close();
  }
}

const list = (): Promise<{ readonly status: number }> => service.send('GET', '/products', { token: tenant.adminToken });

/** Sends the head of a request whose body does not come. */
function holdRequest(): Socket {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => undefined);
  socket.write('POST /auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{');
  return socket;
}

/** Runs work as the superuser in the registry, not through the proxy. */
const inRegistry = <T>(work: (db: Kysely<unknown>) => Promise<T>): Promise<T> => asSuperuser(registryName, work);

async function databaseOf(tenantId: string): Promise<string> {
  const record = await engine.tenantDirectory.find(tenantId);
  if (!record) throw new Error('the tenant is gone');
  return record.dbName;
}

/** Locks the tenant's products, until the returned function is called. */
async function lockProducts(): Promise<() => Promise<void>> {
  const locker = connectAs<unknown>(await databaseOf(tenant.id));
  let release = (): void => undefined;
  const held = new Promise<void>((resolve) => (release = resolve));
  let locked = (): void => undefined;
  const isLocked = new Promise<void>((resolve) => (locked = resolve));
  const transaction = locker.db.transaction().execute(async (trx) => {
    await sql`lock table products in access exclusive mode`.execute(trx);
    locked();
    await held;
  });
  await isLocked;
  return async () => {
    release();
    await transaction;
    await locker.close(0);
  };
}

/** Ends a fault of the tenants' server, and waits until its breaker is closed. */
async function recovered(): Promise<void> {
  clusterProxy.mode = 'pass';
  await expect.poll(async () => (await list()).status, { timeout: 30_000, interval: 100 }).toBe(200);
}

const acts: readonly Act[] = [
  {
    what: 'the first tenant is made, and its admin lists products',
    changes: {
      tenantry_tenant_creations_total: { source: 'template', outcome: 'success' },
      tenantry_tenant_creation_duration_seconds: { source: 'template' },
      tenantry_http_request_duration_seconds: { method: 'GET', route: '/products', status: '200' },
      tenantry_tenant_requests_total: { tenant: 'other' },
      tenantry_tenant_request_seconds_total: { tenant: 'other' },
      tenantry_tenant_pool_connections: { tenant: 'other' },
      tenantry_pools: {},
      tenantry_pool_connections: { state: 'open' },
      tenantry_slots_leased: { kind: 'tenants' },
      tenantry_slots_used: { kind: 'tenants' },
      tenantry_lanes: {},
      tenantry_lane_reads_total: {},
      tenantry_sessions_cached: {},
      tenantry_standings_cached: {},
    },
    act: async () => {
      tenant = await service.createTenant();
      for (let request = 0; request < 3; request += 1) expect((await list()).status).toBe(200);
      return undefined;
    },
  },
  {
    what: 'a user signs in with wrong passwords until it must wait',
    changes: {
      tenantry_sign_ins_total: { realm: 'tenant', outcome: 'refused' },
      tenantry_password_hash_duration_seconds: { act: 'verify' },
      tenantry_http_errors_total: { code: 'invalid-credentials' },
      tenantry_rate_limited_total: { limit: 'failures-account' },
      tenantry_security_events_total: { event: 'sign-in-failed' },
      tenantry_log_lines_total: { level: 'info' },
    },
    act: async () => {
      const body = { tenant: tenant.slug, email: ADMIN.email, password: 'a wrong password' };
      const statuses: number[] = [];
      for (let attempt = 0; attempt < 3; attempt += 1)
        statuses.push((await service.send('POST', '/auth/login', { body })).status);
      expect(statuses).toEqual([401, 401, 429]);
      return undefined;
    },
  },
  {
    what: 'a token that is none is refused',
    changes: { tenantry_access_tokens_refused_total: { reason: 'invalid' } },
    act: async () => {
      expect((await service.send('GET', '/products', { token: 'x.y.z' })).status).toBe(401);
      return undefined;
    },
  },
  {
    what: 'a session is refreshed and ended',
    changes: {
      tenantry_refreshes_total: { outcome: 'success' },
      tenantry_sessions_ended_total: { reason: 'logout' },
      tenantry_feed_changes_total: { kind: 'session' },
    },
    act: async () => {
      const { refreshToken } = await beginGrant(service.app, {
        kind: 'user',
        tenantId: tenant.id,
        userId: tenant.adminId,
      });
      const refreshed = await service.send<{ accessToken: string }>('POST', '/auth/refresh', {
        body: { refreshToken },
      });
      expect(refreshed.status).toBe(200);
      const ended = await service.send('POST', '/auth/logout', { token: refreshed.body.accessToken });
      expect(ended.status).toBe(204);
      return undefined;
    },
  },
  {
    what: 'the body of a request does not come',
    changes: { tenantry_http_requests_in_flight: {} },
    act: async () => {
      const socket = holdRequest();
      return async () => socket.destroy();
    },
  },
  {
    what: 'a client leaves before the answer',
    changes: { tenantry_http_requests_aborted_total: {} },
    act: async () => {
      const socket = holdRequest();
      await expect.poll(() => engine.traffic.inFlight, PATIENCE).toBe(1);
      socket.destroy();
      await expect.poll(() => engine.traffic.inFlight, PATIENCE).toBe(0);
      return undefined;
    },
  },
  {
    what: 'a client leaves while its search runs',
    changes: { tenantry_statements_cancelled_total: {} },
    act: async () => {
      const release = await lockProducts();
      const socket = connect(port, '127.0.0.1');
      socket.on('error', () => undefined);
      const head = `GET /products?active=true HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${tenant.adminToken}\r\n\r\n`;
      socket.write(head);
      await expect.poll(() => engine.traffic.inFlight, PATIENCE).toBe(1);
      await sleep(100);
      socket.destroy();
      const cancelled = (): number =>
        engine.governors.stats().reduce((sum, { departures }) => sum + departures.cancelled, 0);
      await expect.poll(cancelled, PATIENCE).toBeGreaterThan(0);
      return release;
    },
  },
  {
    what: "a tenant's table is locked",
    changes: { tenantry_pool_waiting: {}, tenantry_lane_overflows_total: {} },
    act: async () => {
      const release = await lockProducts();
      const requests = Array.from({ length: 8 }, list);
      return async () => {
        await release();
        await Promise.all(requests);
      };
    },
  },
  {
    what: "the tenants' server refuses connections",
    changes: {
      tenantry_tenant_errors_total: { tenant: 'other' },
      tenantry_breakers_open: { scope: 'cluster' },
      tenantry_breaker_openings_total: { scope: 'cluster' },
      tenantry_breaker_refusals_total: {},
    },
    act: async () => {
      // Its connections close first: those that are cut would hold every place of the pool until the server can be asked.
      await engine.tenantPools.retire(tenant.id);
      clusterProxy.mode = 'refuse';
      await expect
        .poll(
          async () => {
            await Promise.all([list(), list(), list()]);
            return engine.breakers.stats().refused;
          },
          { timeout: 30_000, interval: 50 },
        )
        .toBeGreaterThan(0);
      return recovered;
    },
  },
  {
    what: "the tenants' server hangs",
    changes: { tenantry_slots_unknown: { kind: 'tenants' } },
    act: async () => {
      clusterProxy.mode = 'hang';
      const request = list();
      return async () => {
        clusterProxy.mode = 'pass';
        await request;
        await recovered();
      };
    },
  },
  {
    what: 'more hashes are asked for than may wait',
    changes: {
      tenantry_password_hashes_running: {},
      tenantry_password_hashes_waiting: {},
      tenantry_password_hashes_refused_total: {},
    },
    act: async () => {
      const hashes = Array.from({ length: 60 }, () => engine.passwords.verify(undefined, 'a password', 'payer'));
      const ended = Promise.allSettled(hashes);
      return () => ended;
    },
  },
  {
    what: 'another cluster comes into use',
    changes: { tenantry_slots_budget: { cluster: 'db.example:5432' } },
    act: async () => {
      engine.governors.at({ host: 'db.example', port: 5432 });
      return undefined;
    },
  },
  {
    what: 'more requests want a slot than there are, and one pool has idle connections',
    changes: {
      tenantry_slots_waiting: { kind: 'tenants' },
      tenantry_slot_evictions_total: { kind: 'tenants' },
      tenantry_slot_yields_total: { kind: 'tenants' },
      tenantry_slot_refusals_total: { kind: 'tenants' },
      tenantry_slot_timeouts_total: { kind: 'tenants' },
    },
    act: async () => {
      const { tenants: governor } = engine.governors.at({ host: '127.0.0.1', port: 1 });
      const rich = governor.join('rich', () => {
        const slot = slots.pop();
        slot?.closing();
        slot?.release();
        return slot !== undefined;
      });
      const poor = governor.join('poor', () => false);
      const slots = await Promise.all(Array.from({ length: 8 }, () => rich.open(10_000)));
      await expect(poor.open(10)).rejects.toThrow();
      const waiting = [poor.open(60_000)];
      await sleep(50);
      // It keeps its connections busy, and another tenant has none.
      expect(rich.mustYield()).toBe(true);
      rich.idle(true);
      slots.push(...(await Promise.all(waiting)));
      const crowd = Promise.allSettled(Array.from({ length: 1_010 }, () => poor.open(60_000)));
      return async () => {
        poor.leave();
        rich.leave();
        await crowd;
        for (const slot of slots) slot.release();
      };
    },
  },
  {
    what: 'another replica holds every slot of a cluster',
    changes: { tenantry_slots_starved: {} },
    act: async () => {
      const cluster = '127.0.0.1:2';
      await inRegistry((db) =>
        sql`insert into slot_leases (cluster, kind, replica_id, budget, slots, wanted, renewed_at)
          values (${cluster}, 'tenants', 'other', 8, 8, 0, now())`.execute(db),
      );
      const pool = engine.governors.at({ host: '127.0.0.1', port: 2 }).tenants.join('starved', () => false);
      const asked = pool.open(60_000).catch(() => undefined);
      return async () => {
        pool.leave();
        await asked;
        await inRegistry((db) => sql`delete from slot_leases where cluster = ${cluster}`.execute(db));
      };
    },
  },
  {
    what: 'the registry works on more statements than its pool has connections',
    changes: {
      tenantry_registry_connections: { pool: 'requests', state: 'idle' },
      tenantry_registry_waiting: { pool: 'requests' },
    },
    act: async () => {
      const all = Promise.allSettled(
        Array.from({ length: 5 }, () => sql`select pg_sleep(0.5)`.execute(engine.registry)),
      );
      return () => all;
    },
  },
  {
    what: 'the registry hangs while a change is published',
    changes: {
      tenantry_feed_live: {},
      tenantry_feed_lag_seconds: {},
      tenantry_feed_unpublished: {},
      tenantry_lease_renewals_failing: {},
    },
    act: async () => {
      registryProxy.mode = 'hang';
      const published = engine.events.publish({ kind: 'roles', tenantId: tenant.id }).catch((error: unknown) => error);
      return async () => {
        registryProxy.mode = 'pass';
        await published;
        await expect.poll(() => engine.events.live, { timeout: 30_000, interval: 50 }).toBe(true);
      };
    },
  },
  {
    what: 'the registry has no change left that this replica knows',
    changes: { tenantry_feed_gaps_total: {} },
    act: async () => {
      await engine.events.publish({ kind: 'roles', tenantId: tenant.id });
      await sleep(500);
      await inRegistry((db) =>
        db.transaction().execute(async (trx) => {
          await sql`delete from changes`.execute(trx);
          await sql`insert into changes (message) values ('any')`.execute(trx);
        }),
      );
      return undefined;
    },
  },
  {
    what: 'a session does not read its notifications',
    changes: { tenantry_notify_queue_usage_ratio: {} },
    act: async () => {
      const listener = connectAs<unknown>(registryName);
      let release = (): void => undefined;
      const held = new Promise<void>((resolve) => (release = resolve));
      let listening = (): void => undefined;
      const isListening = new Promise<void>((resolve) => (listening = resolve));
      const session = listener.db.connection().execute(async (db) => {
        await sql`listen metrics_test`.execute(db);
        await db.transaction().execute(async (trx) => {
          await sql`select 1`.execute(trx);
          listening();
          await held;
        });
      });
      await isListening;
      await inRegistry((db) =>
        sql`select pg_notify('metrics_test', repeat('x', 7000) || n) from generate_series(1, 500) n`.execute(db),
      );
      return async () => {
        release();
        await session;
        await listener.close(0);
      };
    },
  },
  {
    what: 'a background job runs, another fails, and a third does not end',
    changes: {
      tenantry_job_runs_total: { job: 'test failing', outcome: 'failed' },
      tenantry_job_duration_seconds: { job: 'test failing' },
      tenantry_job_running: { job: 'test endless' },
    },
    act: async () => {
      const every = 3_600_000;
      let end = (): void => undefined;
      const ended = new Promise<void>((resolve) => (end = resolve));
      engine.housekeeping.add({
        name: 'test failing',
        every,
        run: () => Promise.reject(new Error('as the test asks')),
      });
      engine.housekeeping.add({ name: 'test good', every, run: () => Promise.resolve() });
      engine.housekeeping.add({ name: 'test endless', every, run: () => ended });
      return async () => {
        end();
      };
    },
  },
  {
    what: 'the registry has more replicas, tenants, standby databases, unfinished operations and runs of jobs',
    changes: {
      tenantry_replicas_alive: {},
      tenantry_tenants: { status: 'suspended' },
      tenantry_tenants_by_schema_version: { version: '0001_older' },
      tenantry_standby_databases: { state: 'making' },
      tenantry_standby_databases_wanted: {},
      tenantry_operations: { kind: 'create', state: 'waiting' },
      tenantry_operation_oldest_seconds: { kind: 'create' },
      tenantry_operations_need_person: { kind: 'create' },
      tenantry_databases_left: { kind: 'orphan' },
      tenantry_job_failures_in_a_row: { job: 'made up' },
      tenantry_job_last_success_timestamp_seconds: { job: 'made up' },
    },
    before: () => scrapeNewReplica(),
    after: () => scrapeNewReplica(),
    act: async () => {
      await inRegistry(async (db) => {
        const made = (status: string, version: string, age: string): ReturnType<typeof insertTenants> =>
          insertTenants(db, 1, status, version, age);
        await made('suspended', '0001_older', '0');
        await made('provisioning', '0001_older', '2 hours');
        await sql`update clusters set standby_target = 3`.execute(db);
        await sql`insert into replicas (id, version, node, host, started_at, seen_at, slots_used)
          values ('made up', '0', '0', 'made-up', now(), now(), '{}')`.execute(db);
        await sql`insert into jobs (name, every, last_run_at, last_success_at, failures_in_a_row)
          values ('made up', 1000, now(), now() - interval '1 minute', 2)`.execute(db);
        await sql`insert into standby_databases (id, cluster_id, db_name, db_user, db_password, schema_version)
          select gen_random_uuid(), id, 'made_up', 'made_up', '', '0001_older' from clusters limit 1`.execute(db);
        await sql`insert into operations (id, kind, subject, state, request_key, request_tag, created_at, not_before)
          values (gen_random_uuid(), 'create', gen_random_uuid(), 'waiting', 'made up', '', now() - interval '2 hours',
            now() + interval '1 hour')`.execute(db);
        await sql`insert into reports (kind, subject, database, why, first_at, seen_at)
          values ('orphan', 'made up', 'made_up', '', now(), now())`.execute(db);
      });
      return () =>
        inRegistry(async (db) => {
          await sql`delete from tenants where name = 'made up'`.execute(db);
          await sql`delete from operations where request_key = 'made up'`.execute(db);
          await sql`delete from reports where subject = 'made up'`.execute(db);
          await sql`delete from replicas where id = 'made up'`.execute(db);
          await sql`delete from jobs where name = 'made up'`.execute(db);
          await sql`delete from standby_databases where db_name = 'made_up'`.execute(db);
          await sql`update clusters set standby_target = 0`.execute(db);
        });
    },
  },
  {
    what: 'a rollout has stopped',
    changes: {
      tenantry_rollout_items: { state: 'failed' },
      tenantry_rollout_stopped: {},
    },
    before: () => scrapeNewReplica(),
    after: () => scrapeNewReplica(),
    act: async () => {
      await inRegistry((db) => insertStoppedRollout(db as Kysely<Registry>, SERVED_SCHEMAS.newest));
      return () =>
        inRegistry(async (db) => {
          await sql`delete from rollouts`.execute(db);
        });
    },
  },
  {
    what: 'an operation is done',
    changes: {
      tenantry_operations_ended_total: { kind: 'made-up', outcome: 'done' },
      tenantry_operation_duration_seconds: { kind: 'made-up' },
    },
    act: async () => {
      const kind = { name: 'made-up' as OperationKindName, plan: () => Promise.resolve('done' as const) };
      const operation = await insertOperation(engine.registry, { kind: kind.name, subject: tenant.id, worker: 'test' });
      if (!operation) throw new Error('the operation was not recorded');
      expect(await engine.runner.work(kind, operation)).toEqual({ state: 'done' });
      return undefined;
    },
  },
  {
    what: 'the clock of a replica is wrong',
    changes: { tenantry_clock_skew_seconds: {} },
    before: () => scrapeNewReplica(service.config, {}, ({ events }) => events.live),
    after: () =>
      scrapeNewReplica(service.config, { wallClock: () => Date.now() + 60_000 }, ({ events }) => events.live),
    act: () => Promise.resolve(undefined),
  },
  {
    what: 'answers are cached',
    changes: { tenantry_read_cache_events_total: { event: 'hit' } },
    after: () => scrapeOf(caching.app.engine),
    act: async () => {
      caching = await startServiceIn(inject('cluster'), { env: { READ_CACHE: 'on' } });
      const { adminToken: token } = await caching.createTenant();
      const read = (): Promise<Answer<unknown>> => caching.send('GET', '/products', { token });
      await untilCached({ service: caching }, read);
      return () => caching.close();
    },
  },
  {
    what: 'the event loop is overloaded',
    changes: { tenantry_overloaded: {} },
    after: () => scrapeOf(overloaded.app.engine),
    act: async () => {
      overloaded = await startServiceIn(inject('cluster'), { env: { MAX_EVENT_LOOP_DELAY_MS: '20' } });
      let isBusy = true;
      const work = (): void => {
        const since = performance.now();
        while (performance.now() - since < 30);
        if (isBusy) setImmediate(work);
      };
      work();
      const end = (): Promise<void> => {
        isBusy = false;
        return overloaded.close();
      };
      try {
        await expect.poll(() => overloaded.app.engine.traffic.overloaded, PATIENCE).toBe(true);
      } catch (error) {
        await end();
        throw error;
      }
      return end;
    },
  },
  {
    what: 'the registry is away',
    changes: { tenantry_fleet_readable: {} },
    before: () => scrapeNewReplica(),
    after: () => {
      const { registry } = service.config;
      const nowhere = { ...registry, connection: { ...registry.connection, port: 1 } };
      return scrapeNewReplica({ ...service.config, registry: nowhere });
    },
    act: () => Promise.resolve(undefined),
  },
];

const redisActs: readonly Act[] = [
  {
    what: 'Redis is killed',
    changes: { tenantry_redis_available: {}, tenantry_redis_failures_total: {} },
    act: async () => {
      await redis?.kill();
      return async () => {
        await redis?.start();
      };
    },
  },
];

/** Rows of tenants without a database. */
function insertTenants(
  db: Kysely<unknown>,
  count: number,
  status: string,
  version: string,
  age = '0',
): Promise<unknown> {
  return sql`insert into tenants
      (id, name, slug, status, db_host, db_port, db_name, db_user, db_password, schema_version, created_at)
    select gen_random_uuid(), 'made up', 'made-up-' || ${status}::text || n, ${status}, 'db.example', 5432,
      ${status}::text || n, 'made_up', '', ${version}, now() - ${age}::interval
    from generate_series(1, ${count}::integer) n`.execute(db);
}

async function tryAct({ changes, act, before = scrape, after = scrape }: Act): Promise<void> {
  const numbers = (found: Exposition): Record<string, number | undefined> =>
    Object.fromEntries(Object.entries(changes).map(([name, labels]) => [name, found.sum(name, labels)]));
  const was = numbers(await before());
  const changed = new Set<string>();
  const restore = await act();
  try {
    await expect
      .poll(async () => {
        for (const [name, value] of Object.entries(numbers(await after()))) if (value !== was[name]) changed.add(name);
        return Object.keys(changes).filter((name) => !changed.has(name));
      }, PATIENCE)
      .toEqual([]);
  } finally {
    await restore?.();
  }
}

describe('a metric changes when', () => {
  it.each(acts)('$what', { timeout: 60_000 }, tryAct);

  it.skipIf(noRedis !== undefined).each(redisActs)(`$what${redisNote}`, { timeout: 60_000 }, tryAct);
});

describe('the table of acts', () => {
  it('has an act for every metric, and none for a metric that is not defined', () => {
    const acted = [...acts, ...redisActs].flatMap(({ changes }) => Object.keys(changes));
    expect([...new Set(acted)].sort()).toEqual(
      metricDefinitions.map(({ name }) => name).filter((name) => name !== CONSTANT),
    );
  });
});

describe('the metrics', () => {
  it('name the version of the service and of Node.js', async () => {
    const { version } = JSON.parse(readFileSync(path.resolve(import.meta.dirname, '../../package.json'), 'utf8')) as {
      version: string;
    };
    expect((await scrape()).of(CONSTANT)).toEqual([
      { name: CONSTANT, labels: { version, node: process.version }, value: 1 },
    ]);
  });

  it('have no label with a value besides those that the definition lists', async () => {
    const found = await scrape();
    for (const { name, values = {} } of metricDefinitions)
      for (const { labels } of found.of(name))
        for (const [label, allowed] of Object.entries(values)) expect(allowed, name).toContain(labels[label]);
  });

  it('say of a refresh token that was used twice that it was reused, and not that it was refused', async () => {
    const { refreshToken } = await beginGrant(service.app, {
      kind: 'user',
      tenantId: tenant.id,
      userId: tenant.adminId,
    });
    const refresh = (token: string): Promise<{ status: number; body: { refreshToken: string } }> =>
      service.send<{ refreshToken: string }>('POST', '/auth/refresh', { body: { refreshToken: token } });
    const before = await scrape();
    const second = await refresh(refreshToken);
    await refresh(second.body.refreshToken);
    expect((await refresh(refreshToken)).status).toBe(401);
    expect((await refresh(refreshToken)).status).toBe(401);
    const after = await scrape();
    const more = (name: string, labels: Labels): number =>
      (after.sum(name, labels) ?? 0) - (before.sum(name, labels) ?? 0);
    expect(more('tenantry_refreshes_total', { outcome: 'reused' })).toBe(1);
    expect(more('tenantry_refreshes_total', { outcome: 'refused' })).toBe(1);
    expect(more('tenantry_refreshes_total', { outcome: 'success' })).toBe(2);
    expect(more('tenantry_sessions_ended_total', { reason: 'reuse' })).toBe(1);
  });

  it('count a request to an unknown address without its address, and one whose head is refused by its code', async () => {
    const before = await scrape();
    const count = (found: Exposition, labels: Labels): number =>
      found.sum('tenantry_http_request_duration_seconds', labels) ?? 0;
    await service.send('GET', '/secret-path-of-a-person');
    await service.app.inject({ method: 'PROPFIND' as 'GET', url: '/secret-path-of-a-person' });
    expect((await service.app.inject('/%ff')).statusCode).toBe(400);
    const socket = connect(port, '127.0.0.1');
    socket.resume().write('no HTTP at all\r\n\r\n');
    await new Promise((resolve) => socket.on('error', () => undefined).on('close', resolve));
    const after = await scrape();
    expect(after.text).not.toContain('secret-path');
    const labels = { route: 'none', status: '404' };
    expect(count(after, { ...labels, method: 'GET' })).toBe(count(before, { ...labels, method: 'GET' }) + 1);
    expect(count(after, { ...labels, method: 'other' })).toBe(count(before, { ...labels, method: 'other' }) + 1);
    const bad = { route: 'none', status: '400', method: 'GET' };
    expect(count(after, bad)).toBe(count(before, bad) + 1);
    const errors = (found: Exposition): number =>
      found.sum('tenantry_http_errors_total', { code: 'invalid-request' }) ?? 0;
    expect(errors(after)).toBe(errors(before) + 2);
  });

  it('count each request once, and nothing stays in flight', async () => {
    const before = await scrape();
    const send = sender(service.app);
    const requests = 40;
    await Promise.all(Array.from({ length: requests }, () => send('GET', '/health/live')));
    const after = await scrape();
    const labels = { route: '/health/live', method: 'GET', status: '200' };
    const name = 'tenantry_http_request_duration_seconds';
    expect((after.sum(name, labels) ?? 0) - (before.sum(name, labels) ?? 0)).toBe(requests);
    expect(after.sum('tenantry_http_requests_in_flight')).toBe(0);
    expect(after.sum('tenantry_http_requests_aborted_total')).toBe(before.sum('tenantry_http_requests_aborted_total'));
  });
});

describe('a 429', () => {
  interface Limited {
    readonly limit: string;
    readonly env: Readonly<Record<string, string>>;
    /** Sends one request that the limit concerns. */
    readonly request: (limited: TestService) => Promise<() => Promise<{ readonly status: number }>>;
  }
  const signIn = { tenant: 'nobody', email: 'nobody@example.com', password: 'a wrong password' };
  const limits: readonly Limited[] = [
    {
      limit: 'address',
      env: { RATE_LIMIT_MAX: '1' },
      request:
        async ({ send }) =>
        () =>
          send('GET', '/nowhere'),
    },
    {
      limit: 'sign-in',
      env: { SIGN_IN_LIMIT: '1' },
      request:
        async ({ send }) =>
        () =>
          send('POST', '/auth/login', { body: signIn }),
    },
    {
      limit: 'user',
      env: { USER_RATE_LIMIT_MAX: '1' },
      request:
        async ({ send, operatorToken: token }) =>
        () =>
          send('GET', '/tenants', { token }),
    },
    {
      limit: 'tenant-requests',
      env: { TENANT_REQUESTS_PER_SECOND: '1' },
      request: async (limited) => {
        const { adminToken: token } = await limited.createTenant();
        return () => limited.send('GET', '/products', { token });
      },
    },
    {
      limit: 'password',
      env: { PASSWORD_BUDGET_ACCOUNT: '1' },
      request: async (limited) => {
        const { adminToken: token } = await limited.createTenant();
        let users = 0;
        const user = { firstName: 'Uma', lastName: 'User', password: 'user-password-123', roles: ['member'] };
        return () =>
          limited.send('POST', '/users', { token, body: { ...user, email: `u${(users += 1)}@example.com` } });
      },
    },
  ];

  it.each(limits)('is counted once, by the limit that was reached: $limit', async ({ limit, env, request }) => {
    const limited = await startServiceForTest({ env });
    const send = await request(limited);
    const answers = await Promise.all([send(), send(), send(), send()]);
    const refused = answers.filter(({ status }) => status === 429).length;
    expect(refused).toBeGreaterThan(0);
    const found = await scrapeOf(limited.app.engine);
    expect(found.sum('tenantry_rate_limited_total', { limit })).toBe(refused);
    expect(found.sum('tenantry_rate_limited_total')).toBe(refused);
  });
});

describe('a refused access token', () => {
  it('is counted by the reason', async () => {
    const before = await scrape();
    const refused: string[] = [];
    const refuse = async (reason: string, url: string, token?: string): Promise<void> => {
      expect([401, 403]).toContain((await service.send('GET', url, { token })).status);
      refused.push(reason);
    };
    const { id: userId, token } = await service.createUser(tenant, 'left@example.com');
    const fresh = (): Promise<string> => beginSession(service.app, { kind: 'user', tenantId: tenant.id, userId });
    await refuse('missing', '/products');
    await refuse('invalid', '/products', 'x.y.z');
    await refuse('wrong-kind', '/tenants', token);
    const [known, unknown] = [await fresh(), await fresh()];
    expect((await service.send('GET', '/products', { token: known })).status).toBe(200);
    const now = Date.now();
    vi.spyOn(Date, 'now').mockReturnValue(now + 3_600_000);
    await refuse('expired', '/products', known);
    await refuse('expired', '/products', unknown);
    vi.restoreAllMocks();
    const ended = await fresh();
    await service.send('POST', '/auth/logout', { token: ended });
    await refuse('session-ended', '/products', ended);
    const admin = tenant.adminToken;
    const deactivated = await service.send('PATCH', `/users/${userId}`, { token: admin, body: { active: false } });
    expect(deactivated.status).toBe(200);
    await service.send('GET', '/products', { token });
    const after = await scrape();
    const more = (labels: Labels): number =>
      (after.sum('tenantry_access_tokens_refused_total', labels) ?? 0) -
      (before.sum('tenantry_access_tokens_refused_total', labels) ?? 0);
    for (const reason of new Set(refused))
      expect([reason, more({ reason })]).toEqual([
        reason,
        refused.filter((other) => other === reason).length + (reason === 'session-ended' ? 1 : 0),
      ]);
    expect(after.sum('tenantry_sessions_ended_total', { reason: 'account-changed' })).toBeGreaterThan(
      before.sum('tenantry_sessions_ended_total', { reason: 'account-changed' }) ?? 0,
    );
  });
});

describe('a request whose client left', () => {
  it('is aborted and not answered, although its answer is made later', async () => {
    const release = await lockProducts();
    const before = await scrape();
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => undefined);
    socket.write(`GET /products HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${tenant.adminToken}\r\n\r\n`);
    await expect.poll(() => engine.traffic.inFlight, PATIENCE).toBe(1);
    socket.destroy();
    await expect.poll(() => engine.traffic.inFlight, PATIENCE).toBe(0);
    await release();
    // The answer is made when the lock is free, which the next request waits for as well.
    expect((await list()).status).toBe(200);
    await sleep(200);
    const after = await scrape();
    const more = (name: string, labels: Labels = {}): number =>
      (after.sum(name, labels) ?? 0) - (before.sum(name, labels) ?? 0);
    expect(more('tenantry_http_requests_aborted_total')).toBe(1);
    expect(more('tenantry_http_request_duration_seconds', { route: '/products' })).toBe(1);
    expect(after.sum('tenantry_http_requests_in_flight')).toBe(0);
  });

  it('is aborted also if it waited behind another request of its connection', async () => {
    const release = await lockProducts();
    onTestFinished(release);
    const before = await scrape();
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => undefined);
    socket.write(`GET /products HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${tenant.adminToken}\r\n\r\n`.repeat(3));
    await expect.poll(() => engine.traffic.inFlight, PATIENCE).toBe(3);
    socket.destroy();
    await expect.poll(() => engine.traffic.inFlight, PATIENCE).toBe(0);
    const aborted = 'tenantry_http_requests_aborted_total';
    expect((await scrape()).sum(aborted)).toBe((before.sum(aborted) ?? 0) + 3);
  });

  it('is no internal error if the client left while it sent the body', async () => {
    const before = await scrape();
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => undefined);
    const head =
      'POST /auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 200\r\n\r\n';
    socket.write(`${head}{`);
    await expect.poll(() => engine.traffic.inFlight, PATIENCE).toBe(1);
    socket.resetAndDestroy();
    await expect.poll(() => engine.traffic.inFlight, PATIENCE).toBe(0);
    await sleep(100);
    const after = await scrape();
    expect(after.sum('tenantry_http_errors_total')).toBe(before.sum('tenantry_http_errors_total'));
  });
});

describe('the numbers of the fleet', () => {
  it('are asked of the registry once, however often a replica is scraped', async () => {
    const { config } = service;
    const connection = { ...config.registry.connection, database: await createRegistry() };
    const other = await createEngine(
      { ...config, registry: { ...config.registry, connection } },
      createLogger(config.log),
    );
    onTestFinished(() => other.close());
    const counted = async (): Promise<number | undefined> => (await scrapeOf(other)).sum('tenantry_tenants');
    expect(await counted()).toBe(0);
    await asSuperuser(connection.database, (db) => insertTenants(db, 3, 'active', SERVED_SCHEMAS.newest));
    for (let scrapes = 0; scrapes < 5; scrapes += 1) expect(await counted()).toBe(0);
  });
});

describe('the number of series', () => {
  it('grows by at most a fifth from 20 busy tenants to 300 of 10,000', { timeout: 60_000 }, async () => {
    const registry = await createRegistry();
    const { config } = service;
    const connection = { ...config.registry.connection, database: registry };
    const small = await createEngine(
      { ...config, registry: { ...config.registry, connection } },
      createLogger(config.log),
    );
    onTestFinished(() => small.close());
    const busy = async (engineOf: Engine, ids: readonly string[]): Promise<number> => {
      for (let minute = 0; minute < 10; minute += 1) {
        for (const [index, id] of ids.entries())
          for (let request = 0; request < 1 + ((index + minute) % 7); request += 1)
            engineOf.busyTenants.count(id, 0.01, request === 6);
        engineOf.busyTenants.rank();
      }
      return (await scrapeOf(engineOf)).series.length;
    };
    const idsOf = (db: Kysely<Registry>, count: number): Promise<string[]> =>
      db
        .selectFrom('tenants')
        .select('id')
        .limit(count)
        .execute()
        .then((rows) => rows.map(({ id }) => id));
    await asSuperuser(registry, (db) => insertTenants(db, 20, 'active', SERVED_SCHEMAS.newest));
    const withFew = await busy(small, await idsOf(small.registry, 20));
    const large = await createEngine(
      { ...config, registry: { ...config.registry, connection } },
      createLogger(config.log),
    );
    onTestFinished(() => large.close());
    await asSuperuser(registry, async (db) => {
      await sql`delete from tenants`.execute(db);
      await insertTenants(db, 10_000, 'active', SERVED_SCHEMAS.newest);
    });
    const withMany = await busy(large, await idsOf(large.registry, 300));
    const found = await scrapeOf(large);
    expect(found.sum('tenantry_tenants')).toBe(10_000);
    expect(found.of('tenantry_tenant_requests_total')).toHaveLength(21);
    expect(withMany).toBeLessThanOrEqual(withFew * 1.2);
  });
});
