// Several replicas and one registry: together they never lease more slots than the budget, even if a replica stops, hangs, dies
// or cannot reach the registry.
import { sql, type Kysely } from 'kysely';
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, inject, it, onTestFinished, vi } from 'vitest';
import type { SlotKind } from '../../db/registry/fleet/fleet-tables.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { createDatabase } from '../../db/driver/client.js';
import { countSessions } from '../../db/server/server-admin.js';
import type { Membership, Slot } from '../../db/driver/pool/slot.js';
import type { Governor } from '../../src/connections/governor-types.js';
import { createGovernor } from '../../src/connections/governor.js';
import { LOOK_TURN } from '../../src/connections/lease-timing.js';
import { createSlotLeases, type SlotLeases, type SlotLeasesDeps } from '../../src/connections/slot-leases.js';
import { connectAs, createRegistry } from '../support/app.js';
import { startProxy, type Proxy } from '../support/proxy.js';

const CLUSTER = 'db.example:5432';
const TIMING = { renewEvery: 100, giveBackAfter: 400, unsureAfter: 600, deadAfter: 1_200, lookAgainAfter: 300 };
const LIMITS = { max: 3, acquireTimeout: 5_000, timeout: 5_000, idleTimeoutMillis: 10_000 };
const BUSY = expect.objectContaining({ name: 'DatabaseFault', kind: 'busy' }) as unknown;
const UNAVAILABLE = expect.objectContaining({ name: 'DatabaseFault', kind: 'unavailable' }) as unknown;

/** A pool whose connections the test controls; closing one takes a moment. */
class Pool {
  readonly busy: Slot[] = [];
  readonly unused: Slot[] = [];
  private readonly membership: Membership;

  constructor(governor: Governor, tenant: string) {
    this.membership = governor.join(tenant, () => {
      const slot = this.unused.shift();
      this.membership.idle(this.unused.length > 0);
      if (slot) closeSoon(slot);
      return slot !== undefined;
    });
  }

  /** Connections that are open and were not asked to close. */
  get open(): number {
    return this.busy.length + this.unused.length;
  }

  async take(count = 1, timeoutMs = 5_000): Promise<void> {
    await Promise.all(
      Array.from({ length: count }, async () => {
        this.busy.push(await this.membership.open(timeoutMs));
      }),
    );
  }

  tryTake(): boolean {
    const slot = this.membership.tryOpen();
    if (slot) this.busy.push(slot);
    return slot !== undefined;
  }

  /** Releases the connections, which stay open until another pool needs them. */
  giveBack(): void {
    for (const slot of this.busy.splice(0)) {
      if (this.membership.mustYield()) closeSoon(slot);
      else this.unused.push(slot);
    }
    this.membership.idle(this.unused.length > 0);
  }

  close(): void {
    for (const slot of [...this.busy.splice(0), ...this.unused.splice(0)]) slot.release();
    this.membership.idle(false);
  }
}

function closeSoon(slot: Slot): void {
  slot.closing();
  setTimeout(() => {
    slot.release();
  }, 5);
}

interface Replica {
  readonly id: string;
  readonly leases: SlotLeases;
  readonly governor: Governor;
  readonly errors: unknown[];
}

interface Scene {
  /** The registry as its superuser sees it. */
  readonly registry: Kysely<Registry>;
  /** The proxy through which some replicas reach the registry. */
  readonly proxy: Proxy;
  readonly start: (options?: {
    budget?: number;
    proxy?: Proxy;
    openConnections?: SlotLeasesDeps['openConnections'];
    kind?: SlotKind;
  }) => Replica;
  /** Slots by replica, as the registry has them. */
  readonly slots: () => Promise<Record<string, number>>;
}

/** A separate registry. It and everything started on it end with the test. */
async function scene(): Promise<Scene> {
  const database = await createRegistry();
  const { superuser, registryOwner } = inject('cluster');
  const handle = connectAs<Registry>(database);
  const proxy = await startProxy(superuser);
  onTestFinished(async () => {
    await handle.close(0);
    await proxy.close();
  });
  return {
    registry: handle.db,
    proxy,

    start({ budget = 24, proxy: way, openConnections, kind = 'tenants' } = {}) {
      const { host, port } = way ?? superuser;
      const own = createDatabase<Registry>({ ...superuser, ...registryOwner, host, port, database }, LIMITS, {
        applicationName: 'replica',
        preparedStatements: false,
      });
      const errors: unknown[] = [];
      const id = randomUUID();
      const leases = createSlotLeases({
        registry: own.db,
        replicaId: id,
        budget: () => ({ tenants: budget, reserve: budget }),
        openConnections: openConnections ?? (async () => Promise.reject(new Error('nobody should be looked for'))),
        onError: (error, context) => errors.push({ ...context, error }),
        timing: TIMING,
      });
      const governor = createGovernor({ slots: leases.source(CLUSTER, kind) });
      onTestFinished(async () => {
        governor.close();
        await leases.close();
        await own.close(0);
      });
      return { id, leases, governor, errors };
    },

    async slots() {
      const rows = await handle.db.selectFrom('slot_leases').select(['replica_id as id', 'slots']).execute();
      return Object.fromEntries(rows.map(({ id, slots }) => [id, slots]));
    },
  };
}

const sum = (slots: Record<string, number>): number => Object.values(slots).reduce((total, count) => total + count, 0);
const soon = { timeout: 30_000, interval: 20 };

describe('replicas', () => {
  it('never hold more than the budget together under three times that load, and serve all of it', async () => {
    const BUDGET = 12;
    const { start, slots } = await scene();
    const replicas = [1, 2, 3].map(() => start({ budget: BUDGET }));
    const pools = replicas.flatMap(({ governor }) => ['a', 'b', 'c', 'd'].map((tenant) => new Pool(governor, tenant)));
    let done = false;
    let highest = 0;
    const look = async (): Promise<void> => {
      while (!done) {
        const held = sum(await slots());
        const used = replicas.reduce((total, { governor }) => total + governor.stats().used, 0);
        expect(held).toBeLessThanOrEqual(BUDGET);
        expect(used).toBeLessThanOrEqual(BUDGET);
        highest = Math.max(highest, used);
        await sleep(3);
      }
    };
    const watch = look();
    const load = pools.flatMap((pool, index) =>
      [1, 2, 3].map(async (user) => {
        for (let request = 0; request < 8; request += 1) {
          await pool.take(1, 20_000);
          await sleep(((index * 7 + user * 13 + request * 29) % 40) + 5);
          if ((index + request) % 3 === 0) pool.close();
          else pool.giveBack();
        }
        pool.close();
      }),
    );
    try {
      await Promise.all(load);
    } finally {
      done = true;
      await watch;
    }
    expect(highest).toBe(BUDGET);
    expect(replicas.flatMap(({ errors }) => errors)).toEqual([]);
    for (const { governor } of replicas)
      expect(governor.stats()).toMatchObject({ used: 0, waiting: 0, refused: 0, timedOut: 0 });
  }, 40_000);

  it('take slots in blocks, and give back slots that they have not needed for a while', async () => {
    const { start, slots } = await scene();
    const { id, governor } = start();
    const pool = new Pool(governor, 'a');
    await pool.take(1);
    expect(await slots()).toEqual({ [id]: 8 });
    await pool.take(10);
    expect(await slots()).toEqual({ [id]: 16 });
    pool.close();
    await expect.poll(slots, soon).toEqual({ [id]: 8 });
  });

  it('close no connection for a waiting pool while the registry has free slots', async () => {
    const { start } = await scene();
    const { governor } = start();
    const [a, b] = [new Pool(governor, 'a'), new Pool(governor, 'b')];
    await a.take(8);
    a.giveBack();
    await b.take(8);
    expect(a.unused).toHaveLength(8);
    expect(governor.stats()).toMatchObject({ used: 16, evictions: 0 });
  });

  it('with more than their share close unused connections for a replica with less, and no further ones', async () => {
    const { start, slots } = await scene();
    const [one, other] = [start(), start()];
    const [a, b] = [new Pool(one.governor, 'a'), new Pool(other.governor, 'b')];
    await a.take(24);
    a.giveBack();
    await b.take(3);
    expect(a.unused).toHaveLength(21);
    await b.take(9);
    expect(a.unused).toHaveLength(12);
    await expect(b.take(1, 700)).rejects.toThrow(expect.objectContaining({ kind: 'busy' }) as Error);
    expect(a.unused).toHaveLength(12);
    expect(await slots()).toEqual({ [one.id]: 12, [other.id]: 12 });
  });

  it('with more than their share in use give back slots as their connections are released', async () => {
    const { start, slots } = await scene();
    const [one, other] = [start(), start()];
    const [a, b] = [new Pool(one.governor, 'a'), new Pool(other.governor, 'b')];
    await a.take(24);
    const taken = b.take(5);
    await expect.poll(() => one.governor.stats().leased, soon).toBe(19);
    expect(await slots()).toEqual({ [one.id]: 24, [other.id]: 0 });
    a.giveBack();
    await taken;
    expect(a.open).toBe(19);
    await expect.poll(slots, soon).toEqual({ [one.id]: 19, [other.id]: 5 });
  });

  it('use the smallest budget if their configurations differ', async () => {
    const { start, slots } = await scene();
    const one = start({ budget: 24 });
    const a = new Pool(one.governor, 'a');
    await a.take(20);
    a.giveBack();
    const other = start({ budget: 10 });
    const b = new Pool(other.governor, 'b');
    await b.take(4);
    await expect.poll(async () => sum(await slots()), soon).toBeLessThanOrEqual(10);
    expect(a.open).toBe(one.governor.stats().leased);
    expect(a.open).toBeGreaterThanOrEqual(5);
    expect(a.open + b.open).toBeLessThanOrEqual(10);
  });

  it('give back all slots when they stop', async () => {
    const { start, slots } = await scene();
    const { leases, governor } = start();
    const pool = new Pool(governor, 'a');
    await pool.take(3);
    expect(sum(await slots())).toBe(8);
    pool.close();
    await leases.close();
    expect(await slots()).toEqual({});
    await sleep(3 * TIMING.renewEvery);
    expect(await slots()).toEqual({});
  });

  it('keep no slots of the reserve that they do not need', async () => {
    const { start, slots } = await scene();
    const { id, governor } = start({ kind: 'reserve' });
    const pool = new Pool(governor, 'provisioning');
    await pool.take(1);
    expect(await slots()).toEqual({ [id]: 2 });
    pool.close();
    await expect.poll(slots, soon).toEqual({ [id]: 0 });
  });
});

describe('a change of a lease that is being written', () => {
  /** Delays the registry's changes that match `when`. */
  async function slow(registry: Kysely<Registry>, change: 'insert' | 'update', when: string): Promise<void> {
    await sql`create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(0.5); return new; end'`.execute(
      registry,
    );
    await sql`create trigger slow before ${sql.raw(change)} on slot_leases for each row when (${sql.raw(when)})
      execute function slow()`.execute(registry);
  }

  it('takes its slots out of use before another replica can count them as free', async () => {
    const { start, slots, registry } = await scene();
    const [one, other] = [start(), start()];
    const [a, b] = [new Pool(one.governor, 'a'), new Pool(other.governor, 'b')];
    await a.take(24);
    await slow(registry, 'update', 'new.slots < old.slots');
    a.close();
    const taken = b.take(12);
    await expect.poll(() => one.governor.stats().leased, { ...soon, interval: 5 }).toBe(12);
    expect((await slots())[one.id]).toBe(24);
    await taken;
    expect(await slots()).toMatchObject({ [other.id]: 12 });
  });

  it('keeps the slots of a stopped replica while it may have a connection, and gives them back otherwise', async () => {
    const { start, slots } = await scene();
    const { id, leases, governor } = start();
    const pool = new Pool(governor, 'a');
    await pool.take(1);
    await leases.close();
    expect(await slots()).toEqual({ [id]: expect.any(Number) as unknown });
    pool.close();
    await leases.close();
    expect(await slots()).toEqual({});
  });

  it('does not outlive its replica', async () => {
    const { start, slots, registry } = await scene();
    await slow(registry, 'insert', 'true');
    const { leases, governor } = start();
    const pool = new Pool(governor, 'a');
    const taken = pool.take(1);
    await sleep(100);
    await leases.close();
    await Promise.allSettled([taken]);
    expect(await slots()).toEqual({});
  });
});

describe('a lost lease', () => {
  it('is taken again, and if fewer slots are left, unused connections beyond them close', async () => {
    const { start, slots, registry } = await scene();
    const { id, governor } = start();
    const pool = new Pool(governor, 'a');
    await pool.take(8);
    pool.giveBack();
    await registry.transaction().execute(async (trx) => {
      await trx.deleteFrom('slot_leases').execute();
      const renewed_at = new Date(Date.now() + 60_000).toISOString();
      await trx
        .insertInto('slot_leases')
        .values({ cluster: CLUSTER, kind: 'tenants', replica_id: 'x', budget: 24, slots: 21, wanted: 0, renewed_at })
        .execute();
    });
    await expect.poll(() => pool.open, soon).toBe(3);
    expect(await slots()).toEqual({ [id]: 3, x: 21 });
    expect(pool.tryTake()).toBe(false);
  });

  it('is not used to open connections after a pause of the process, even before its timers ran', async () => {
    const { start, registry, slots } = await scene();
    const { id, governor } = start();
    const pool = new Pool(governor, 'a');
    await pool.take(1);
    await registry.deleteFrom('slot_leases').execute();
    const until = performance.now() + TIMING.unsureAfter + 50;
    while (performance.now() < until);
    expect(pool.tryTake()).toBe(false);
    expect(pool.open).toBe(1);
    await pool.take(1);
    expect(await slots()).toEqual({ [id]: 8 });
  });
});

describe('a dead replica', () => {
  it('keeps its slots while the server has a connection of it, and then loses them', async () => {
    const { start, slots, proxy } = await scene();
    const { superuser, provisioner } = inject('cluster');
    const cluster = createDatabase<unknown>(provisioner, LIMITS, {
      applicationName: 'provisioner',
      preparedStatements: false,
    });
    onTestFinished(() => cluster.close(0));
    const openConnections = vi.fn<SlotLeasesDeps['openConnections']>((_cluster, replicaIds) =>
      countSessions(cluster.db, replicaIds),
    );
    const dead = start({ proxy });
    const survivor = start({ openConnections });
    const pool = new Pool(dead.governor, 'a');
    await pool.take(24);
    const session = createDatabase<unknown>(superuser, LIMITS, {
      applicationName: `tenantry ${dead.id}`,
      preparedStatements: false,
    });
    await sql`select 1`.execute(session.db);

    proxy.mode = 'refuse';
    const other = new Pool(survivor.governor, 'b');
    const taken = other.take(5, 20_000);
    await expect.poll(() => openConnections.mock.calls.length, soon).toBeGreaterThan(0);
    await sleep(3 * TIMING.lookAgainAfter);
    await expect(Promise.all(openConnections.mock.results.map(({ value }) => value as unknown))).resolves.toEqual(
      openConnections.mock.results.map(() => new Map([[dead.id, 1]])),
    );
    expect(await slots()).toEqual({ [dead.id]: 24, [survivor.id]: 0 });
    expect(openConnections).toHaveBeenCalledWith(CLUSTER, [dead.id]);

    await session.close(0);
    pool.close();
    await taken;
    expect(await slots()).toEqual({ [survivor.id]: 8 });

    // It was only cut off: without a connection it opens none, and its new lease fits.
    expect(pool.tryTake()).toBe(false);
    await expect(pool.take(1)).rejects.toEqual(UNAVAILABLE);
    proxy.mode = 'pass';
    await expect.poll(() => dead.governor.stats().leased, soon).toBeGreaterThan(0);
    await pool.take(1);
    expect(sum(await slots())).toBeLessThanOrEqual(24);
  }, 120_000);

  it('keeps its slots if a second look finds a connection, or if the server cannot be reached', async () => {
    const { start, slots, proxy } = await scene();
    const answers = [0, 1];
    const openConnections = vi.fn<SlotLeasesDeps['openConnections']>(async (_cluster, [replicaId = '']) => {
      const answer = answers.shift();
      if (answer === undefined) throw new Error('the server is away');
      return Promise.resolve(new Map([[replicaId, answer]]));
    });
    const dead = start({ proxy });
    const survivor = start({ openConnections });
    await new Pool(dead.governor, 'a').take(8);
    await new Pool(survivor.governor, 'b').take(1);
    proxy.mode = 'refuse';
    await expect.poll(() => openConnections.mock.calls.length, soon).toBeGreaterThan(8);
    expect((await slots())[dead.id]).toBe(8);
    expect(survivor.errors).toEqual([{ step: 'reclaim', error: new Error('the server is away') }]);
  });
});

describe('dead replicas', () => {
  it('are looked for by one replica at a time, with one question for all of them', async () => {
    const { start, slots, proxy } = await scene();
    const asked: { by: number; ids: readonly string[] }[] = [];
    const looks =
      (by: number, sessions: number): SlotLeasesDeps['openConnections'] =>
      async (_cluster, ids) => {
        asked.push({ by, ids });
        await Promise.resolve();
        return new Map(ids.map((id) => [id, sessions]));
      };
    const dead = [start({ proxy }), start({ proxy })];
    const alive = [0, 1, 2].map((by) => start({ openConnections: looks(by, 1) }));
    const pools = [...dead, ...alive].map(({ governor }) => new Pool(governor, 'a'));
    for (const pool of pools) await pool.take(1);
    const before = Object.keys(await slots());
    proxy.mode = 'refuse';
    await expect.poll(() => asked.length, soon).toBeGreaterThan(0);
    await sleep(LOOK_TURN * TIMING.lookAgainAfter * alive.length);
    // The dead replicas fall silent one after the other.
    const both = asked.findIndex(({ ids }) => ids.length === 2);
    const ids = dead.map(({ id }) => id).sort();
    for (const question of asked.slice(both)) expect([...question.ids].sort()).toEqual(ids);
    // While the connections stay, the turn goes round. Replicas that look side by side would alternate all the time.
    const changes = asked.filter(({ by }, index) => index > 0 && asked[index - 1]?.by !== by);
    expect(new Set(asked.map(({ by }) => by)).size).toBe(alive.length);
    expect(changes.length).toBeLessThanOrEqual(alive.length + 1);
    expect(Object.keys(await slots()).sort()).toEqual(before.sort());
  }, 120_000);

  it('lose their slots also if a replica that is alive cannot reach the server', async () => {
    const { start, slots, proxy } = await scene();
    const dead = start({ proxy });
    const alive = [
      start({ openConnections: async () => Promise.reject(new Error('the server is away')) }),
      start({ openConnections: async () => Promise.reject(new Error('the server is away')) }),
      start({ openConnections: async (_cluster, ids) => Promise.resolve(new Map(ids.map((id) => [id, 0]))) }),
    ];
    for (const { governor } of [dead, ...alive]) await new Pool(governor, 'a').take(1);
    proxy.mode = 'refuse';
    await expect.poll(async () => Object.keys(await slots()), { timeout: 30_000 }).not.toContain(dead.id);
  }, 120_000);
});

describe('without the registry,', () => {
  it.each(['refuse', 'hang'] as const)(
    'replicas continue with their slots, and lose none when it is back (%s)',
    async (mode) => {
      const { start, slots, proxy } = await scene();
      const openConnections = vi.fn<SlotLeasesDeps['openConnections']>(async () => Promise.resolve(new Map()));
      const replicas = [1, 2].map(() => start({ proxy, openConnections }));
      const pools = replicas.map(({ governor }) => new Pool(governor, 'a'));
      for (const pool of pools) await pool.take(2);
      const before = await slots();
      expect(Object.values(before)).toEqual([8, 8]);

      proxy.mode = mode;
      await sleep(2 * TIMING.deadAfter);
      for (const pool of pools) {
        expect(Array.from({ length: 7 }, () => pool.tryTake())).toEqual([...Array<boolean>(6).fill(true), false]);
        await expect(pool.take(1, 100)).rejects.toEqual(BUSY);
        pool.giveBack();
        expect(pool.open).toBe(8);
      }
      proxy.mode = 'pass';
      await pools[0]?.take(1);
      await sleep(5 * TIMING.renewEvery);
      expect(Object.keys(await slots()).sort()).toEqual(Object.keys(before).sort());
      expect(openConnections).not.toHaveBeenCalled();
      for (const { errors } of replicas) expect(errors).toEqual([expect.objectContaining({ step: 'renew' })]);
    },
    20_000,
  );

  it.each(['refuse', 'hang'] as const)(
    'a replica without slots answers 503 at once, and gets slots when the registry is back (%s)',
    async (mode) => {
      const { start, proxy } = await scene();
      const { governor } = start({ proxy });
      const pool = new Pool(governor, 'a');
      proxy.mode = mode;
      await expect(pool.take(1, 60_000)).rejects.toEqual(UNAVAILABLE);
      const began = performance.now();
      await expect(pool.take(1, 60_000)).rejects.toEqual(UNAVAILABLE);
      expect(performance.now() - began).toBeLessThan(50);
      proxy.mode = 'pass';
      await expect.poll(() => governor.stats().leased, soon).toBe(8);
      expect(pool.tryTake()).toBe(true);
    },
    20_000,
  );
});
