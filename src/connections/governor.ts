// The connection governor admits connections to one PostgreSQL server. The tenant pools of this process together never hold more
// than the process's share of that server.
//
// When slots are scarce, the governor closes unused connections for waiting requests. The connection that has been unused for
// longest goes first. Waiting tenants take turns (src/connections/slot-queue.ts). A tenant that keeps its connections busy yields
// some to a tenant that has fewer.
//
// The states of a slot are in src/connections/counted-slot.ts, those of a waiting tenant in src/connections/slot-queue.ts. A pool
// is in the queue `idle` while it has an unused connection.
import { DatabaseFault } from '../../db/driver/database-fault.js';
import type { Slot } from '../../db/driver/pool/slot.js';
import { LinkedQueue, Queued } from '../lib/linked-queue.js';
import { noSlots, takeSlot } from './counted-slot.js';
import type { Governor, GovernorOptions, SlotSource } from './governor-types.js';
import { SlotQueue, SlotTenant } from './slot-queue.js';

/** A pool. It is queued in `idle` while it has an unused connection. */
class Member extends Queued<Member> {
  left = false;

  constructor(
    readonly tenant: SlotTenant,
    readonly closeIdle: () => boolean,
  ) {
    super();
  }
}

export function createGovernor(options: GovernorOptions): Governor {
  const { backends, maxWaiting, maxWaitingPerTenant, now = monotonic } = options;
  const source = typeof options.slots === 'number' ? fixed(options.slots) : options.slots;
  const queue = new SlotQueue({ maxWaiting, maxWaitingPerTenant, now, onChange: settleSoon });
  const tenants = new Map<string, SlotTenant>();
  /** Pools with an unused connection, in the order in which they entered the queue. */
  const idle = new LinkedQueue<Member>();
  const slots = noSlots();
  const counted = { evictions: 0, yields: 0 };
  let highestUsed = 0;
  /** The last number given to `source.want`. */
  let wanted = 0;
  let settling = false;
  let closed = false;

  source.attach({
    get used() {
      return slots.used;
    },
    changed() {
      grant();
      const { fault } = source;
      if (fault) rejectAll(fault);
      settleSoon();
    },
  });

  /** Slots that waiting requests will get without closing another connection; below zero if too many slots are used. */
  function coming(): number {
    return source.leased - slots.used + slots.closing;
  }

  function take(tenant: SlotTenant): Slot {
    tenant.grantedAt = now();
    const taken = takeSlot([slots, tenant.slots], backends?.track(), {
      freed() {
        queue.place(tenant);
        grant();
        forgetIfGone(tenant);
        settleSoon();
      },
      // The waiting requests may need another connection to close.
      unknown: settleSoon,
    });
    highestUsed = Math.max(highestUsed, slots.used);
    return taken;
  }

  /** Gives the free slots to the waiting tenants, in turn. */
  function grant(): void {
    while (slots.used < source.leased) {
      const tenant = queue.next;
      if (!tenant) return;
      queue.serve(tenant, take(tenant));
    }
  }

  function rejectAll(fault: DatabaseFault): void {
    for (const tenant of tenants.values()) queue.reject(tenant, fault);
  }

  /**
   * Asks for as many closed connections, and for as many leases, as the waiting requests need. This is delayed: a pool that
   * reports an unused connection is in the middle of its own work, and must not be called back there.
   */
  function settleSoon(): void {
    if (settling) return;
    settling = true;
    queueMicrotask(settle);
  }

  function settle(): void {
    settling = false;
    if (wanted !== queue.size) {
      wanted = queue.size;
      source.want(wanted);
    }
    // Connections beyond the leases must close in any case.
    const owed = (): number => (source.asking === true ? 0 : queue.size);
    while (idle.first && owed() > coming()) evict(idle.first);
  }

  function evict(member: Member): void {
    const { slots } = member.tenant;
    const before = { ...slots };
    if (member.closeIdle()) counted.evictions += 1;
    // The pool has no unused connection any more, or closes none. It joins the queue again when it reports one.
    if (slots.closing <= before.closing && slots.used >= before.used) idle.remove(member);
  }

  function yields(tenant: SlotTenant): boolean {
    // If any pool has an unused connection, that connection closes instead. It was asked to close, or soon will be.
    if (closed || queue.size <= coming() || idle.size > 0) return false;
    if (tenant.slots.closing + tenant.slots.unknown >= tenant.slots.used) return false;
    if (coming() >= 0 && !queue.hasPoorer(tenant, coming())) return false;
    counted.yields += 1;
    return true;
  }

  function tenantOf(id: string): SlotTenant {
    let tenant = tenants.get(id);
    if (!tenant) {
      tenant = new SlotTenant(id);
      tenants.set(id, tenant);
    }
    return tenant;
  }

  function forgetIfGone(tenant: SlotTenant): void {
    if (tenant.members === 0 && tenant.slots.used === 0) tenants.delete(tenant.id);
  }

  return {
    join(tenantId, closeIdle) {
      const tenant = tenantOf(tenantId);
      const member = new Member(tenant, closeIdle);
      tenant.members += 1;
      const free = (): boolean => !closed && !member.left && queue.size === 0 && slots.used < source.leased;
      return {
        tryOpen: () => (free() ? take(tenant) : undefined),

        async open(timeoutMs, purpose) {
          if (free()) return take(tenant);
          if (closed || member.left) throw new DatabaseFault('unavailable', 'the pool was closed');
          if (source.fault) throw source.fault;
          return queue.wait(tenant, member, timeoutMs, purpose);
        },

        withdraw: (purpose) => queue.withdraw(tenant, member, purpose),

        idle(has) {
          if (!has) idle.remove(member);
          else if (member.queue === undefined && !member.left) {
            idle.push(member);
            if (queue.size > coming()) settleSoon();
          }
        },

        mustYield: () => yields(tenant),

        refused: () => source.refused?.(),

        leave() {
          if (member.left) return;
          member.left = true;
          tenant.members -= 1;
          idle.remove(member);
          queue.reject(tenant, new DatabaseFault('unavailable', 'the pool was closed'), member);
          forgetIfGone(tenant);
        },
      };
    },

    waitingOf: (tenantId) => tenants.get(tenantId)?.waiters.size ?? 0,

    heldBy: (tenantId) => tenants.get(tenantId)?.slots.used ?? 0,

    stats: () => ({
      leased: source.leased,
      used: slots.used,
      highestUsed,
      closing: slots.closing,
      unknown: slots.unknown,
      idleHolders: idle.size,
      waiting: queue.size,
      ...counted,
      ...queue.counted,
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
