// The connections that a pool holds, by state, and whether it may open one more.
import type { Ending } from '../connection.js';
import type { PoolLimits, PoolOptions } from './pool-types.js';
import type { Session } from './held-connection.js';
import { unlimitedSlot, type Membership, type Slot } from './slot.js';

/*
 * States of a slot in a pool, and what changes them:
 *
 *     awaited  → opening    it was granted, and a connection is opened in it
 *     awaited  → lane       it was granted, and the lane is opened in it
 *     opening  → session    the connection is open and proved
 *     opening  → closed     it could not be opened, and no other attempt can use this slot (db/driver/pool/opening.ts)
 *     session  → closed     its connection has closed
 *     lane     → closed     its connection has closed, or could not be opened
 *     closed   → free       the server's backend is gone too
 *     closed   → unknown    the backend may live on
 *     unknown  → free       admission has seen that the backend is gone
 */

/** After the role was refused another connection, the pool uses only its present connections for this long (ms). */
const AT_LIMIT_FOR = 1_000;

/**
 * A pool without connections pauses (ms) after each such refusal, twice as long each time. The pauses are random, so that the
 * replicas that share the limit do not try together.
 */
const REFUSED_PAUSE = { min: 50, max: 500 };

export class Capacity {
  /** Whether the pool may have a lane. */
  readonly lanePossible: boolean;
  /** Slots that were requested for waiting requests, and have not been granted yet. */
  awaited = 0;
  /** Whether the lane has a slot, also while the lane opens or closes. */
  laneHeld = false;
  /** Set when the pool has closed and waits no longer. Then it opens nothing, and hands out no connection that becomes ready. */
  closed = false;
  readonly #sessions = new Map<Session, Slot>();
  #opening = 0;
  #unknown = 0;
  #atLimitUntil = 0;
  /** Refusals of the role since a connection was last opened, if the pool had none to use instead. */
  #refusals = 0;
  #pause: NodeJS.Timeout | undefined;

  /** @param freed called when a connection has closed, when an unknown backend is gone, and after a pause */
  constructor(
    private readonly limits: PoolLimits,
    { lane, preparedStatements }: Pick<PoolOptions, 'lane' | 'preparedStatements'>,
    private readonly admission: Membership | undefined,
    private readonly freed: () => void,
  ) {
    this.lanePossible = lane === true && preparedStatements && limits.max > 1;
  }

  /** Connections that are open or closing. The lane and connections that are opening do not count. */
  get sessions(): MapIterator<Session> {
    return this.#sessions.keys();
  }

  /** Connections that this process has open, is opening or is closing. */
  get present(): number {
    return this.#sessions.size + this.#opening + (this.laneHeld ? 1 : 0);
  }

  /** Slots in which a connection is opening, or is closing because it could not be opened. */
  get opening(): number {
    return this.#opening;
  }

  /** Backends that may live on after their connection has closed. */
  get unknown(): number {
    return this.#unknown;
  }

  /** Whether the pool has a working connection besides the lane. */
  get hasSession(): boolean {
    for (const session of this.#sessions.keys())
      if (!session.fault && !session.retired && !session.client.closing) return true;
    return false;
  }

  /**
   * Whether requests wait because of the role's limit. Either the role was refused another connection a moment ago, and the pool
   * has one that requests can use in turn. Or it was refused one, and the pool has none.
   */
  get isAtLimit(): boolean {
    return this.isRefused || (performance.now() < this.#atLimitUntil && this.hasSession);
  }

  /** Whether the role was refused a connection, and no connection could be opened since. */
  get isRefused(): boolean {
    return this.#refusals > 0;
  }

  /** Whether one more slot may be requested for a waiting request. */
  get hasRoomToAsk(): boolean {
    return this.#total + this.awaited < this.#max && !this.closed;
  }

  /** Whether the pool has no place for another connection. Then no slot is requested. */
  get isFull(): boolean {
    return this.#total >= this.limits.max;
  }

  /** Whether the lane may be opened. A former lane that is closing still holds the connection that is kept free for the lane. */
  get hasRoomForLane(): boolean {
    return !this.laneHeld && !this.isFull;
  }

  /** A slot for a connection, if the pool has room for it and one is free now. */
  takeSlot(): Slot | undefined {
    return this.#total < this.#max ? this.tryOpen() : undefined;
  }

  /** A slot, if one is free now, whatever the pool's own bound. */
  tryOpen(): Slot | undefined {
    return this.admission ? this.admission.tryOpen() : unlimitedSlot;
  }

  /** A slot as soon as one is free. @throws DatabaseFault `busy` */
  async openSlot(purpose?: object): Promise<Slot> {
    return this.admission ? this.admission.open(this.limits.acquireTimeout, purpose) : unlimitedSlot;
  }

  /** Gives up requests for slots of that purpose until only `needed` are awaited. */
  withdrawSlots(purpose: object, needed: number): void {
    while (this.awaited > needed && this.admission?.withdraw?.(purpose)) this.awaited -= 1;
  }

  /** A connection is about to be opened; `opened` or `notOpened` must follow. */
  beginOpening(): void {
    this.#opening += 1;
  }

  opened(session: Session, slot: Slot): void {
    this.#opening -= 1;
    this.#refusals = 0;
    this.#sessions.set(session, slot);
  }

  notOpened(slot: Slot, ending: Ending): void {
    this.#opening -= 1;
    this.#settle(slot, ending);
  }

  /** The session's connection begins to close. */
  closing(session: Session): void {
    this.#sessions.get(session)?.closing();
  }

  /** The session's connection has closed. */
  left(session: Session, slot: Slot, ending: Ending): void {
    this.#sessions.delete(session);
    this.#settle(slot, ending);
  }

  /** The lane's connection has closed, or could not be opened. */
  laneLeft(slot: Slot, ending: Ending): void {
    this.laneHeld = false;
    this.#settle(slot, ending);
  }

  /** The role was refused one more connection. */
  reachedLimit(): void {
    if (this.hasSession) {
      this.#atLimitUntil = performance.now() + AT_LIMIT_FOR;
      return;
    }
    // Connections that were asked for together are refused together: that is one refusal.
    if (this.#pause !== undefined) return;
    const pause = Math.min(REFUSED_PAUSE.max, REFUSED_PAUSE.min * 2 ** this.#refusals) * (0.5 + Math.random());
    this.#refusals += 1;
    this.#pause = setTimeout(() => {
      this.#pause = undefined;
      this.freed();
    }, pause).unref();
  }

  /** What counts towards the pool's bound. */
  get #total(): number {
    return this.present + this.#unknown;
  }

  /** One connection is kept free for the lane, but not while backends are unknown. */
  get #max(): number {
    if (this.#refusals > 0 && !this.hasSession) {
      const oneMore = this.#pause === undefined && this.#opening + this.awaited === 0;
      return Math.min(this.limits.max, this.#total + (oneMore ? 1 : 0));
    }
    if (performance.now() < this.#atLimitUntil && this.hasSession) return this.#total;
    return this.limits.max - (this.lanePossible && !this.laneHeld && this.#unknown === 0 ? 1 : 0);
  }

  #settle(slot: Slot, ending: Ending): void {
    if (ending === 'gone') slot.release();
    else {
      this.#unknown += 1;
      slot.orphan(() => {
        this.#unknown -= 1;
        this.freed();
      });
    }
    this.freed();
  }
}
