// src/connections/breakers.ts: which requests are refused, whether a failure is the tenant's or the server's, and how soon a
// breaker closes. Time is simulated; the test or a simulated server ends the probes.
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { DatabaseFault, REFUSED_BY_POOLER } from '../../db/driver/database-fault.js';
import { blamed } from '../../src/connections/breaker-blame.js';
import {
  createBreakers,
  type BreakerChange,
  type Breakers,
  type BreakerTenant,
  type ProbeTarget,
} from '../../src/connections/breakers.js';

const ONE = '10.0.0.1:5432';
const OTHER = '10.0.0.2:5432';
const a: BreakerTenant = { id: 'a', cluster: ONE };
const b: BreakerTenant = { id: 'b', cluster: ONE };
const elsewhere: BreakerTenant = { id: 'elsewhere', cluster: OTHER };

const refusedByServer = new DatabaseFault('unavailable', 'ECONNREFUSED');
const silent = new DatabaseFault('timeout', 'no answer');
const wrongPassword = new DatabaseFault('unavailable', '28P01');

interface Probe {
  readonly target: ProbeTarget;
  readonly at: number;
  succeed(): Promise<void>;
  fail(error?: Error): Promise<void>;
}

interface Setup {
  readonly breakers: Breakers;
  /** All probes that were started. */
  readonly probes: Probe[];
  readonly changes: BreakerChange[];
}

beforeEach(() => {
  vi.useFakeTimers({ now: 1_000_000 });
});
afterEach(() => {
  vi.useRealTimers();
});

const now = (): number => Date.now();
const pass = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms);

/** Probes wait until the test ends them. The pauses are the longest by default. */
function setup(random: () => number = () => 1, neighbour?: BreakerTenant): Setup {
  const probes: Probe[] = [];
  const changes: BreakerChange[] = [];
  const breakers = createBreakers({
    now,
    random,
    neighbour: () => neighbour,
    onChange: (change) => changes.push(change),
    probe: (target) =>
      new Promise((resolve, reject) => {
        probes.push({
          target,
          at: now(),
          succeed: async () => {
            resolve();
            await pass(0);
          },
          fail: async (error = refusedByServer) => {
            reject(error);
            await pass(0);
          },
        });
      }),
  });
  return { breakers, probes, changes };
}

/** The rooms of each floor, from the bottom. An import goes to a lower floor only, not up and not to a room beside it. */
function fail(breakers: Breakers, tenant: BreakerTenant, fault = refusedByServer, times = 3): void {
  for (let time = 0; time < times; time += 1) breakers.failed(tenant, fault, now(), true);
}

/** Open connections that are lost in use. */
function lose(breakers: Breakers, tenant: BreakerTenant, fault = silent, times = 1): void {
  for (let time = 0; time < times; time += 1) breakers.failed(tenant, fault, now(), false);
}

function isAdmitted(breakers: Breakers, tenant: BreakerTenant): boolean {
  try {
    breakers.admit(tenant);
    return true;
  } catch (error) {
    expect(error).toBeInstanceOf(DatabaseFault);
    return false;
  }
}

/** Opens the breaker of `tenant`'s cluster; the test controls the probes. */
function openCluster(setupWith?: () => number): Setup {
  const opened = setup(setupWith);
  fail(opened.breakers, b, refusedByServer, 1);
  fail(opened.breakers, a, refusedByServer, 2);
  expect(isAdmitted(opened.breakers, a)).toBe(false);
  expect(opened.probes).toEqual([]);
  return opened;
}

describe('a breaker opens', () => {
  it('after three failures in a row, and refuses at once with the seconds until a retry is useful', () => {
    const { breakers } = setup();
    fail(breakers, a, refusedByServer, 2);
    expect(isAdmitted(breakers, a)).toBe(true);
    fail(breakers, b, silent, 1);
    expect(() => {
      breakers.admit(a);
    }).toThrow(expect.objectContaining({ name: 'DatabaseFault', kind: 'unavailable', retryAfter: 1 }));
  });

  it('not if a success is between the failures', () => {
    const { breakers } = setup();
    for (let time = 0; time < 10; time += 1) {
      fail(breakers, a, refusedByServer, 2);
      breakers.succeeded(a);
    }
    expect(isAdmitted(breakers, a)).toBe(true);
  });

  it('not for three failures over a long time, but for three within ten seconds', async () => {
    const { breakers } = setup();
    for (let time = 0; time < 10; time += 1) {
      breakers.failed(a, refusedByServer);
      await pass(5_000);
    }
    expect(isAdmitted(breakers, a)).toBe(true);
    await pass(4_000);
    // The failure before the last is 14 seconds old, and the last 9.
    fail(breakers, a, refusedByServer, 1);
    expect(isAdmitted(breakers, a)).toBe(true);
    fail(breakers, a, refusedByServer, 1);
    expect(isAdmitted(breakers, a)).toBe(false);
  });

  it('for the cluster if the server is at fault: for all of its tenants, and for no other cluster', () => {
    const { breakers } = setup();
    for (const tenant of [a, b, { id: 'c', cluster: ONE }]) fail(breakers, tenant, refusedByServer, 1);
    for (const tenant of [a, b, { id: 'never seen', cluster: ONE }]) expect(isAdmitted(breakers, tenant)).toBe(false);
    expect(isAdmitted(breakers, elsewhere)).toBe(true);
  });

  it('once for a dead server, not once for each of its tenants', () => {
    const { breakers, changes } = setup();
    for (let time = 0; time < 3; time += 1)
      for (let tenant = 0; tenant < 50; tenant += 1) fail(breakers, { id: `t${tenant}`, cluster: ONE }, silent, 1);
    expect(changes).toEqual([
      { scope: 'cluster', key: ONE, state: 'open', reason: 'no answer', openFor: 0, probes: 0 },
    ]);
    expect(breakers.stats().breakers).toHaveLength(1);
  });

  it('for one tenant if it alone fails while others of the cluster succeed', () => {
    const { breakers } = setup();
    for (let time = 0; time < 3; time += 1) {
      breakers.failed(a, silent);
      breakers.succeeded(b);
    }
    expect(isAdmitted(breakers, a)).toBe(false);
    expect(isAdmitted(breakers, b)).toBe(true);
  });

  it('for one tenant if its own password, database or rights are wrong, however many such tenants there are', () => {
    const { breakers } = setup();
    for (const tenant of [a, b]) fail(breakers, tenant, wrongPassword);
    expect([a, b].map((tenant) => isAdmitted(breakers, tenant))).toEqual([false, false]);
    expect(isAdmitted(breakers, { id: 'c', cluster: ONE })).toBe(true);
    expect(breakers.state('cluster', ONE)).toBeUndefined();
  });

  it('for the tenant first and then for the cluster, which closes the tenant’s', () => {
    const { breakers, changes } = setup();
    fail(breakers, a, wrongPassword);
    for (const tenant of [a, b, b]) fail(breakers, tenant, refusedByServer, 1);
    expect(changes.map(({ scope, key, state }) => [scope, key, state])).toEqual([
      ['tenant', 'a', 'open'],
      ['tenant', 'a', 'closed'],
      ['cluster', ONE, 'open'],
    ]);
  });

  it('as a model says, whatever happens in which order', () => {
    const tenants = [a, b, elsewhere];
    const event = fc.record({
      tenant: fc.constantFrom(...tenants),
      fault: fc.constantFrom(undefined, refusedByServer, silent, wrongPassword, new DatabaseFault('timeout', '57014')),
      opening: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(event, { maxLength: 40 }), (events) => {
        const { breakers } = setup();
        const inARow = new Map<string, { id: string; opening: boolean }[]>();
        const failuresOf = (key: string): { id: string; opening: boolean }[] => inARow.get(key) ?? [];
        const isOpen = (key: string): boolean => {
          const failures = failuresOf(key);
          const opening = failures.filter((failure) => failure.opening).map(({ id }) => id);
          // No probe answers here.
          return failures.length >= 3 && (!key.includes(':') || new Set(opening).size > 1);
        };
        for (const { tenant, fault, opening } of events) {
          const { id, cluster } = tenant;
          if (fault) breakers.failed(tenant, fault, now(), opening);
          else breakers.succeeded(tenant);
          if (isOpen(cluster)) continue;
          const blame = fault && blamed(fault);
          if (!fault) for (const key of [cluster, id]) if (!isOpen(key)) inARow.set(key, []);
          if (blame === 'cluster') inARow.set(cluster, [...failuresOf(cluster), { id, opening }].slice(-20));
          if (blame && !isOpen(id)) inARow.set(id, [...failuresOf(id), { id, opening }]);
          for (const asked of tenants)
            expect(isAdmitted(breakers, asked)).toBe(!isOpen(asked.cluster) && !isOpen(asked.id));
        }
        breakers.close();
      }),
    );
  });
});

describe('a cluster’s breaker', () => {
  it('stays closed while only one tenant’s connections fail and a probe succeeds, so that neighbours are admitted', async () => {
    const { breakers, probes, changes } = setup();
    for (let round = 0; round < 5; round += 1) {
      lose(breakers, a);
      expect(probes).toHaveLength(round + 1);
      expect([a, b].map((tenant) => isAdmitted(breakers, tenant))).toEqual([true, true]);
      await probes.at(-1)?.succeed();
      breakers.succeeded(a);
      await pass(800);
    }
    fail(breakers, a, silent, 10);
    expect([a, b].map((tenant) => isAdmitted(breakers, tenant))).toEqual([false, true]);
    await probes.at(-1)?.succeed();
    expect(isAdmitted(breakers, b)).toBe(true);
    expect(changes.map(({ scope, key }) => [scope, key])).toEqual([['tenant', 'a']]);
  });

  it('stays closed for a single connection, whatever else failed on it, even while no probe has an answer', async () => {
    const { breakers, probes } = setup();
    lose(breakers, a);
    await pass(1_400);
    // Probes that hang are replaced, and none of them has failed.
    expect(probes.length).toBeGreaterThan(1);
    expect([a, b].map((tenant) => isAdmitted(breakers, tenant))).toEqual([true, true]);
    await probes[0]?.fail(silent);
    expect(isAdmitted(breakers, b)).toBe(true);
  });

  it('opens for one tenant’s failures if probes fail too', async () => {
    const { breakers, probes, changes } = setup();
    lose(breakers, a);
    await probes[0]?.fail(silent);
    expect(isAdmitted(breakers, b)).toBe(true);
    fail(breakers, a, silent, 1);
    expect([a, b].map((tenant) => isAdmitted(breakers, tenant))).toEqual([false, false]);
    expect(changes.map(({ scope, state }) => [scope, state])).toEqual([['cluster', 'open']]);
  });

  it('opens by probes alone after the first silence, without other requests', async () => {
    const { breakers, probes } = setup();
    lose(breakers, a);
    await probes[0]?.fail(silent);
    await pass(200);
    await probes[1]?.fail(silent);
    expect(isAdmitted(breakers, b)).toBe(false);
  });

  it('opens if connections of several tenants are silent and a probe has waited for half a second', async () => {
    const { breakers, probes } = setup();
    for (const tenant of [a, b, { id: 'c', cluster: ONE }]) lose(breakers, tenant);
    expect(probes).toHaveLength(1);
    await pass(499);
    expect(isAdmitted(breakers, a)).toBe(true);
    await pass(1);
    expect(isAdmitted(breakers, a)).toBe(false);
    // Still one at a time, and the answer of the first counts.
    expect(probes.length).toBeLessThanOrEqual(2);
    await probes[0]?.succeed();
    expect(isAdmitted(breakers, a)).toBe(true);
  });

  it('stays closed if a success, or a successful probe, is between the silent connections', async () => {
    const { breakers, probes } = setup();
    for (const tenant of [a, b]) lose(breakers, tenant);
    await probes[0]?.succeed();
    for (const tenant of [a, b]) lose(breakers, tenant);
    breakers.succeeded({ id: 'c', cluster: ONE });
    for (const tenant of [a, b]) lose(breakers, tenant);
    await pass(499);
    expect(isAdmitted(breakers, { id: 'd', cluster: ONE })).toBe(true);
  });

  it('is probed every 800 ms at most while it is suspected, however often a success ends the suspicion', async () => {
    const { breakers, probes } = setup();
    for (let step = 0; step < 80; step += 1) {
      lose(breakers, a);
      await pass(50);
      breakers.succeeded(b);
      lose(breakers, a);
      await pass(50);
      breakers.succeeded(b);
    }
    // In 8 seconds.
    const ofCluster = probes.filter(({ target }) => target.scope === 'cluster').length;
    expect(ofCluster).toBeGreaterThan(1);
    expect(ofCluster).toBeLessThanOrEqual(11);
  });

  it('is probed through the database of a tenant other than the failed one', () => {
    const { breakers, probes } = setup(undefined, b);
    lose(breakers, a);
    expect(probes.map(({ target }) => target)).toEqual([{ scope: 'cluster', key: ONE, tenant: b }]);
  });

  it('is suspected no longer than its failures count, if probes prove nothing', async () => {
    const { breakers, probes } = setup();
    lose(breakers, a);
    for (let step = 0; step < 40; step += 1) {
      await probes.at(-1)?.fail(new DatabaseFault('busy', 'no connection became free in time'));
      await pass(800);
    }
    const begun = probes.length;
    expect(begun).toBeLessThan(20);
    await pass(10_000);
    expect(probes).toHaveLength(begun);
    expect(isAdmitted(breakers, a)).toBe(true);
  });
});

describe('the fault is found to be that of the tenant, the cluster or neither:', () => {
  it.each<[string, DatabaseFault['kind'], string, ReturnType<typeof blamed>]>([
    ['a port that refuses', 'unavailable', 'ECONNREFUSED', 'cluster'],
    ['a connection reset', 'unavailable', 'ECONNRESET', 'cluster'],
    ['a pipe broken', 'unavailable', 'EPIPE', 'cluster'],
    ['a host that cannot be reached', 'unavailable', 'EHOSTUNREACH', 'cluster'],
    ['a host that has no address', 'unavailable', 'ENOTFOUND', 'cluster'],
    ['a certificate that is over', 'unavailable', 'CERT_HAS_EXPIRED', 'cluster'],
    ['a handshake without an end', 'unavailable', 'connection failed', 'cluster'],
    ['a connection that went away', 'unavailable', 'connection lost', 'cluster'],
    ['a server that gives no answer', 'timeout', 'no answer', 'cluster'],
    ['a crash', 'unavailable', '57P02', 'cluster'],
    ['a start or a shutdown', 'unavailable', '57P03', 'cluster'],
    ['a connection failure of PostgreSQL’s own', 'unavailable', '08006', 'cluster'],
    ['a pooler that knows no such database', 'unavailable', '08P01', 'tenant'],
    ['a pooler that shares its connections', 'unavailable', REFUSED_BY_POOLER.shared, 'tenant'],
    ['sessions ended by an administrator', 'unavailable', '57P01', 'tenant'],
    ['a database dropped', 'unavailable', '57P04', 'tenant'],
    ['a wrong password', 'unavailable', '28P01', 'tenant'],
    ['no entry for it in pg_hba.conf', 'unavailable', '28000', 'tenant'],
    ['no such database', 'unavailable', '3D000', 'tenant'],
    ['no right to connect', 'unavailable', '42501', 'tenant'],
    ['a database that is closed', 'unavailable', '55000', 'tenant'],
    ['a statement over its time', 'timeout', '57014', undefined],
    ['a transaction that sat idle', 'timeout', '25P03', undefined],
    ['too many connections', 'unavailable', '53300', undefined],
    ['a full disk', 'unavailable', '53100', undefined],
    ['a standby', 'unavailable', '25006', undefined],
    ['an I/O error', 'unavailable', '58030', undefined],
    ['a session idle for too long', 'unavailable', '57P05', undefined],
    ['a deadlock', 'busy', '40P01', undefined],
    ['no connection in time', 'busy', 'no connection became free in time', undefined],
    ['a pool that is closed', 'unavailable', 'the pool was closed', undefined],
    ['a refusal by a breaker', 'unavailable', "the cluster's breaker is open", undefined],
  ])('%s (%s: %s): %s', (_what, kind, reason, whose) => {
    const fault = new DatabaseFault(kind, reason);
    expect(blamed(fault)).toBe(whose);
    const { breakers } = setup();
    for (const tenant of [a, b, a, a]) fail(breakers, tenant, fault, 1);
    const open = breakers.stats().breakers.filter(({ state }) => state !== 'closed');
    expect(open.map(({ scope }) => scope)).toEqual(whose ? [whose] : []);
  });
});

describe('probes', () => {
  it('run one at a time, however many tenants of the cluster send requests', async () => {
    const { breakers, probes } = openCluster();
    for (let round = 0; round < 300; round += 1) {
      for (let tenant = 0; tenant < 50; tenant += 1) isAdmitted(breakers, { id: `t${tenant}`, cluster: ONE });
      await pass(10);
      const begun = probes.length;
      // Each takes until the round after its start.
      if (round % 2 === 1) await probes.at(-1)?.fail();
      expect(probes.length).toBe(begun);
    }
    const pauses = probes.slice(1).map(({ at }, index) => at - (probes[index]?.at ?? 0));
    expect(pauses.slice(0, 3)).toEqual([200, 400, 800]);
    expect(new Set(pauses.slice(2))).toEqual(new Set([800]));
  });

  it.each([
    ['the shortest pauses', 0, [25, 50, 75, 100]],
    ['the longest', 1, [100, 300, 700, 1_500]],
    ['those between', 0.5, [62.5, 175, 387.5, 800]],
  ])('come with pauses that double up to a bound, at random times: %s', async (_which, drawn, expected) => {
    const { probes } = openCluster(() => drawn);
    const begun = now();
    for (const [index] of expected.entries()) {
      while (probes.length <= index) await pass(1);
      await probes[index]?.fail();
    }
    const at = probes.map((probe) => probe.at - begun);
    for (const [index, time] of expected.entries()) expect(Math.abs((at[index] ?? NaN) - time)).toBeLessThanOrEqual(2);
  });

  it('close the breaker with one success, and every tenant is admitted', async () => {
    const { breakers, probes, changes } = openCluster();
    await pass(100);
    await probes[0]?.fail();
    await pass(200);
    expect(breakers.state('cluster', ONE)).toMatchObject({ state: 'half-open' });
    expect(isAdmitted(breakers, a)).toBe(false);
    await probes[1]?.succeed();
    expect([a, b].map((tenant) => isAdmitted(breakers, tenant))).toEqual([true, true]);
    expect(changes.at(-1)).toEqual({
      scope: 'cluster',
      key: ONE,
      state: 'closed',
      reason: 'a probe succeeded',
      openFor: 300,
      probes: 2,
    });
    await pass(10_000);
    expect(probes).toHaveLength(2);
  });

  it('that hang are replaced 800 ms after their start at most, and can still close the breaker', async () => {
    const { breakers, probes } = openCluster();
    await pass(100);
    expect(probes).toHaveLength(1);
    await pass(499);
    expect(probes).toHaveLength(1);
    for (const [pause, begun] of [
      [5, 2],
      [500, 3],
      [800, 4],
    ] as const) {
      await pass(pause);
      expect(probes).toHaveLength(begun);
    }
    await probes[0]?.fail();
    expect(probes).toHaveLength(4);
    await probes[1]?.succeed();
    expect(isAdmitted(breakers, a)).toBe(true);
    // The other probes belong to an opening that is over.
    fail(breakers, a);
    await probes[3]?.succeed();
    expect(isAdmitted(breakers, a)).toBe(false);
  });

  it('find a server within a second once it answers within 200 ms, whatever it did before', async () => {
    const outage = fc.record({
      hangs: fc.boolean(),
      lasts: fc.integer({ min: 0, max: 8_000 }),
      answersIn: fc.integer({ min: 0, max: 200 }),
      draws: fc.array(fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }), { minLength: 1, maxLength: 8 }),
    });
    await fc.assert(
      fc.asyncProperty(outage, async ({ hangs, lasts, answersIn, draws }) => {
        let drawn = 0;
        let up = false;
        const breakers = createBreakers({
          now,
          random: () => draws[(drawn += 1) % draws.length] ?? 0,
          onChange: () => undefined,
          probe: async () => {
            if (up) await new Promise((resolve) => setTimeout(resolve, answersIn));
            else if (hangs) await new Promise(() => undefined);
            else throw refusedByServer;
          },
        });
        fail(breakers, a);
        await pass(lasts);
        up = true;
        await pass(1_000);
        expect(isAdmitted(breakers, a)).toBe(true);
        breakers.close();
      }),
      { numRuns: 200 },
    );
  });

  it('go to the database of the tenant with the last request, because its own may be gone', async () => {
    const { breakers, probes } = openCluster();
    isAdmitted(breakers, b);
    await pass(100);
    expect(probes[0]?.target).toEqual({ scope: 'cluster', key: ONE, tenant: b });
    await probes[0]?.fail(new Error('no such tenant'));
    expect(isAdmitted(breakers, a)).toBe(false);
    await pass(200);
    expect(probes[1]?.target.tenant).toEqual(a);
  });

  it.each(['28P01', '3D000', '53300'])('of a cluster close the breaker if the server answers %s', async (sqlState) => {
    const { breakers, probes } = openCluster();
    await pass(100);
    await probes[0]?.fail(new DatabaseFault('unavailable', sqlState));
    expect(isAdmitted(breakers, a)).toBe(true);
  });

  it.each<[string, Error]>([
    ['57P03', new DatabaseFault('unavailable', '57P03')],
    ['no answer', new DatabaseFault('timeout', 'no answer')],
    ['a wait for a connection on our side', new DatabaseFault('busy', 'no connection became free in time')],
    ['a mistake of ours', new TypeError('undefined is not a function')],
  ])('prove nothing if they end with %s', async (_what, error) => {
    const { breakers, probes } = openCluster();
    await pass(100);
    await probes[0]?.fail(error);
    expect(isAdmitted(breakers, a)).toBe(false);
  });

  it('of a tenant’s own breaker need its database, not only the server', async () => {
    const { breakers, probes } = setup();
    fail(breakers, a, wrongPassword);
    await pass(100);
    expect(probes[0]?.target).toEqual({ scope: 'tenant', key: 'a', tenant: a });
    await probes[0]?.fail(wrongPassword);
    expect(isAdmitted(breakers, a)).toBe(false);
    await pass(200);
    await probes[1]?.fail(new DatabaseFault('unavailable', '53300'));
    expect(isAdmitted(breakers, a)).toBe(true);
  });

  it('end after a minute without requests; the next request is refused, and starts them again at once', async () => {
    const { breakers, probes } = openCluster();
    for (let step = 0; step < 120; step += 1) {
      await pass(800);
      await probes.at(-1)?.fail();
    }
    const before = probes.length;
    expect(before).toBeLessThan(80);
    expect(breakers.state('cluster', ONE)).toMatchObject({ state: 'open', nextProbeIn: undefined });
    expect(() => {
      breakers.admit(b);
    }).toThrow(expect.objectContaining({ retryAfter: 1 }));
    isAdmitted(breakers, a);
    expect(probes).toHaveLength(before + 1);
    await probes.at(-1)?.succeed();
    expect(isAdmitted(breakers, b)).toBe(true);
  });
});

describe('the state of the breakers', () => {
  it('starts from zero again when a breaker has closed', async () => {
    const { breakers, probes } = openCluster();
    await pass(100);
    await probes[0]?.succeed();
    fail(breakers, a, refusedByServer, 2);
    expect(isAdmitted(breakers, a)).toBe(true);
    breakers.succeeded(b);
    breakers.succeeded(a);
    fail(breakers, a, refusedByServer, 2);
    expect(isAdmitted(breakers, a)).toBe(true);
    fail(breakers, a, refusedByServer, 1);
    expect(isAdmitted(breakers, a)).toBe(false);
  });

  it('ignores failures that began before the breaker closed and ended later', async () => {
    const begun = now();
    const { breakers, probes } = openCluster();
    await pass(100);
    await probes[0]?.succeed();
    await pass(15_000);
    for (let time = 0; time < 20; time += 1) breakers.failed(time % 2 ? a : b, silent, begun);
    expect([a, b].map((tenant) => isAdmitted(breakers, tenant))).toEqual([true, true]);
    for (let time = 0; time < 3; time += 1) breakers.failed(a, silent, now());
    expect(isAdmitted(breakers, a)).toBe(false);
  });

  it('ignores such failures for a tenant’s breaker, too', async () => {
    const begun = now();
    const { breakers, probes } = setup();
    fail(breakers, a, wrongPassword);
    await pass(100);
    await probes[0]?.succeed();
    for (let time = 0; time < 5; time += 1) breakers.failed(a, wrongPassword, begun);
    expect(isAdmitted(breakers, a)).toBe(true);
  });

  it('ignores an answer that comes while the breaker is open', () => {
    const { breakers } = openCluster();
    breakers.succeeded(a);
    expect(isAdmitted(breakers, a)).toBe(false);
  });

  it('of a tenant is discarded when its settings change, and its probes end', async () => {
    const { breakers, probes } = setup();
    fail(breakers, a, wrongPassword);
    breakers.forget('a');
    breakers.forget('never seen');
    expect(isAdmitted(breakers, a)).toBe(true);
    await pass(10_000);
    expect(probes).toEqual([]);
  });

  it('of a cluster stays when one of its tenants is discarded', () => {
    const { breakers } = openCluster();
    breakers.forget('a');
    expect(isAdmitted(breakers, a)).toBe(false);
  });

  it('exists for failures only: it ends with a success or with time, and leaves no timer', async () => {
    const { breakers, probes } = setup();
    breakers.failed(a, refusedByServer);
    breakers.failed(b, wrongPassword);
    expect(breakers.stats().breakers.map(({ key }) => key)).toEqual([ONE, 'a', 'b']);
    for (const tenant of [a, b, elsewhere]) breakers.succeeded(tenant);
    expect(breakers.stats().breakers).toEqual([]);

    fail(breakers, { id: 'there', cluster: OTHER }, refusedByServer, 1);
    fail(breakers, elsewhere, refusedByServer, 2);
    await pass(100);
    await probes[0]?.succeed();
    breakers.failed(a, refusedByServer);
    expect(breakers.stats().breakers.length).toBe(3);
    await pass(120_000);
    expect(breakers.stats().breakers).toEqual([]);

    fail(breakers, a, wrongPassword);
    await pass(12 * 60_000);
    expect(breakers.stats().breakers).toEqual([]);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('shows operators which breakers are open, since when, and when the next probe comes', async () => {
    const { breakers, probes } = openCluster();
    await pass(100);
    await probes[0]?.fail();
    await pass(50);
    const status = {
      scope: 'cluster',
      key: ONE,
      cluster: ONE,
      state: 'open',
      failures: 3,
      reason: 'ECONNREFUSED',
      openFor: 150,
      probes: 1,
      nextProbeIn: 150,
      opened: 1,
    };
    expect(breakers.state('cluster', ONE)).toEqual(status);
    expect(breakers.stats()).toEqual({ opened: { tenant: 0, cluster: 1 }, refused: 1, breakers: [status] });
    await pass(150);
    expect(breakers.state('cluster', ONE)).toMatchObject({ state: 'half-open', nextProbeIn: undefined });
    await probes[1]?.succeed();
    expect(breakers.state('cluster', ONE)).toMatchObject({ state: 'closed', failures: 0, openFor: undefined });
  });

  it('is empty after close(): every request is admitted, nothing is probed, and nothing is counted', async () => {
    const { breakers, probes, changes } = openCluster();
    await pass(100);
    breakers.close();
    expect(changes.at(-1)).toMatchObject({ state: 'closed', reason: 'the service stops' });
    await probes[0]?.fail();
    fail(breakers, a);
    expect(isAdmitted(breakers, a)).toBe(true);
    await pass(10_000);
    expect(probes).toHaveLength(1);
    expect(vi.getTimerCount()).toBe(0);
  });
});
