// src/connections/governor.ts: never more connections than slots, no wait while a connection is unused, and a turn for every
// tenant.
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { withdrawn, type Slot } from '../../db/driver/pool/slot.js';
import type { Governor, GovernorOptions, SlotSource } from '../../src/connections/governor-types.js';
import { createGovernor } from '../../src/connections/governor.js';
import { YIELD_QUANTUM } from '../../src/connections/slot-queue.js';

const TIMEOUT = 1_000;

let time = 0;

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  time = 0;
});

afterEach(() => {
  vi.useRealTimers();
});

/** Lets decisions take effect: promises are answered, and pools are asked to close connections. */
async function settled(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}

async function pass(ms: number): Promise<void> {
  time += ms;
  vi.advanceTimersByTime(ms);
  await settled();
}

function governor(slots: number | SlotSource, options: Partial<GovernorOptions> = {}): Governor {
  return createGovernor({ slots, now: () => time, ...options });
}

/** A pool that records its connections. The test decides when they close. */
class Pool {
  readonly busy: Slot[] = [];
  readonly unused: Slot[] = [];
  readonly closing: Slot[] = [];
  granted = 0;
  failed: unknown[] = [];
  readonly membership;
  #told = false;

  constructor(
    governor: Governor,
    readonly tenant: string,
    private readonly onGrant: (pool: Pool) => void = () => undefined,
  ) {
    this.membership = governor.join(tenant, () => {
      const slot = this.unused.shift();
      if (slot) this.#close(slot);
      this.#tell();
      return slot !== undefined;
    });
  }

  get open(): number {
    return this.busy.length + this.unused.length + this.closing.length;
  }

  ask(count = 1, timeout = TIMEOUT): void {
    for (let asked = 0; asked < count; asked += 1) {
      this.membership.open(timeout).then(
        (slot) => {
          this.granted += 1;
          this.busy.push(slot);
          this.onGrant(this);
        },
        (error: unknown) => this.failed.push(error),
      );
    }
  }

  tryOpen(): boolean {
    const slot = this.membership.tryOpen();
    if (slot) {
      this.busy.push(slot);
      this.onGrant(this);
    }
    return slot !== undefined;
  }

  /** Releases a connection: it closes if another pool needs its slot, and otherwise stays unused. */
  giveBack(): void {
    const slot = this.busy.shift();
    if (!slot) return;
    if (this.membership.mustYield()) this.#close(slot);
    else this.unused.push(slot);
    this.#tell();
  }

  /** Whether a connection must close when it is released now: then it closes. */
  yields(): boolean {
    const must = this.membership.mustYield();
    const slot = must ? this.busy.shift() : undefined;
    if (slot) this.#close(slot);
    return must;
  }

  /** A connection becomes unused without being released, as the lane does. */
  fallSilent(): void {
    this.unused.push(...this.busy.splice(0, 1));
    this.#tell();
  }

  use(): void {
    const slot = this.unused.pop();
    if (slot) this.busy.push(slot);
    this.#tell();
  }

  /** An unused connection closes by itself. */
  expire(): void {
    this.unused.shift()?.release();
    this.#tell();
  }

  /** A connection that had to close has closed. */
  closed(): void {
    this.closing.shift()?.release();
  }

  #close(slot: Slot): void {
    slot.closing();
    this.closing.push(slot);
  }

  /** As the pool in db/driver/pool/pool.ts: only changes are reported. */
  #tell(): void {
    const has = this.unused.length > 0;
    if (has !== this.#told) this.membership.idle(has);
    this.#told = has;
  }
}

/** Leases that change as the test says. */
function leases(count: number): SlotSource & {
  set(leased: number): void;
  setUntold(leased: number): void;
  readonly wants: number[];
  asking: boolean;
  fault: DatabaseFault | undefined;
} {
  let leased = count;
  let changed = (): void => undefined;
  const wants: number[] = [];
  return {
    get leased() {
      return leased;
    },
    asking: false,
    fault: undefined,
    want: (missing) => wants.push(missing),
    attach: (user) => {
      changed = () => {
        user.changed();
      };
    },
    set: (next) => {
      leased = next;
      changed();
    },
    setUntold: (next) => {
      leased = next;
    },
    wants,
  };
}

const BUSY = expect.objectContaining({ name: 'DatabaseFault', kind: 'busy' }) as unknown;
const UNAVAILABLE = expect.objectContaining({ name: 'DatabaseFault', kind: 'unavailable' }) as unknown;

describe('slots', () => {
  it('are granted at once while there are any, and never more of them', async () => {
    const all = governor(2);
    const [a, b] = [new Pool(all, 'a'), new Pool(all, 'b')];
    expect([a.tryOpen(), b.tryOpen(), a.tryOpen()]).toEqual([true, true, false]);
    b.ask();
    await settled();
    expect(b.granted).toBe(0);
    expect(all.stats()).toMatchObject({ leased: 2, used: 2, highestUsed: 2, waiting: 1 });
    expect([all.heldBy('a'), all.heldBy('b'), all.waitingOf('b')]).toEqual([1, 1, 1]);
  });

  it('are free again when the connection has closed, not when it is asked to close, and only once', async () => {
    const all = governor(1);
    const [a, b] = [new Pool(all, 'a'), new Pool(all, 'b')];
    a.tryOpen();
    a.giveBack();
    b.ask();
    await settled();
    expect(a.closing).toHaveLength(1);
    expect(b.granted).toBe(0);
    const [slot] = a.closing;
    slot?.release();
    slot?.release();
    await settled();
    expect(b.granted).toBe(1);
    expect(all.stats().used).toBe(1);
    expect(a.tryOpen()).toBe(false);
  });

  it('that another pool waits for are not taken by a newcomer', async () => {
    const all = governor(1);
    const [a, b, c] = [new Pool(all, 'a'), new Pool(all, 'b'), new Pool(all, 'c')];
    a.tryOpen();
    b.ask();
    await settled();
    a.busy.pop()?.release();
    expect(c.tryOpen()).toBe(false);
    await settled();
    expect(b.granted).toBe(1);
  });

  it('count after their pool has left, until they are released', () => {
    const all = governor(1);
    const [a, b] = [new Pool(all, 'a'), new Pool(all, 'b')];
    a.tryOpen();
    a.membership.leave();
    expect(all.heldBy('a')).toBe(1);
    expect(b.tryOpen()).toBe(false);
    a.busy.pop()?.release();
    expect(all.heldBy('a')).toBe(0);
    expect(b.tryOpen()).toBe(true);
  });
});

describe('unused connections', () => {
  it('are closed for waiting pools, the longest unused one first', async () => {
    const all = governor(3);
    const pools = ['a', 'b', 'c'].map((tenant) => new Pool(all, tenant));
    const [a, b, c] = pools as [Pool, Pool, Pool];
    for (const pool of pools) pool.tryOpen();
    for (const pool of [b, a, c]) pool.giveBack();
    // Used again: now it is the most recent.
    b.use();
    b.giveBack();
    expect(all.stats().idleHolders).toBe(3);
    const d = new Pool(all, 'd');
    const order: string[] = [];
    for (let turn = 0; turn < 3; turn += 1) {
      d.ask();
      await settled();
      const closing = pools.filter((pool) => pool.closing.length > 0);
      expect(closing).toHaveLength(1);
      for (const pool of closing) {
        order.push(pool.tenant);
        pool.closed();
      }
    }
    await settled();
    expect(order).toEqual(['a', 'c', 'b']);
    expect(d.granted).toBe(3);
    expect(all.stats()).toMatchObject({ evictions: 3, idleHolders: 0, used: 3 });
  });

  it('are closed for waiting requests only, and those that are closing already count', async () => {
    const all = governor(4);
    const a = new Pool(all, 'a');
    for (let opened = 0; opened < 4; opened += 1) a.tryOpen();
    for (let given = 0; given < 4; given += 1) a.giveBack();
    const [b, c] = [new Pool(all, 'b'), new Pool(all, 'c')];
    b.ask();
    await settled();
    expect([a.closing.length, a.unused.length]).toEqual([1, 3]);
    c.ask();
    await settled();
    expect([a.closing.length, a.unused.length]).toEqual([2, 2]);
    expect(all.stats().closing).toBe(2);
    a.closed();
    a.closed();
    await settled();
    expect([b.granted, c.granted, a.closing.length, a.unused.length]).toEqual([1, 1, 0, 2]);
  });

  it('are kept if a slot is free, or if the waiting pool has given up', async () => {
    const all = governor(2);
    const [a, b] = [new Pool(all, 'a'), new Pool(all, 'b')];
    a.tryOpen();
    a.giveBack();
    b.ask();
    await settled();
    expect([b.granted, a.unused.length]).toEqual([1, 1]);
    a.use();
    b.ask(1, 50);
    await pass(50);
    a.giveBack();
    await settled();
    expect([b.failed.length, a.unused.length]).toEqual([1, 1]);
  });

  it('that appear while another pool waits are closed, but not within the call that reports them', async () => {
    const all = governor(1);
    const [a, b] = [new Pool(all, 'a'), new Pool(all, 'b')];
    a.tryOpen();
    b.ask();
    await settled();
    a.giveBack();
    expect([a.unused.length, a.closing.length]).toEqual([1, 0]);
    await settled();
    expect([a.unused.length, a.closing.length]).toEqual([0, 1]);
  });

  it('that a pool reported but no longer has are looked for in other pools', async () => {
    const all = governor(2);
    const stale = all.join('stale', () => false);
    stale.tryOpen();
    stale.idle(true);
    const [a, b] = [new Pool(all, 'a'), new Pool(all, 'b')];
    a.tryOpen();
    a.giveBack();
    b.ask();
    await settled();
    expect(a.closing).toHaveLength(1);
    expect(all.stats()).toMatchObject({ evictions: 1, closing: 1, idleHolders: 0 });
  });
});

describe('a connection', () => {
  it('that closes is counted once, however often it is asked to close', () => {
    const all = governor(2);
    const a = new Pool(all, 'a');
    a.tryOpen();
    a.tryOpen();
    const [first, second] = a.busy;
    first?.closing();
    first?.closing();
    expect(all.stats()).toMatchObject({ used: 2, closing: 1 });
    second?.release();
    expect(all.stats()).toMatchObject({ used: 1, closing: 1 });
    first?.release();
    first?.closing();
    expect(all.stats()).toMatchObject({ used: 0, closing: 0 });
  });

  it('that yields, and is asked again by each of its reads, counts as one slot', async () => {
    const all = governor(4);
    const [a, e, ...poor] = ['a', 'e', 'b', 'c', 'd'].map((tenant) => new Pool(all, tenant)) as [Pool, Pool, ...Pool[]];
    for (let opened = 0; opened < 3; opened += 1) a.tryOpen();
    e.tryOpen();
    for (const pool of poor) pool.ask();
    await pass(YIELD_QUANTUM);
    const [lane] = a.busy;
    for (let read = 0; read < 3; read += 1) if (a.membership.mustYield()) lane?.closing();
    a.busy.shift();
    lane?.release();
    await settled();
    expect(all.stats()).toMatchObject({ used: 4, closing: 0, waiting: 2 });
    // Two still wait: the unused connection is closed for them.
    e.fallSilent();
    await settled();
    expect(e.closing).toHaveLength(1);
  });

  describe('whose backend may still exist', () => {
    const lost: (() => void)[] = [];
    const pids: number[] = [];
    const backends = {
      track: () => ({
        reached: (pid: number) => void pids.push(pid),
        gone: () => undefined,
        lost: (freed: () => void) => void lost.push(freed),
      }),
    };
    beforeEach(() => {
      lost.length = 0;
      pids.length = 0;
    });

    it('keeps its slot until the backend is known to be gone, and frees it once', async () => {
      const all = governor(1, { backends });
      const [a, b] = [new Pool(all, 'a'), new Pool(all, 'b')];
      a.tryOpen();
      b.ask();
      const freed = vi.fn();
      const slot = a.busy.pop();
      slot?.reached(7);
      slot?.closing();
      slot?.orphan(freed);
      slot?.orphan(freed);
      slot?.release();
      await settled();
      expect(pids).toEqual([7]);
      expect(lost).toHaveLength(1);
      expect(all.stats()).toMatchObject({ used: 1, closing: 0, unknown: 1, waiting: 1 });
      lost[0]?.();
      lost[0]?.();
      await settled();
      expect(freed).toHaveBeenCalledOnce();
      expect(b.busy).toHaveLength(1);
      expect(all.stats()).toMatchObject({ used: 1, unknown: 0, waiting: 0 });
    });

    it('makes another connection close for waiting pools, if it was the one that should', async () => {
      const all = governor(2, { backends });
      const [a, b, c] = ['a', 'b', 'c'].map((tenant) => new Pool(all, tenant)) as [Pool, Pool, Pool];
      for (const pool of [a, b]) {
        pool.tryOpen();
        pool.giveBack();
      }
      c.ask();
      await settled();
      expect([a.closing.length, b.closing.length]).toEqual([1, 0]);
      a.closing.shift()?.orphan(() => undefined);
      await settled();
      expect(b.closing).toHaveLength(1);
    });

    it('counts as held by its tenant after the pool has left, within the budget', async () => {
      const all = governor(1, { backends });
      const a = new Pool(all, 'a');
      a.tryOpen();
      a.busy.pop()?.orphan(() => undefined);
      a.membership.leave();
      const b = new Pool(all, 'b');
      b.ask();
      await pass(TIMEOUT);
      expect(b.failed).toEqual([BUSY]);
      expect(all.heldBy('a')).toBe(1);
      lost[0]?.();
      expect(all.stats()).toMatchObject({ used: 0, unknown: 0 });
      expect(all.heldBy('a')).toBe(0);
    });

    it('frees its slot at once without backends to look at', () => {
      const all = governor(1);
      const a = new Pool(all, 'a');
      a.tryOpen();
      const freed = vi.fn();
      a.busy.pop()?.orphan(freed);
      expect(freed).toHaveBeenCalledOnce();
      expect(all.stats()).toMatchObject({ used: 0, unknown: 0 });
    });
  });
});

describe('a pool', () => {
  it('is never expected to close more connections than it holds', async () => {
    const all = governor(2);
    const boaster = all.join('boaster', () => true);
    boaster.tryOpen();
    boaster.idle(true);
    const [a, b] = [new Pool(all, 'a'), new Pool(all, 'b')];
    a.tryOpen();
    a.giveBack();
    b.ask(2);
    await settled();
    expect(a.closing).toHaveLength(1);
    expect(all.stats()).toMatchObject({ closing: 1, idleHolders: 0 });
  });
});

describe('the queue of the governor', () => {
  it('lets a tenant wait for one turn at most after 1,000 requests of another tenant', async () => {
    const all = governor(3);
    const grants: string[] = [];
    const [a, b] = ['a', 'b'].map((tenant) => new Pool(all, tenant, () => grants.push(tenant))) as [Pool, Pool];
    b.tryOpen();
    a.ask(1_000);
    await settled();
    b.ask();
    await settled();
    expect(grants).toEqual(['b', 'a', 'a']);
    a.busy.pop()?.release();
    a.busy.pop()?.release();
    await settled();
    expect(grants.slice(3).sort()).toEqual(['a', 'b']);
  });

  it('alternates between tenants, and keeps the order within one', async () => {
    const all = governor(9);
    const last = new Pool(all, 'last');
    for (let opened = 0; opened < 6; opened += 1) last.tryOpen();
    const answered: string[] = [];
    const pools = ['a', 'b', 'c'].map((tenant) => new Pool(all, tenant));
    for (const pool of pools) pool.tryOpen();
    for (const { tenant, membership } of pools)
      for (const nth of [1, 2]) void membership.open(TIMEOUT).then(() => answered.push(`${tenant}${nth}`));
    for (const slot of last.busy) {
      slot.release();
      await settled();
    }
    expect(answered).toEqual(['a1', 'b1', 'c1', 'a2', 'b2', 'c2']);
  });

  it('serves a tenant without connections before tenants with some, whichever came first', async () => {
    const all = governor(2);
    const [a, b, c] = ['a', 'b', 'c'].map((tenant) => new Pool(all, tenant)) as [Pool, Pool, Pool];
    a.tryOpen();
    b.tryOpen();
    a.ask();
    await settled();
    c.ask();
    await settled();
    b.busy.pop()?.release();
    await settled();
    expect([a.granted, c.granted]).toEqual([0, 1]);
  });

  it('serves a tenant that has lost its last connection as one without connections', async () => {
    const all = governor(2);
    const [a, b] = ['a', 'b'].map((tenant) => new Pool(all, tenant)) as [Pool, Pool];
    a.tryOpen();
    b.tryOpen();
    a.ask();
    b.ask();
    await settled();
    b.busy.pop()?.release();
    await settled();
    expect([a.granted, b.granted]).toEqual([0, 1]);
  });

  it('counts two pools of one tenant together', async () => {
    const all = governor(2);
    const [old, next, other] = ['a', 'a', 'b'].map((tenant) => new Pool(all, tenant)) as [Pool, Pool, Pool];
    old.tryOpen();
    old.tryOpen();
    next.ask();
    other.ask();
    await settled();
    expect(all.waitingOf('a')).toBe(1);
    old.busy.pop()?.release();
    await settled();
    expect([next.granted, other.granted]).toEqual([0, 1]);
    old.membership.leave();
    old.busy.pop()?.release();
    await settled();
    expect([next.granted, all.heldBy('a')]).toEqual([1, 1]);
  });

  it('refuses requests at once beyond its bound for one tenant and its bound for all', async () => {
    const all = governor(0, { maxWaiting: 3, maxWaitingPerTenant: 2 });
    const [a, b] = ['a', 'b'].map((tenant) => new Pool(all, tenant)) as [Pool, Pool];
    a.ask(3);
    await settled();
    expect(a.failed).toEqual([BUSY]);
    b.ask(2);
    await settled();
    expect(b.failed).toEqual([BUSY]);
    expect(all.stats()).toMatchObject({ waiting: 3, refused: 2, timedOut: 0 });
  });

  it('is bounded to 1,000 requests of one tenant and 10,000 of all by default', async () => {
    const all = governor(0);
    const pools = Array.from({ length: 11 }, (_, index) => new Pool(all, `t${index}`));
    for (const pool of pools) pool.ask(1_001);
    await settled();
    expect(pools.map((pool) => pool.failed.length)).toEqual([...Array<number>(10).fill(1), 1_001]);
    expect(all.stats()).toMatchObject({ waiting: 10_000, refused: 1_011 });
    all.close();
  });

  it('refuses requests that have waited for the maximum time, and removes them', async () => {
    const all = governor(1);
    const [a, b] = ['a', 'b'].map((tenant) => new Pool(all, tenant)) as [Pool, Pool];
    a.tryOpen();
    b.ask(1, 300);
    b.ask(1, 500);
    await pass(299);
    expect(b.failed).toEqual([]);
    await pass(1);
    expect(b.failed).toEqual([BUSY]);
    expect(all.stats()).toMatchObject({ waiting: 1, timedOut: 1 });
    a.busy.pop()?.release();
    await settled();
    expect([b.granted, all.stats().waiting]).toEqual([1, 0]);
    await pass(1_000);
    expect(b.failed).toHaveLength(1);
  });

  it('drops the requests of a pool that leaves, and all when the governor closes', async () => {
    const all = governor(1);
    const [a, b, c] = ['a', 'b', 'c'].map((tenant) => new Pool(all, tenant)) as [Pool, Pool, Pool];
    a.tryOpen();
    b.ask(2);
    c.ask(1);
    await settled();
    b.membership.leave();
    b.ask();
    await settled();
    expect(b.failed).toEqual([UNAVAILABLE, UNAVAILABLE, UNAVAILABLE]);
    expect([c.failed.length, all.stats().waiting]).toEqual([0, 1]);
    all.close();
    c.ask();
    await settled();
    expect(c.failed).toEqual([UNAVAILABLE, UNAVAILABLE]);
    a.busy.pop()?.release();
    expect(a.tryOpen()).toBe(false);
    expect(all.stats()).toMatchObject({ used: 0, waiting: 0 });
  });
});

describe('a tenant that keeps its connections busy', () => {
  it('gives up one for a tenant without connections that has waited for the quantum, and not earlier', async () => {
    const all = governor(1);
    const [a, b] = ['a', 'b'].map((tenant) => new Pool(all, tenant)) as [Pool, Pool];
    a.tryOpen();
    await pass(YIELD_QUANTUM);
    expect(a.membership.mustYield()).toBe(false);
    b.ask();
    await pass(YIELD_QUANTUM - 1);
    expect(a.membership.mustYield()).toBe(false);
    await pass(1);
    a.giveBack();
    expect(a.closing).toHaveLength(1);
    expect(all.stats()).toMatchObject({ yields: 1, closing: 1, evictions: 0 });
    a.ask();
    a.closed();
    await settled();
    expect([b.granted, a.granted]).toEqual([1, 0]);
  });

  it('keeps a connection for the quantum, however long the others have waited', async () => {
    const all = governor(1);
    const [a, b, c] = ['a', 'b', 'c'].map((tenant) => new Pool(all, tenant)) as [Pool, Pool, Pool];
    a.tryOpen();
    b.ask();
    c.ask();
    await pass(10 * YIELD_QUANTUM);
    a.giveBack();
    a.closed();
    await settled();
    expect(b.granted).toBe(1);
    expect(b.membership.mustYield()).toBe(false);
    await pass(YIELD_QUANTUM);
    expect(b.membership.mustYield()).toBe(true);
  });

  it('gives up one for each tenant without connections, including those that close already', async () => {
    const all = governor(4);
    const [a, b] = ['a', 'b'].map((tenant) => new Pool(all, tenant)) as [Pool, Pool];
    for (let opened = 0; opened < 4; opened += 1) a.tryOpen();
    b.ask();
    await pass(YIELD_QUANTUM);
    expect([a, a, a].map((pool) => pool.yields())).toEqual([true, false, false]);
  });

  it('shares with a tenant that holds fewer until both hold about the same, and then stops', async () => {
    const all = governor(7);
    const [a, b] = ['a', 'b'].map((tenant) => new Pool(all, tenant)) as [Pool, Pool];
    for (let opened = 0; opened < 6; opened += 1) a.tryOpen();
    b.tryOpen();
    a.ask(10, 60_000);
    b.ask(10, 60_000);
    for (let turn = 0; turn < 20; turn += 1) {
      await pass(YIELD_QUANTUM);
      for (const pool of [a, b]) if (pool.membership.mustYield()) pool.busy.shift()?.release();
    }
    await settled();
    expect([all.heldBy('a'), all.heldBy('b')]).toEqual([4, 3]);
    expect(all.stats().yields).toBe(2);
    all.close();
  });

  it.each([
    ['makes both about equal', 10, [true, true, false]],
    ['the other waits for', 1, [true, false, false]],
  ])('gives up no more at once than %s', async (_, waiting, answers) => {
    const all = governor(7);
    const [a, b] = ['a', 'b'].map((tenant) => new Pool(all, tenant)) as [Pool, Pool];
    for (let opened = 0; opened < 6; opened += 1) a.tryOpen();
    b.tryOpen();
    b.ask(waiting);
    await pass(YIELD_QUANTUM);
    expect(answers.map(() => a.yields())).toEqual(answers);
  });

  it('gives up none if an unused connection can close instead', async () => {
    const all = governor(2);
    const [a, b, c] = ['a', 'b', 'c'].map((tenant) => new Pool(all, tenant)) as [Pool, Pool, Pool];
    a.tryOpen();
    b.tryOpen();
    b.giveBack();
    c.ask();
    await pass(YIELD_QUANTUM);
    expect(a.membership.mustYield()).toBe(false);
    expect(b.closing).toHaveLength(1);
  });

  it('gives up none for a tenant for which an unused connection is about to close', async () => {
    const all = governor(2);
    const [a, b, c] = ['a', 'b', 'c'].map((tenant) => new Pool(all, tenant)) as [Pool, Pool, Pool];
    a.tryOpen();
    b.tryOpen();
    c.ask();
    await pass(YIELD_QUANTUM);
    b.fallSilent();
    expect(a.membership.mustYield()).toBe(false);
    await settled();
    expect(b.closing).toHaveLength(1);
  });

  it('gives up connections until each waiting tenant has had its turn, even with more tenants than slots', async () => {
    const all = governor(2);
    const pools = Array.from({ length: 7 }, (_, index) => new Pool(all, `t${index}`));
    for (const pool of pools) pool.ask(3, 60_000);
    for (let turn = 0; turn < 7; turn += 1) {
      await pass(YIELD_QUANTUM);
      for (const pool of pools) {
        if (pool.busy.length > 0 && pool.membership.mustYield()) pool.busy.shift()?.release();
      }
    }
    await settled();
    expect(pools.map((pool) => pool.granted).every((granted) => granted >= 1)).toBe(true);
    all.close();
  });
});

describe('leases', () => {
  it('that arrive go to waiting pools, and the source knows how many are missing', async () => {
    const source = leases(0);
    const all = governor(source);
    const a = new Pool(all, 'a');
    a.ask(3);
    await settled();
    expect(source.wants).toEqual([3]);
    source.set(2);
    await settled();
    expect(a.granted).toBe(2);
    source.set(5);
    await settled();
    expect(a.granted).toBe(3);
    a.busy.pop()?.release();
    await settled();
    expect(source.wants).toEqual([3, 1, 0]);
  });

  it('that have arrived are for waiting pools, even before the source has reported them', async () => {
    const source = leases(0);
    const all = governor(source);
    const [a, b] = ['a', 'b'].map((tenant) => new Pool(all, tenant)) as [Pool, Pool];
    a.ask();
    await settled();
    source.setUntold(1);
    expect(b.tryOpen()).toBe(false);
    source.set(1);
    await settled();
    expect(a.granted).toBe(1);
  });

  it('that are taken away are freed by closing unused connections, and nothing is granted until the rest fits', async () => {
    const source = leases(4);
    const all = governor(source);
    const [a, b] = ['a', 'b'].map((tenant) => new Pool(all, tenant)) as [Pool, Pool];
    for (let opened = 0; opened < 4; opened += 1) a.tryOpen();
    a.giveBack();
    a.giveBack();
    source.set(1);
    await settled();
    expect([a.closing.length, a.unused.length]).toEqual([2, 0]);
    b.ask();
    a.closed();
    a.closed();
    await settled();
    expect(all.stats()).toMatchObject({ leased: 1, used: 2, waiting: 1 });
    expect([b.granted, b.tryOpen()]).toEqual([0, false]);
    // Connections in use close when they are released, whatever their own pool needs.
    a.giveBack();
    expect(a.closing).toHaveLength(1);
    a.closed();
    await settled();
    expect(b.granted).toBe(0);
    a.busy.pop()?.release();
    await settled();
    expect([b.granted, all.stats().used]).toEqual([1, 1]);
  });

  it('that may arrive are waited for before any connection is closed for waiting pools', async () => {
    const source = leases(1);
    source.asking = true;
    const all = governor(source);
    const [a, b] = [new Pool(all, 'a'), new Pool(all, 'b')];
    a.tryOpen();
    a.giveBack();
    b.ask();
    await settled();
    expect([a.unused.length, a.closing.length]).toEqual([1, 0]);
    source.asking = false;
    source.set(1);
    await settled();
    expect([a.unused.length, a.closing.length]).toEqual([0, 1]);
  });

  it('that cannot arrive are not waited for', async () => {
    const fault = new DatabaseFault('unavailable', 'nobody answers');
    const source = leases(0);
    const all = governor(source);
    const pool = new Pool(all, 'a');
    pool.ask(2);
    await settled();
    expect(pool.failed).toEqual([]);
    source.fault = fault;
    source.set(0);
    await settled();
    expect(pool.failed).toEqual([fault, fault]);
    pool.ask();
    await settled();
    expect(pool.failed).toHaveLength(3);
    expect(all.stats()).toMatchObject({ waiting: 0, timedOut: 0, refused: 0 });
  });

  it('that are taken away are also freed by busy pools, even if no pool waits', () => {
    const source = leases(3);
    const all = governor(source);
    const a = new Pool(all, 'a');
    for (let opened = 0; opened < 3; opened += 1) a.tryOpen();
    source.set(2);
    expect([a.yields(), a.yields()]).toEqual([true, false]);
  });
});

describe('whatever happens,', () => {
  const pool = fc.nat(3);
  const step = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({ act: fc.constant('ask' as const), pool, count: fc.integer({ min: 1, max: 4 }) }),
    },
    { weight: 1, arbitrary: fc.record({ act: fc.constant('lease' as const), count: fc.nat(5) }) },
    { weight: 2, arbitrary: fc.record({ act: fc.constant('pass' as const), count: fc.integer({ min: 1, max: 60 }) }) },
    {
      weight: 10,
      arbitrary: fc.record({
        act: fc.constantFrom(
          'tryOpen' as const,
          'giveBack' as const,
          'use' as const,
          'expire' as const,
          'closed' as const,
        ),
        pool,
      }),
    },
  );

  it('the slots are never exceeded, none is lost, every request is answered, and no connection closes in vain', async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(4), fc.array(step, { maxLength: 60 }), async (slots, steps) => {
        const source = leases(slots);
        const all = governor(source, { maxWaiting: 10, maxWaitingPerTenant: 6 });
        // Two pools of one tenant, and two of others.
        const pools = ['a', 'a', 'b', 'c'].map(
          (tenant) =>
            new Pool(all, tenant, () => {
              expect(all.stats().used).toBeLessThanOrEqual(source.leased);
            }),
        );
        const at = (index: number): Pool => pools[index] ?? expect.unreachable();
        let asked = 0;
        const look = async (): Promise<void> => {
          await settled();
          const { used, waiting, closing, leased, idleHolders } = all.stats();
          const sum = (count: (of: Pool) => number): number => pools.reduce((total, of) => total + count(of), 0);
          expect(used).toBe(sum((of) => of.open));
          for (const tenant of ['a', 'b', 'c'])
            expect(all.heldBy(tenant)).toBe(pools.reduce((n, of) => n + (of.tenant === tenant ? of.open : 0), 0));
          expect(waiting + sum((of) => of.granted + of.failed.length)).toBe(asked);
          expect(idleHolders).toBe(pools.filter((of) => of.unused.length > 0).length);
          expect(closing).toBeLessThanOrEqual(sum((of) => of.closing.length));
          // No request waits while a slot is free, or while a connection is unused and not asked to close.
          if (waiting > 0) expect(used).toBeGreaterThanOrEqual(leased);
          if (waiting > leased - used + closing) expect(idleHolders).toBe(0);
        };
        for (const next of steps) {
          const evictionsBefore = all.stats().evictions + all.stats().yields;
          const { closing: closingBefore } = all.stats();
          if (next.act === 'ask') {
            at(next.pool).ask(next.count, 50);
            asked += next.count;
          } else if (next.act === 'lease') source.set(next.count);
          else if (next.act === 'pass') await pass(next.count);
          else at(next.pool)[next.act]();
          await look();
          const { evictions, yields, waiting, leased, used, closing } = all.stats();
          // Every connection that was asked to close now is owed to a waiting request, or is beyond the leases.
          if (evictions + yields > evictionsBefore && closing > closingBefore)
            expect(closing).toBeLessThanOrEqual(Math.max(0, waiting - (leased - used)));
        }
        // The end: waiting requests are served or time out, and every slot is free.
        for (let round = 0; round < 30 && all.stats().used + all.stats().waiting > 0; round += 1) {
          for (const of of pools) {
            of.giveBack();
            of.closed();
            of.expire();
          }
          await pass(5);
          await look();
        }
        for (let round = 0; round < 30; round += 1)
          for (const of of pools) {
            of.giveBack();
            of.closed();
            of.expire();
          }
        await settled();
        expect(all.stats()).toMatchObject({ used: 0, waiting: 0, closing: 0, idleHolders: 0 });
        source.set(3);
        expect(pools.map((of) => of.tryOpen())).toEqual([true, true, true, false]);
      }),
      { numRuns: 300 },
    );
  });
});

it('a request for a slot that is withdrawn closes no connection, and the newest of its purpose goes first', async () => {
  const scarce = governor(1);
  const holder = new Pool(scarce, 'holder');
  expect(holder.tryOpen()).toBe(true);
  const asking = new Pool(scarce, 'asking');
  asking.ask(1);
  const purpose = {};
  const failed: unknown[] = [];
  for (const name of ['first', 'second'])
    asking.membership.open(TIMEOUT, purpose).catch((error: unknown) => failed.push([name, error]));
  await settled();
  expect(scarce.stats().waiting).toBe(3);
  expect(asking.membership.withdraw?.(purpose)).toBe(true);
  await settled();
  expect(failed).toEqual([['second', withdrawn]]);
  expect(asking.membership.withdraw?.(purpose)).toBe(true);
  expect(asking.membership.withdraw?.(purpose)).toBe(false);
  expect(scarce.stats().waiting).toBe(1);
  holder.giveBack();
  await settled();
  holder.closed();
  await settled();
  expect(asking.granted).toBe(1);
});
