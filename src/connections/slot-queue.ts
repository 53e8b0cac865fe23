// The requests that wait for a connection slot, and whose turn it is. Tenants take turns. Tenants that hold no slot go before
// tenants that hold some. The requests of one tenant are served in the order in which they came.
//
// A tenant, from here. It moves when a request of the tenant comes, is served or ends, and when a slot of the tenant becomes
// free:
//
//     away ── a request waits ──▶ empty-handed, or holding if it holds a slot; at the end
//     empty-handed, holding ── served ──▶ holding, at the end, if more of its requests wait; away otherwise
//     empty-handed, holding ── its last request has ended ──▶ away
//     holding ── it holds no slot any more ──▶ empty-handed, at the end
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { withdrawn, type Slot } from '../../db/driver/pool/slot.js';
import { nextTurn } from '../lib/turns.js';
import { LinkedQueue, Queued } from '../lib/linked-queue.js';
import { noSlots } from './counted-slot.js';

/**
 * A busy connection is closed for another tenant only if that tenant has waited for this long (ms). This long must also have
 * passed since the newest grant to the connection's own tenant. Otherwise, if more tenants are busy than there are slots, a
 * connection would be opened for every request.
 */
export const YIELD_QUANTUM = 20;

const MAX_WAITING = 10_000;
const MAX_WAITING_PER_TENANT = 1_000;

/** A tenant with a pool or a slot. It is queued while requests of the tenant wait. */
export class SlotTenant extends Queued<SlotTenant> {
  /** Pools that have joined and not left. */
  members = 0;
  readonly slots = noSlots();
  /** When the tenant was last given a slot. */
  grantedAt = -Infinity;
  readonly waiters = new LinkedQueue<Waiter>();

  constructor(readonly id: string) {
    super();
  }
}

/** A request for a slot. It is queued among the requests of its tenant. */
class Waiter extends Queued<Waiter> {
  timer: NodeJS.Timeout | undefined;

  constructor(
    readonly tenant: SlotTenant,
    readonly asker: object,
    readonly purpose: object | undefined,
    readonly since: number,
    readonly resolve: (slot: Slot) => void,
    readonly reject: (error: DatabaseFault) => void,
  ) {
    super();
  }
}

export interface SlotQueueOptions {
  /** Requests of all tenants together that may wait. Default 10,000. */
  readonly maxWaiting?: number | undefined;
  /** The same limit for one tenant. Default 1,000. */
  readonly maxWaitingPerTenant?: number | undefined;
  /** Milliseconds on a clock that never goes back. */
  readonly now: () => number;
  /** Called when more or fewer requests wait. */
  readonly onChange: () => void;
}

export class SlotQueue {
  /** Tenants that wait and hold no slot. They go before tenants that hold some, which at least make progress. */
  readonly #emptyHanded = new LinkedQueue<SlotTenant>();
  /** Tenants that wait and hold at least one slot. */
  readonly #holders = new LinkedQueue<SlotTenant>();
  #size = 0;
  #refused = 0;
  #timedOut = 0;

  constructor(private readonly options: SlotQueueOptions) {}

  /** Requests that wait. */
  get size(): number {
    return this.#size;
  }

  /** Requests refused at once, and requests that got no slot within their timeout. */
  get counted(): { readonly refused: number; readonly timedOut: number } {
    return { refused: this.#refused, timedOut: this.#timedOut };
  }

  /** The tenant whose turn it is; undefined while no request waits. */
  get next(): SlotTenant | undefined {
    return this.#emptyHanded.first ?? this.#holders.first;
  }

  /**
   * Resolves to a slot when it is the turn of this request.
   *
   * @param asker identifies the caller, for `reject`
   * @param purpose identifies requests of the caller, for `withdraw`
   * @throws DatabaseFault `busy` if too many requests wait already, or the request has waited for `timeoutMs`
   */
  wait(tenant: SlotTenant, asker: object, timeoutMs: number, purpose?: object): Promise<Slot> {
    const { maxWaiting = MAX_WAITING, maxWaitingPerTenant = MAX_WAITING_PER_TENANT, now, onChange } = this.options;
    if (this.#size >= maxWaiting || tenant.waiters.size >= maxWaitingPerTenant) {
      this.#refused += 1;
      return Promise.reject(new DatabaseFault('busy', 'too many requests wait for a connection slot'));
    }
    return new Promise((resolve, reject) => {
      const waiter = new Waiter(tenant, asker, purpose, now(), resolve, reject);
      waiter.timer = setTimeout(() => {
        void this.#giveUp(waiter);
      }, timeoutMs);
      tenant.waiters.push(waiter);
      this.#size += 1;
      this.place(tenant);
      onChange();
    });
  }

  /** Gives a slot to the tenant's first request. The slot must be counted already. */
  serve(tenant: SlotTenant, slot: Slot): void {
    const waiter = tenant.waiters.first;
    if (!waiter) throw new Error('no request of this tenant waits for a slot');
    tenant.queue?.remove(tenant);
    // This puts the tenant at the end of the queue if more of its requests wait.
    this.#dismiss(waiter);
    waiter.resolve(slot);
  }

  /** Rejects the waiting requests of a tenant, or only those of one asker. */
  reject(tenant: SlotTenant, fault: DatabaseFault, asker?: object): void {
    for (const waiter of [...tenant.waiters]) {
      if (asker && waiter.asker !== asker) continue;
      this.#dismiss(waiter);
      waiter.reject(fault);
    }
  }

  /** Rejects the newest waiting request of an asker for a purpose. Returns whether there was one. */
  withdraw(tenant: SlotTenant, asker: object, purpose: object): boolean {
    for (let waiter = tenant.waiters.last; waiter; waiter = waiter.before) {
      if (waiter.asker !== asker || waiter.purpose !== purpose) continue;
      this.#dismiss(waiter);
      waiter.reject(withdrawn);
      return true;
    }
    return false;
  }

  /** Puts a tenant in its queue; it keeps its place if it can. Call this when the tenant holds a slot less. */
  place(tenant: SlotTenant): void {
    const queue = tenant.slots.used === 0 ? this.#emptyHanded : this.#holders;
    if (tenant.waiters.size === 0) tenant.queue?.remove(tenant);
    else if (tenant.queue !== queue) queue.push(tenant);
  }

  /**
   * Whether another tenant has waited long enough to get a connection that this tenant keeps busy. If so, that tenant is next.
   *
   * @param coming slots that requests will get without closing another connection
   */
  hasPoorer(tenant: SlotTenant, coming: number): boolean {
    const time = this.options.now();
    if (time - tenant.grantedAt < YIELD_QUANTUM) return false;
    const waited = ({ waiters: { first } }: SlotTenant): boolean =>
      first !== undefined && time - first.since >= YIELD_QUANTUM;
    // The first of the empty-handed tenants get the slots that are coming already.
    let ahead = coming;
    if (this.#emptyHanded.size > ahead) {
      for (const other of this.#emptyHanded) {
        if (ahead === 0) return waited(other);
        ahead -= 1;
      }
    }
    // Between tenants that hold slots, a connection changes hands only if their numbers of slots become more equal. Otherwise the
    // same connection would go back and forth for ever. There are no more such tenants than slots, so this loop is bounded.
    const keeps = tenant.slots.used - tenant.slots.closing - 1;
    for (const other of this.#holders) {
      if (other === tenant || other.slots.used + ahead >= keeps || !waited(other)) continue;
      // Otherwise the slot would go to the tenant whose turn is next, which may hold more slots than both.
      this.#holders.unshift(other);
      return true;
    }
    return false;
  }

  async #giveUp(waiter: Waiter): Promise<void> {
    await nextTurn();
    // The request was served in the last moment.
    if (waiter.queue === undefined) return;
    this.#timedOut += 1;
    this.#dismiss(waiter);
    waiter.reject(new DatabaseFault('busy', 'no connection slot became free in time'));
  }

  /** Takes an answered request out of the queue. */
  #dismiss(waiter: Waiter): void {
    clearTimeout(waiter.timer);
    waiter.tenant.waiters.remove(waiter);
    this.#size -= 1;
    this.place(waiter.tenant);
    this.options.onChange();
  }
}
