// A real Prometheus scrapes two replicas, with the rules of deploy/observability/alerts.yml. Each alert fires in its fault and clears
// after it, none fires without a fault, and every query of the dashboards and of the runbooks answers something.
//
// Minutes are seconds here: ranges and `for` are divided by FACTOR (tests/support/scaled-rules.ts).
import { sql, type Kysely } from 'kysely';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { parse } from 'yaml';
import type { Registry } from '../../db/registry/registry-schema.js';
import { portOf } from '../../src/embedded/port.js';
import { ADMIN, asSuperuser, connectAs, createRegistry, OPERATOR, urlOf } from '../support/app.js';
import { readPage } from '../support/docs.js';
import { holdJobs } from '../support/held-jobs.js';
import { FOLDER, panelQueries, promQueries } from '../support/observability.js';
import { isMissing, skipNote } from '../support/programs.js';
import { startPrometheus, type Prometheus } from '../support/prometheus.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import { noRedis, startRedis, type RedisServer } from '../support/redis.js';
import { insertStoppedRollout } from '../support/rollout-rows.js';
import { scaleRules } from '../support/scaled-rules.js';
import {
  build,
  eventually,
  isRunning,
  makeDataDir,
  startProcess,
  type ServiceProcess,
} from '../support/service-process.js';
import { startStatementProxy, type Statement, type StatementProxy } from '../support/statement-proxy.js';

/** 5 minutes become 10 s, and one minute 2 s. */
const FACTOR = 30;
const SCRAPE_EVERY = '500ms';

/** The pause (ms) of a client after each turn. */
const PAUSE = 200;

/** How long (ms) the service works without a fault: longer than each `for` but that of an hour. */
const QUIET = 22_000;

/** Longest time (ms) until an alert fires or clears: the window of a rate is 10 s, and a busy machine takes longer. */
const SOON = 120_000;

/** The same for a number of the fleet: each replica asks the registry for it every 30 s. */
const SOON_IN_THE_FLEET = SOON + 30_000;

/** It has no series while there is no unfinished operation, as here. */
const UNFINISHED = 'tenantry_operation_oldest_seconds';

const missing = (['prometheus', 'redis-server'] as const).filter(isMissing);

describe.skipIf(missing.length > 0 || noRedis !== undefined)(
  `two replicas under a real Prometheus${skipNote('prometheus', 'redis-server')}`,
  { timeout: 300_000 },
  () => {
    let data: Awaited<ReturnType<typeof makeDataDir>>;
    let registry: string;
    let redis: RedisServer;
    let server: Proxy;
    let statements: StatementProxy;
    let prometheus: Prometheus;
    let work: Work;
    let operator: string;
    const replicas: ServiceProcess[] = [];
    /** What ends everything that was started; the last first. */
    const undo: (() => Promise<unknown>)[] = [];

    async function startReplica(index: number): Promise<ServiceProcess> {
      const { superuser, registryService, provisioner } = inject('cluster');
      return (replicas[index] = await startProcess({
        DATABASE_URL: urlOf({ ...superuser, ...registryService, ...addressOf(statements), database: registry }),
        TENANT_DATABASE_URL: urlOf({ ...provisioner, ...addressOf(server) }),
        REDIS_URL: redis.url,
        DATA_DIR: data.dir,
        METRICS_PORT: String(await metricsPort(index)),
        // A few connections, so that two tenants can hold them all.
        CLUSTER_CONNECTION_BUDGET: '8',
        RECONCILE_EVERY_MS: '1000',
        SHUTDOWN_DRAIN_MS: '0',
        OPERATOR_EMAIL: OPERATOR.email,
        OPERATOR_PASSWORD: OPERATOR.password,
      }));
    }

    const ports = new Map<number, Promise<number>>();
    /** The same for the replica's next start. */
    function metricsPort(index: number): Promise<number> {
      const port = ports.get(index) ?? portOf(path.join(data.dir, `metrics-${index}`));
      ports.set(index, port);
      return port;
    }

    beforeAll(async () => {
      await build();
      data = await makeDataDir();
      undo.push(() => data.remove());
      registry = await createRegistry();
      const { host, port } = inject('cluster').superuser;
      redis = await startRedis();
      undo.push(() => redis.close());
      server = await startProxy({ host, port });
      undo.push(() => server.close());
      statements = await startStatementProxy({ host, port });
      undo.push(() => statements.close(), endReplicas);
      // One after the other: the first makes the secrets that both use.
      for (const index of [0, 1]) await startReplica(index);
      operator = await signInOperator(urlOfReplica(0));
      const tenants = [];
      for (const slug of ['one', 'two', 'three']) tenants.push(await createTenant(urlOfReplica(0), slug));
      work = beginWork(tenants);
      undo.push(() => work.stop());
      prometheus = await startPrometheus(await configOf(), scaleRules(readPage(`${FOLDER}/alerts.yml`), FACTOR));
      undo.push(() => prometheus.close());
    }, 90_000);

    afterAll(async () => {
      for (const end of undo.reverse()) await end();
    });

    async function endReplicas(): Promise<void> {
      // A test that failed may have left its fault.
      server.mode = 'pass';
      statements.onStatement = () => 'pass';
      for (const replica of replicas.filter(({ pid }) => isRunning(pid))) {
        replica.signal('SIGTERM');
        await replica.exited;
      }
    }

    const urlOfReplica = (index: number): string => replicas[index]?.url ?? '';

    /** The scrape part of the shipped configuration, with the addresses of this test. */
    async function configOf(): Promise<Record<string, unknown>> {
      const shipped = parse(readPage(`${FOLDER}/prometheus.yml`)) as {
        scrape_configs: readonly { static_configs: readonly { targets: readonly string[] }[] }[];
      };
      const targets = await Promise.all([0, 1].map(async (index) => `127.0.0.1:${await metricsPort(index)}`));
      expect(shipped.scrape_configs[0]?.static_configs[0]?.targets).toHaveLength(targets.length);
      return {
        global: { scrape_interval: SCRAPE_EVERY, scrape_timeout: SCRAPE_EVERY, evaluation_interval: SCRAPE_EVERY },
        scrape_configs: shipped.scrape_configs.map((job) => ({ ...job, static_configs: [{ targets }] })),
      };
    }

    interface Tenant {
      readonly id: string;
      readonly slug: string;
      readonly token: string;
    }

    async function signInOperator(url: string): Promise<string> {
      const { body } = await send(url, 'POST', '/auth/operator/login', OPERATOR);
      return body.accessToken ?? '';
    }

    async function createTenant(url: string, slug: string): Promise<Tenant> {
      const poolOptions = { acquireTimeout: 2_000 };
      const made = await send(url, 'POST', '/tenants', { name: slug, slug, admin: ADMIN, poolOptions }, operator);
      expect(made.status, JSON.stringify(made.body)).toBe(201);
      const signedIn = await signIn(url, slug);
      return { id: made.body.id ?? '', slug, token: signedIn.body.accessToken ?? '' };
    }

    const signIn = async (url: string, tenant: string, password = ADMIN.password): ReturnType<typeof send> =>
      send(url, 'POST', '/auth/login', { tenant, email: ADMIN.email, password });

    interface Work {
      readonly tenants: readonly Tenant[];
      /** Answers so far that are not 2xx. */
      readonly failures: readonly string[];
      /** Whether clients have waited for longer than TenantrySlow allows: 1 of 100 requests for more than a second. */
      readonly isSlow: boolean;
      stop(): Promise<void>;
    }

    /** What clients do all the time: read, write, sign in, refresh, and a new tenant now and then. */
    function beginWork(tenants: readonly Tenant[]): Work {
      const failures: string[] = [];
      let over = false;
      let requests = 0;
      let slow = 0;
      const note = async (what: string, sent: ReturnType<typeof send>): Promise<Awaited<typeof sent>> => {
        const began = performance.now();
        const answer = await sent;
        if (what !== 'create') {
          requests += 1;
          if (performance.now() - began > 1_000) slow += 1;
        }
        if (answer.status >= 300) failures.push(`${what}: ${answer.status} ${JSON.stringify(answer.body)}`);
        return answer;
      };
      async function client(index: number): Promise<void> {
        for (let turn = 0; !over; turn += 1) {
          const tenant = tenants[turn % tenants.length];
          const url = urlOfReplica(index);
          const { slug = '', token } = tenant ?? {};
          try {
            await note('read', send(url, 'GET', '/products?limit=5', undefined, token));
            await note('write', send(url, 'POST', '/products', { name: `p ${turn}`, price: '1.00' }, token));
            if (turn % 5 === 0) {
              const { refreshToken } = (await note('sign-in', signIn(url, slug))).body;
              await note('refresh', send(url, 'POST', '/auth/refresh', { refreshToken }));
            }
            if (turn % 30 === 15 && index === 0) {
              const body = { name: `new ${turn}`, slug: `new-${turn}`, admin: ADMIN };
              await note('create', send(url, 'POST', '/tenants', body, operator));
            }
          } catch (error) {
            failures.push(String(error));
          }
          await sleep(PAUSE);
        }
      }
      const clients = Promise.all([client(0), client(1)]);
      return {
        tenants,
        failures,
        get isSlow() {
          return slow > requests / 100;
        },
        stop: async () => {
          over = true;
          await clients;
        },
      };
    }

    /** Six writers for each tenant, on both replicas. */
    function beginCrowd(tenants: readonly Tenant[]): { end(): Promise<void> } {
      const crowd = new AbortController();
      const writers = tenants.flatMap(({ token }) =>
        Array.from({ length: 6 }, (_, number) =>
          repeat(crowd.signal, () =>
            send(urlOfReplica(number % 2), 'POST', '/products', { name: 'x', price: '1.00' }, token),
          ),
        ),
      );
      return {
        end: async () => {
          crowd.abort();
          await Promise.all(writers);
        },
      };
    }

    const firesNow = async (alert: string): Promise<boolean> => (await prometheus.firing()).includes(alert);
    const fires = (alert: string, within = SOON): Promise<void> =>
      eventually(`${alert} fires`, () => firesNow(alert), within);
    /** Call it before the fault: otherwise the alert could be that of an earlier one. */
    const doesNotFire = async (alert: string): Promise<void> => {
      expect(await prometheus.firing()).not.toContain(alert);
    };
    const clears = (alert: string): Promise<void> =>
      eventually(`${alert} clears`, async () => !(await firesNow(alert)), SOON);

    it('has no alert while nothing is wrong, with requests, sign-ins and new tenants all the while', async () => {
      await sleep(QUIET);
      expect(work.failures).toEqual([]);
      const fired = await prometheus.query('max_over_time(ALERTS{alertstate="firing"}[1m])');
      // On a busy machine requests do take longer than a second. Then this alert is right.
      expect(fired.filter(({ metric }) => !(work.isSlow && metric['alertname'] === 'TenantrySlow'))).toEqual([]);
      const scrapes = await prometheus.query('sum(count_over_time(up{job="tenantry"}[1m]))');
      expect(scrapes[0]?.value).toBeGreaterThan(20);
    });

    it('notices a refresh token that was used again', async () => {
      await doesNotFire('TenantryRefreshTokenReused');
      const url = urlOfReplica(0);
      const { refreshToken: first } = (await signIn(url, 'one')).body;
      const { refreshToken: second } = (await send(url, 'POST', '/auth/refresh', { refreshToken: first })).body;
      await send(url, 'POST', '/auth/refresh', { refreshToken: second });
      expect((await send(url, 'POST', '/auth/refresh', { refreshToken: first })).status).toBe(401);
      // It clears after half a minute, which the last test waits for.
      await fires('TenantryRefreshTokenReused');
    });

    it('notices a sign-in attack', async () => {
      await doesNotFire('TenantrySignInAttack');
      const attack = new AbortController();
      const attackers = Array.from({ length: 4 }, (_, number) =>
        repeat(attack.signal, () => signIn(urlOfReplica(number % 2), 'one', 'a guessed password')),
      );
      await fires('TenantrySignInAttack');
      attack.abort();
      await Promise.all(attackers);
    });

    it('notices that Redis is away', async () => {
      await doesNotFire('TenantryRedisAway');
      await redis.kill();
      await fires('TenantryRedisAway');
      await redis.start();
      await clears('TenantryRedisAway');
    });

    it('notices a rollout that has stopped', async () => {
      await doesNotFire('TenantryRolloutStopped');
      const inRegistry = <T>(act: (db: Kysely<Registry>) => Promise<T>): Promise<T> =>
        asSuperuser(registry, (db) => act(db as Kysely<Registry>));
      const id = await inRegistry((db) => insertStoppedRollout(db, '9999_alert'));
      await fires('TenantryRolloutStopped', SOON_IN_THE_FLEET);
      await inRegistry((db) => db.deleteFrom('rollouts').where('id', '=', id).execute());
      // Each replica asks the registry every half a minute: the last test waits for it.
    });

    it('notices a job that fails', async () => {
      await doesNotFire('TenantryJobFailing');
      statements.onStatement = ({ application, sql: text }: Statement) => {
        // The query of the job that finds unfinished rows.
        if (application === 'tenantry registry' && text.includes(') leftover')) throw new Error('cut');
        return 'pass';
      };
      await fires('TenantryJobFailing', SOON_IN_THE_FLEET);
      statements.onStatement = () => 'pass';
      // It clears after half a minute, which the last test waits for.
    });

    it('notices a feed that stalls', async () => {
      await doesNotFire('TenantryFeedStalled');
      let release: () => void = () => undefined;
      const held = new Promise<'pass'>((resolve) => {
        release = () => {
          resolve('pass');
        };
      });
      statements.onStatement = ({ application }) => (application === 'tenantry events' ? held : 'pass');
      await fires('TenantryFeedStalled');
      statements.onStatement = () => 'pass';
      release();
      await clears('TenantryFeedStalled');
    });

    it("notices a tenant's database that is gone", async () => {
      await doesNotFire('TenantryTenantBreakerOpen');
      const name = await databaseOf(registry, work.tenants[2]?.id ?? '');
      const gone = `${name}_gone`;
      // They would see a database that no row names, and their report counts for five minutes.
      const resumeJobs = await holdJobs(registry, ['reconciler', 'lifecycle settle']);
      try {
        await renameDatabase(name, gone);
        await fires('TenantryTenantBreakerOpen');
        await renameDatabase(gone, name);
      } finally {
        await resumeJobs();
      }
      await clears('TenantryTenantBreakerOpen');
    });

    it('notices a server that hangs, and that requests fail', async () => {
      await doesNotFire('TenantryServerHung');
      server.mode = 'hang';
      // The two clients alone do not lose three connections within ten seconds, which opens a breaker.
      const crowd = beginCrowd(work.tenants);
      try {
        await fires('TenantryServerHung');
        await fires('TenantryErrorsHigh');
      } finally {
        server.mode = 'pass';
        await crowd.end();
      }
      await clears('TenantryServerHung');
      // The cut connections hold the budget until the server has said that they are gone.
      await clears('TenantryBudgetExhausted');
    });

    it('notices a budget that is exhausted', async () => {
      await doesNotFire('TenantryBudgetExhausted');
      const names = await Promise.all(work.tenants.slice(0, 2).map(({ id }) => databaseOf(registry, id)));
      const locks = await Promise.all(names.map(lockProducts));
      const crowd = beginCrowd(work.tenants.slice(0, 2));
      await fires('TenantryBudgetExhausted');
      const ended = crowd.end();
      await Promise.all(locks.map((unlock) => unlock()));
      await ended;
      await clears('TenantryBudgetExhausted');
    });

    it('answers every query of the dashboards and of the runbooks', async () => {
      const variables: Readonly<Record<string, string>> = {
        tenant: await valueOf('tenantry_tenant_requests_total', 'tenant'),
        cluster: await valueOf('tenantry_slots_budget', 'cluster'),
        __rate_interval: '30s',
      };
      const panels = panelQueries().map(({ where, text }) => ({
        where,
        text: text.replaceAll(/\$(\w+)/g, (_, name: string) => variables[name] ?? ''),
      }));
      const pages = promQueries().filter(({ where }) => where.endsWith('.md'));
      const silent: string[] = [];
      for (const { where, text } of [...panels, ...pages])
        if ((await prometheus.query(text)).length === 0 && !text.includes(UNFINISHED)) silent.push(`${where}: ${text}`);
      expect(silent).toEqual([]);
    });

    /** A value of a label, as a variable of a dashboard offers it. */
    async function valueOf(metric: string, label: string): Promise<string> {
      let value: string | undefined;
      await eventually(
        `${metric} has ${label}`,
        async () => {
          const [series] = await prometheus.query(metric);
          value = series?.metric[label];
          return value !== undefined;
        },
        SOON,
      );
      return value ?? '';
    }

    it('notices a replica that was killed', async () => {
      await doesNotFire('TenantryReplicaDown');
      replicas[1]?.signal('SIGKILL');
      await replicas[1]?.exited;
      await fires('TenantryReplicaDown');
      await startReplica(1);
      await clears('TenantryReplicaDown');
    });

    it('has no alert any more when every fault is over', async () => {
      await expect.poll(() => prometheus.firing(), { timeout: 2 * SOON, interval: 500 }).toEqual([]);
    });
  },
);

const addressOf = ({ host, port }: { readonly host: string; readonly port: number }) => ({ host, port });

async function databaseOf(registry: string, tenant: string): Promise<string> {
  return asSuperuser(registry, async (db) => {
    const { rows } = await sql<{ name: string }>`select db_name as name from tenants where id = ${tenant}`.execute(db);
    return rows[0]?.name ?? '';
  });
}

/** Ends its sessions first. A database that only refuses connections would be opened again by a job of the service. */
async function renameDatabase(from: string, to: string): Promise<void> {
  await asSuperuser('postgres', async (db) => {
    await sql`alter database ${sql.id(from)} allow_connections false`.execute(db);
    await eventually('the database has no sessions', async () => {
      const { rows } = await sql<{ ended: boolean }>`
        select pg_terminate_backend(pid) as ended from pg_stat_activity where datname = ${from}`.execute(db);
      return rows.length === 0;
    });
    await sql`alter database ${sql.id(from)} rename to ${sql.id(to)}`.execute(db);
    await sql`alter database ${sql.id(to)} allow_connections true`.execute(db);
  });
}

/** Locks the products of a tenant, so that each of its writes waits and holds its connection. Returns what unlocks them. */
async function lockProducts(database: string): Promise<() => Promise<void>> {
  const handle = connectAs<unknown>(database);
  let unlock: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (unlock = resolve));
  let locked: () => void = () => undefined;
  const ready = new Promise<void>((resolve) => (locked = resolve));
  const transaction = handle.db.transaction().execute(async (trx) => {
    await sql`lock table products in access exclusive mode`.execute(trx);
    locked();
    await held;
  });
  await Promise.race([ready, transaction]);
  return async () => {
    unlock();
    await transaction;
    await handle.close(0);
  };
}

/** Does it again and again, with short pauses, until the signal. */
async function repeat(signal: AbortSignal, act: () => Promise<unknown>): Promise<void> {
  while (!signal.aborted) {
    await act();
    await sleep(PAUSE);
  }
}

/** The parts of answers that are used. */
interface Body {
  readonly id?: string;
  readonly accessToken?: string;
  readonly refreshToken?: string;
}

async function send(
  url: string,
  method: string,
  route: string,
  body?: unknown,
  token?: string,
): Promise<{ readonly status: number; readonly body: Body }> {
  const answer = await fetch(url + route, {
    method,
    headers: {
      ...(body !== undefined && { 'content-type': 'application/json' }),
      ...(token !== undefined && { authorization: `Bearer ${token}` }),
    },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  return { status: answer.status, body: (await answer.json()) as Body };
}
