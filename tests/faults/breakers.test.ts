// src/connections/breakers.ts in front of a real server that is reset, swallowed, stopped and started again. Requests and probes
// both use real connections.
import { sql, type Kysely } from 'kysely';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { createDatabase, type ConnectionSettings, type DatabaseHandle } from '../../db/driver/client.js';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import type { PoolOptions } from '../../db/driver/pool/pool-types.js';
import { probeDatabase } from '../../db/driver/probe.js';
import { shortRead } from '../../db/driver/statement.js';
import { startEmbeddedCluster, type EmbeddedCluster } from '../../src/embedded/embedded-cluster.js';
import {
  createBreakers,
  type BreakerChange,
  type Breakers,
  type BreakerTenant,
} from '../../src/connections/breakers.js';
import { startProxy, type Proxy } from '../support/proxy.js';

const PASSWORD = 'password-of-the-breaker-tests';
const TENANTS = 50;

/** "Within a second of the server accepting connections", plus a margin for the machine. */
const PROMISE = { timeout: 1_500, interval: 10 };

/** Milliseconds for everything that a probe does. */
const PROBE_DEADLINE = 1_500;

const one = shortRead((db: Kysely<unknown>) => db.selectNoFrom(sql<number>`1`.as('one')));

let home: string;
let server: EmbeddedCluster;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'tenantry-breakers-'));
  await chmod(home, 0o755);
  server = await startServer();
});
afterAll(async () => {
  await server.stop();
  await rm(home, { recursive: true, force: true });
});

function startServer(): Promise<EmbeddedCluster> {
  const log = { info: () => undefined, warn: () => undefined, error: () => undefined };
  return startEmbeddedCluster({ home, superuserPassword: PASSWORD, log });
}

type Answer = 'answered' | 'refused' | 'failed';

interface Cluster {
  readonly key: string;
  readonly tenants: readonly BreakerTenant[];
  /** Sends one request as a pool does, if it is admitted. */
  readonly ask: (tenant: BreakerTenant) => Promise<Answer>;
}

interface Setup {
  readonly breakers: Breakers;
  readonly changes: BreakerChange[];
  /** Probes that began, probes that run, and the maximum that ran at once. */
  readonly probes: { begun: number; now: number; most: number };
  /** The server by another address, which makes it a separate cluster. */
  readonly cluster: (address: { readonly host: string; readonly port: number }) => Cluster;
}

/**
 * @param lanes whether a tenant's requests share one connection
 * @param acquireTimeout maximum wait (ms) for a connection; its opening may take as long, at most 4 s
 * @param probeDeadline ms for everything that a probe does
 */
function setup({ lanes = false, acquireTimeout = 500, probeDeadline = PROBE_DEADLINE } = {}): Setup {
  const changes: BreakerChange[] = [];
  const probes = { begun: 0, now: 0, most: 0 };
  const handles = new Map<string, DatabaseHandle<unknown>>();
  const breakers = createBreakers({
    onChange: (change) => changes.push(change),
    probe: async ({ tenant }) => {
      probes.begun += 1;
      probes.now += 1;
      probes.most = Math.max(probes.most, probes.now);
      const [host = '', port] = tenant.cluster.split(':');
      await probeDatabase(settings({ host, port: Number(port) }), probeDeadline).finally(() => {
        probes.now -= 1;
      });
    },
  });
  onTestFinished(async () => {
    breakers.close();
    await Promise.all([...handles.values()].map((handle) => handle.close(0)));
  });

  const ask = async (tenant: BreakerTenant): Promise<Answer> => {
    try {
      breakers.admit(tenant);
    } catch (error) {
      expect(error).toMatchObject({ kind: 'unavailable', retryAfter: expect.toBeOneOf([1, 2]) as number });
      return 'refused';
    }
    try {
      await one(handles.get(tenant.id)?.db ?? expect.fail('no such tenant'), {});
    } catch (error) {
      if (!(error instanceof DatabaseFault)) throw error;
      return 'failed';
    }
    return 'answered';
  };

  return {
    breakers,
    changes,
    probes,
    cluster(address) {
      const key = `${address.host}:${address.port}`;
      const tenants = Array.from({ length: TENANTS }, (_, index) => ({ id: `${key}/${index}`, cluster: key }));
      const limits = { max: 2, acquireTimeout, timeout: 500, idleTimeoutMillis: 60_000 };
      for (const tenant of tenants) {
        // As src/connections/tenant-pools.ts reports it.
        const onOutcome: PoolOptions['onOutcome'] = (fault, since, opening) => {
          if (fault) breakers.failed(tenant, fault, since, opening);
          else breakers.succeeded(tenant);
        };
        const options = { applicationName: 'tests', preparedStatements: lanes, lane: lanes, onOutcome };
        handles.set(tenant.id, createDatabase<unknown>(settings(address), limits, options));
      }
      return { key, tenants, ask };
    },
  };
}

function settings({ host, port }: { readonly host: string; readonly port: number }): ConnectionSettings {
  return { host, port, database: 'postgres', user: 'postgres', password: PASSWORD, tls: false };
}

async function proxied(): Promise<Proxy> {
  const proxy = await startProxy(server);
  onTestFinished(() => proxy.close());
  return proxy;
}

/** Sends one request of every tenant, all at the same time. */
function all({ tenants, ask }: Cluster): Promise<Answer[]> {
  return Promise.all(tenants.map(ask));
}

/** Sends one request of every tenant, one after another: the outcome of the first counts for the next. */
async function inTurn({ tenants, ask }: Cluster): Promise<Answer[]> {
  const answers: Answer[] = [];
  for (const tenant of tenants) answers.push(await ask(tenant));
  return answers;
}

const answersOf = (count: number, answer: Answer): Answer[] => Array.from({ length: count }, () => answer);

describe('a server that resets every connection', () => {
  it('fails three requests only, gets one probe at a time, is used again within a second, and affects no other cluster', async () => {
    const [proxy, untouched] = [await proxied(), await proxied()];
    const { breakers, changes, probes, cluster } = setup();
    const [one, other] = [cluster(proxy), cluster(untouched)];
    proxy.mode = 'refuse';
    const before = proxy.accepted;
    expect(await inTurn(one)).toEqual([...answersOf(3, 'failed'), ...answersOf(TENANTS - 3, 'refused')]);
    expect(
      breakers
        .stats()
        .breakers.filter(({ state }) => state !== 'closed')
        .map(({ key }) => key),
    ).toEqual([one.key]);

    const until = performance.now() + 3_000;
    while (performance.now() < until) {
      expect(await all(one)).toEqual(answersOf(TENANTS, 'refused'));
      expect(await other.ask(other.tenants[0] ?? expect.fail())).toBe('answered');
      await sleep(20);
    }
    // A probe is one connection, and only probes were sent.
    expect(probes.begun).toBeGreaterThan(2);
    await expect.poll(() => proxy.accepted - before - probes.begun).toBe(3);
    expect(probes.most).toBe(1);

    proxy.mode = 'pass';
    await expect.poll(() => one.ask(one.tenants[7] ?? expect.fail()), PROMISE).toBe('answered');
    expect(await inTurn(one)).toEqual(answersOf(TENANTS, 'answered'));
    expect(await other.ask(other.tenants[1] ?? expect.fail())).toBe('answered');
    expect(changes.map(({ scope, key, state }) => [scope, key, state])).toEqual([
      ['cluster', one.key, 'open'],
      ['cluster', one.key, 'closed'],
    ]);
  });
});

describe('a server that swallows everything', () => {
  it('delays only requests that came before the fault was known, and is used again within a second', async () => {
    const [proxy, untouched] = [await proxied(), await proxied()];
    const { breakers, changes, probes, cluster } = setup();
    const [one, other] = [cluster(proxy), cluster(untouched)];
    // Half of the tenants have a connection already, which hangs without an error.
    const warm = one.tenants.slice(0, TENANTS / 2);
    for (const tenant of warm) expect(await one.ask(tenant)).toBe('answered');

    proxy.mode = 'hang';
    // These are in flight before the fault is known. They wait for their statement's deadline, which is later than the connects'.
    const stuck = Promise.all(warm.slice(0, 10).map(one.ask));
    const cold = one.tenants.slice(TENANTS / 2);
    const first = await Promise.all(cold.slice(0, 3).map(one.ask));
    expect(first).toEqual(answersOf(3, 'failed'));
    expect(breakers.state('cluster', one.key)?.state).not.toBe('closed');

    const accepted = proxy.accepted;
    const begun = probes.begun;
    const until = performance.now() + 2_000;
    while (performance.now() < until) {
      expect(await all(one)).toEqual(answersOf(TENANTS, 'refused'));
      expect(await other.ask(other.tenants[0] ?? expect.fail())).toBe('answered');
      await sleep(20);
    }
    expect(probes.begun).toBeGreaterThan(begun);
    await expect.poll(() => proxy.accepted - accepted - (probes.begun - begun)).toBe(0);
    // The current probe, and abandoned ones that have not reached their own deadline.
    expect(probes.most).toBeLessThanOrEqual(4);

    proxy.mode = 'pass';
    await expect.poll(() => one.ask(cold[3] ?? expect.fail()), PROMISE).toBe('answered');
    expect(await stuck).toEqual(answersOf(10, 'failed'));
    expect(await inTurn(one)).toEqual(answersOf(TENANTS, 'answered'));
    expect(changes.map(({ scope, key, state }) => [scope, key, state])).toEqual([
      ['cluster', one.key, 'open'],
      ['cluster', one.key, 'closed'],
    ]);
  });
});

describe('a server that accepts connections and sends nothing', () => {
  it.each([
    ['shared', true],
    ['single', false],
  ])('is detected long before the deadline of a %s connection', async (_kind, lanes) => {
    const proxy = await proxied();
    const { breakers, cluster } = setup({ lanes, acquireTimeout: 10_000, probeDeadline: 10_000 });
    const { key, tenants, ask } = cluster(proxy);
    proxy.mode = 'hang';
    const asked = Promise.all(tenants.slice(0, 3).map(ask));
    await expect
      .poll(() => breakers.state('cluster', key)?.state ?? 'closed', { timeout: 3_500, interval: 20 })
      .not.toBe('closed');
    expect(await ask(tenants[0] ?? expect.fail())).toBe('refused');

    proxy.mode = 'pass';
    expect(await asked).toEqual(answersOf(3, 'failed'));
    await expect.poll(() => ask(tenants[0] ?? expect.fail()), PROMISE).toBe('answered');
  });
});

describe('a server that falls silent on every open connection', () => {
  it.each([
    ['of several tenants', TENANTS],
    ['of one tenant', 1],
  ])('%s opens its breaker, and is used again within a second', async (_whose, count) => {
    const proxy = await proxied();
    const { breakers, changes, cluster } = setup({ lanes: true });
    const { key, tenants, ask } = cluster(proxy);
    const warm = tenants.slice(0, count);
    for (const tenant of warm) expect(await ask(tenant)).toBe('answered');

    proxy.mode = 'hang';
    const answers: Answer[] = [];
    await expect
      .poll(
        () => {
          void Promise.all(warm.map(ask)).then((given) => answers.push(...given));
          return breakers.state('cluster', key)?.state ?? 'closed';
        },
        { timeout: 30_000, interval: 100 },
      )
      .not.toBe('closed');
    expect(await ask(tenants.at(-1) ?? expect.fail())).toBe('refused');
    // Every waiting request ended.
    proxy.mode = 'pass';
    await expect.poll(() => ask(tenants[0] ?? expect.fail()), PROMISE).toBe('answered');
    await expect.poll(() => answers.includes('failed'), { timeout: 30_000 }).toBe(true);
    expect(answers).not.toContain('answered');
    expect(changes.filter(({ scope }) => scope === 'cluster').map(({ state }) => state)).toEqual(['open', 'closed']);
  });
});

describe('connections that are cut once', () => {
  it('leave no breaker open, and every tenant is answered again', async () => {
    const proxy = await proxied();
    const { cluster } = setup();
    const one = cluster(proxy);
    expect(await inTurn(one)).toEqual(answersOf(TENANTS, 'answered'));
    proxy.cut();
    await expect.poll(() => inTurn(one), { timeout: 30_000 }).toEqual(answersOf(TENANTS, 'answered'));
  });
});

describe('a server that is stopped and started again', () => {
  it('is used again within a second of accepting connections', async () => {
    const { changes, probes, cluster } = setup();
    const one = cluster(server);
    expect(await inTurn(one)).toEqual(answersOf(TENANTS, 'answered'));
    await server.stop();
    await expect.poll(() => all(one), { timeout: 30_000 }).toEqual(answersOf(TENANTS, 'refused'));
    await sleep(1_500);
    expect(await all(one)).toEqual(answersOf(TENANTS, 'refused'));
    expect(probes.most).toBe(1);

    server = await startServer();
    await expect.poll(() => one.ask(one.tenants[0] ?? expect.fail()), PROMISE).toBe('answered');
    expect(changes.map(({ scope, state }) => [scope, state])).toEqual([
      ['cluster', 'open'],
      ['cluster', 'closed'],
    ]);
  });
});

describe('a tenant whose password is wrong', () => {
  it('is refused alone, and admitted as soon as its settings have changed', async () => {
    const { breakers, cluster } = setup();
    const one = cluster(server);
    const [tenant = expect.fail(), neighbour = expect.fail()] = one.tenants;
    for (let time = 0; time < 3; time += 1) {
      await expect(probeDatabase({ ...settings(server), password: 'wrong' }, 1_000)).rejects.toSatisfy((fault) => {
        breakers.failed(tenant, fault as DatabaseFault);
        return fault instanceof DatabaseFault && fault.reason === '28P01';
      });
    }
    expect(await one.ask(tenant)).toBe('refused');
    expect(await one.ask(neighbour)).toBe('answered');
    breakers.forget(tenant.id);
    expect(await one.ask(tenant)).toBe('answered');
  });
});
