// The connection governor: admits connections to one PostgreSQL server, so that the tenant pools of this process together
// never hold more than its share of that server. What is scarce goes round: a connection that nobody uses is closed for
// whoever waits, the longest unused one first; who waits is served in turns, one tenant after the other; and a tenant that
// keeps its connections busy gives them up where another has fewer.
//
// A slot, from here: `used` counts all but the free ones, `closing` and `unknown` those in that state.
//
//     free ── granted ──▶ open ── its connection is asked to close ──▶ closing
//     open, closing ── the backend is gone (release) ──▶ free
//     open, closing ── the connection has closed, and the backend may live on (orphan) ──▶ unknown
//     unknown ── the backend is seen gone (src/tenancy/backends.ts) ──▶ free
import { DatabaseFault } from '../../db/errors.js';
import type { Membership, Slot } from '../../db/slot.js';
import { nextTurn } from '../../db/turns.js';
import type { Backends } from './backends.js';
import { LinkedQueue, Queued } from '../linked-queue.js';

/** Where the slots come from that this process may use. */
export interface SlotSource {
  /** Slots that may be used now. */
  readonly leased: number;
  /** Whether more of them may come within moments: until that is known nothing is closed for those who wait. */
  readonly asking?: boolean;
  /** Why there is no slot and none to wait for; undefined while there is one, or may be. */
  readonly fault?: DatabaseFault | undefined;
  /** Slots that the other replicas lease, as far as is known. */
  readonly others?: number;
  /** The server refused a connection for want of room (53300); its slot is still in use. */
  refused?(): void;
  /** Told how many more could be used at once, whenever that number has changed; 0 when nobody waits any more. */
  want(missing: number): void;
  /** To be called once, before anything else. */
  attach(user: SlotUser): void;
}

/** Whoever uses the slots of a source. */
export interface SlotUser {
  /** Slots in use. */
  readonly used: number;
  /** To be called whenever what the source says has changed. */
  changed(): void;
}

export interface GovernorOptions {
  /** A number that never changes, or leases that come and go. */
  readonly slots: number | SlotSource;
  /** Finds out when a backend that may live on is gone. Without it such a slot is free at once. */
  readonly backends?: Pick<Backends, 'track'>;
  /** Requests for a slot that may wait, all tenants together; more are refused at once. Default 10,000. */
  readonly maxWaiting?: number;
  /** The same for one tenant, so that one alone cannot fill the queue. Default 1,000. */
  readonly maxWaitingPerTenant?: number;
  /** Milliseconds on a clock that never goes back. Default `performance.now`. */
  readonly now?: () => number;
}

/** All counters since the governor was made. */
export interface GovernorStats {
  /** Slots that may be used. */
  readonly leased: number;
  /**
   * Slots in use: connections that are opening, open or closing, and backends that may live on. More than `leased` for a while
   * after a lease was lost.
   */
  readonly used: number;
  readonly highestUsed: number;
  /** Connections that were asked to close and have not closed yet. */
  readonly closing: number;
  /** Connections that have closed, and whose backend may live on. */
  readonly unknown: number;
  /** Pools that have a connection which nobody uses. */
  readonly idleHolders: number;
  /** Requests that wait for a slot. */
  readonly waiting: number;
  /** Unused connections closed because their slot was needed. */
  readonly evictions: number;
  /** Connections closed when they were given back, because their slot was needed. */
  readonly yields: number;
  /** Requests refused at once, because too many waited. */
  readonly refused: number;
  /** Requests that waited in vain for as long as they could. */
  readonly timedOut: number;
}

export interface Governor {
  /**
   * Lets a pool take part until it leaves: what still waits for it then is rejected with DatabaseFault `unavailable`. A
   * tenant may have several at a time (one that closes and one that follows it): they take turns as one.
   *
   * @param closeIdle closes one connection of the pool that nobody uses, and calls `closing` of its slot; false where there is
   *   none
   */
  join(tenantId: string, closeIdle: () => boolean): Membership;
  /** Requests of this tenant that wait for a slot. */
  waitingOf(tenantId: string): number;
  /** Slots in use by this tenant. */
  heldBy(tenantId: string): number;
  stats(): GovernorStats;
  /** Rejects all who wait with DatabaseFault `unavailable`, and admits nobody any more. */
  close(): void;
}

/**
 * How long (ms) another tenant must have waited, and a tenant have had its newest slot, before a connection that is in
 * steady use is closed for the other. Where more tenants are busy than there are slots, a connection would otherwise be
 * opened for every request.
 */
export const YIELD_QUANTUM = 20;

const MAX_WAITING = 10_000;
const MAX_WAITING_PER_TENANT = 1_000;

/** Stands among the tenants that wait. */
class Tenant extends Queued<Tenant> {
  /** Pools that have joined and not left. */
  members = 0;
  /** Slots in use. */
  held = 0;
  /** Of those, how many belong to connections that were asked to close. */
  closing = 0;
  /** Of those, how many belong to backends that may live on. */
  unknown = 0;
  /** When it was last given a slot. */
  grantedAt = -Infinity;
  /** First come, first served. */
  readonly waiters = new LinkedQueue<Waiter>();

  constructor(readonly id: string) {
    super();
  }
}

/** A pool; stands among those with an unused connection. */
class Member extends Queued<Member> {
  left = false;

  constructor(
    readonly tenant: Tenant,
    readonly closeIdle: () => boolean,
  ) {
    super();
  }
}

/** A request for a slot; stands among those of its tenant. */
class Waiter extends Queued<Waiter> {
  timer: NodeJS.Timeout | undefined;

  constructor(
    readonly member: Member,
    readonly since: number,
    readonly resolve: (slot: Slot) => void,
    readonly reject: (error: DatabaseFault) => void,
  ) {
    super();
  }
}

export function createGovernor(options: GovernorOptions): Governor {
  const { backends, maxWaiting = MAX_WAITING, maxWaitingPerTenant = MAX_WAITING_PER_TENANT, now = monotonic } = options;
  const source = typeof options.slots === 'number' ? fixed(options.slots) : options.slots;
  const tenants = new Map<string, Tenant>();
  /** Pools with an unused connection, the one that has had one for longest first. */
  const idle = new LinkedQueue<Member>();
  /** Tenants that wait and hold no slot: they go before those that hold some, which at least make progress. */
  const emptyHanded = new LinkedQueue<Tenant>();
  /** Tenants that wait and hold some. */
  const holders = new LinkedQueue<Tenant>();
  const counted = { evictions: 0, yields: 0, refused: 0, timedOut: 0 };
  let used = 0;
  let highestUsed = 0;
  let closing = 0;
  let unknown = 0;
  let waiting = 0;
  /** What the source was last told. */
  let wanted = 0;
  let settling = false;
  let closed = false;

  source.attach({
    get used() {
      return used;
    },
    changed() {
      grant();
      const { fault } = source;
      if (fault) rejectAll(fault);
      settleSoon();
    },
  });

  /** Slots that those who wait will get without anything more being asked to close; below zero where too many are used. */
  function coming(): number {
    return source.leased - used + closing;
  }

  function take(tenant: Tenant): Slot {
    used += 1;
    highestUsed = Math.max(highestUsed, used);
    tenant.held += 1;
    tenant.grantedAt = now();
    const backend = backends?.track();
    let state: 'open' | 'closing' | 'unknown' | 'free' = 'open';
    /** Each connection is counted once in each state, however often it is asked to close. */
    const become = (next: typeof state): void => {
      const by = (counted: typeof state): number => Number(next === counted) - Number(state === counted);
      closing += by('closing');
      tenant.closing += by('closing');
      unknown += by('unknown');
      tenant.unknown += by('unknown');
      state = next;
    };
    const free = (): void => {
      if (state === 'free') return;
      become('free');
      giveBack(tenant);
    };
    return {
      reached(pid) {
        backend?.reached(pid);
      },
      closing() {
        if (state === 'open') become('closing');
      },
      release() {
        if (state !== 'open' && state !== 'closing') return;
        backend?.gone();
        free();
      },
      orphan(freed) {
        if (state !== 'open' && state !== 'closing') return;
        become('unknown');
        const seenGone = (): void => {
          if (state !== 'unknown') return;
          free();
          freed();
        };
        if (!backend) {
          seenGone();
          return;
        }
        // It does not come back soon: another connection may have to close for those who wait.
        settleSoon();
        backend.lost(seenGone);
      },
    };
  }

  function giveBack(tenant: Tenant): void {
    used -= 1;
    tenant.held -= 1;
    takeTurn(tenant);
    grant();
    forgetIfGone(tenant);
    settleSoon();
  }

  /** Gives the free slots to those whose turn it is. */
  function grant(): void {
    while (used < source.leased) {
      const tenant = emptyHanded.first ?? holders.first;
      const waiter = tenant?.waiters.first;
      if (!tenant || !waiter) return;
      tenant.queue?.remove(tenant);
      const slot = take(tenant);
      // It stands at the end again where more of its requests wait.
      dismiss(waiter);
      waiter.resolve(slot);
    }
  }

  /** Puts a tenant where it belongs among those that wait; it keeps its place where it stands there already. */
  function takeTurn(tenant: Tenant): void {
    const queue = tenant.held === 0 ? emptyHanded : holders;
    if (tenant.waiters.size === 0) tenant.queue?.remove(tenant);
    else if (tenant.queue !== queue) queue.push(tenant);
  }

  function wait(member: Member, timeoutMs: number): Promise<Slot> {
    const { tenant } = member;
    return new Promise((resolve, reject) => {
      const waiter = new Waiter(member, now(), resolve, reject);
      waiter.timer = setTimeout(() => {
        void giveUp(waiter);
      }, timeoutMs);
      tenant.waiters.push(waiter);
      waiting += 1;
      takeTurn(tenant);
      settleSoon();
    });
  }

  async function giveUp(waiter: Waiter): Promise<void> {
    await nextTurn();
    // Served in the last moment.
    if (waiter.queue === undefined) return;
    counted.timedOut += 1;
    dismiss(waiter);
    waiter.reject(new DatabaseFault('busy', 'no connection slot became free in time'));
  }

  /** Takes a request that is answered out of the queue. */
  function dismiss(waiter: Waiter): void {
    const { tenant } = waiter.member;
    clearTimeout(waiter.timer);
    tenant.waiters.remove(waiter);
    waiting -= 1;
    takeTurn(tenant);
    settleSoon();
  }

  function reject(waiters: Iterable<Waiter>, fault: DatabaseFault): void {
    for (const waiter of waiters) {
      dismiss(waiter);
      waiter.reject(fault);
    }
  }

  function rejectAll(fault: DatabaseFault): void {
    for (const { waiters } of tenants.values()) reject(waiters, fault);
  }

  /**
   * Asks for as many connections to close, and for as many leases, as those who wait need. Not at once: a pool that tells
   * of an unused connection is in the middle of something, and must not be called back from there.
   */
  function settleSoon(): void {
    if (settling) return;
    settling = true;
    queueMicrotask(settle);
  }

  function settle(): void {
    settling = false;
    if (wanted !== waiting) {
      wanted = waiting;
      source.want(wanted);
    }
    // What is over the leases goes in any case.
    const owed = (): number => (source.asking === true ? 0 : waiting);
    while (idle.first && owed() > coming()) evict(idle.first);
  }

  function evict(member: Member): void {
    const { tenant } = member;
    const { held } = tenant;
    const { closing: before } = tenant;
    if (member.closeIdle()) counted.evictions += 1;
    // It has none any more, or closes nothing: it says so when it has one again.
    if (tenant.closing <= before && tenant.held >= held) idle.remove(member);
  }

  function yields(tenant: Tenant): boolean {
    // While somebody has an unused connection that one goes, and it has been asked to or is about to be.
    if (closed || waiting <= coming() || idle.size > 0) return false;
    if (tenant.closing + tenant.unknown >= tenant.held) return false;
    if (coming() >= 0 && !hasPoorer(tenant)) return false;
    counted.yields += 1;
    return true;
  }

  /** Whether another tenant has waited long enough for what this one should give up. */
  function hasPoorer(tenant: Tenant): boolean {
    const time = now();
    if (time - tenant.grantedAt < YIELD_QUANTUM) return false;
    const waited = ({ waiters: { first } }: Tenant): boolean =>
      first !== undefined && time - first.since >= YIELD_QUANTUM;
    // The first of those with empty hands get what is coming already.
    let ahead = coming();
    if (emptyHanded.size > ahead) {
      for (const other of emptyHanded) {
        if (ahead === 0) return waited(other);
        ahead -= 1;
      }
    }
    // Among those that hold some a connection changes hands only where that makes them more equal: the same connection
    // would otherwise go to and fro for ever. There are no more of them than slots, so that looking at each is bounded.
    const keeps = tenant.held - tenant.closing - 1;
    for (const other of holders) {
      if (other === tenant || other.held + ahead >= keeps || !waited(other)) continue;
      // Or the slot would go to whoever is next in turn, who may hold more than both.
      holders.unshift(other);
      return true;
    }
    return false;
  }

  function tenantOf(id: string): Tenant {
    let tenant = tenants.get(id);
    if (!tenant) {
      tenant = new Tenant(id);
      tenants.set(id, tenant);
    }
    return tenant;
  }

  function forgetIfGone(tenant: Tenant): void {
    if (tenant.members === 0 && tenant.held === 0) tenants.delete(tenant.id);
  }

  return {
    join(tenantId, closeIdle) {
      const tenant = tenantOf(tenantId);
      const member = new Member(tenant, closeIdle);
      tenant.members += 1;
      const free = (): boolean => !closed && !member.left && waiting === 0 && used < source.leased;
      return {
        tryOpen: () => (free() ? take(tenant) : undefined),

        async open(timeoutMs) {
          if (free()) return take(tenant);
          if (closed || member.left) throw new DatabaseFault('unavailable', 'the pool was closed');
          if (source.fault) throw source.fault;
          if (waiting >= maxWaiting || tenant.waiters.size >= maxWaitingPerTenant) {
            counted.refused += 1;
            throw new DatabaseFault('busy', 'too many requests wait for a connection slot');
          }
          return wait(member, timeoutMs);
        },

        idle(has) {
          if (!has) idle.remove(member);
          else if (member.queue === undefined && !member.left) {
            idle.push(member);
            if (waiting > coming()) settleSoon();
          }
        },

        mustYield: () => yields(tenant),

        refused: () => source.refused?.(),

        leave() {
          if (member.left) return;
          member.left = true;
          tenant.members -= 1;
          idle.remove(member);
          reject(
            [...tenant.waiters].filter((waiter) => waiter.member === member),
            new DatabaseFault('unavailable', 'the pool was closed'),
          );
          forgetIfGone(tenant);
        },
      };
    },

    waitingOf: (tenantId) => tenants.get(tenantId)?.waiters.size ?? 0,

    heldBy: (tenantId) => tenants.get(tenantId)?.held ?? 0,

    stats: () => ({
      leased: source.leased,
      used,
      highestUsed,
      closing,
      unknown,
      idleHolders: idle.size,
      waiting,
      ...counted,
    }),

    close() {
      closed = true;
      rejectAll(new DatabaseFault('unavailable', 'the connection governor was closed'));
    },
  };
}

function monotonic(): number {
  return performance.now();
}

function fixed(leased: number): SlotSource {
  return { leased, want: () => undefined, attach: () => undefined };
}
