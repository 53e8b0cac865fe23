// A pool of connections to one database. It decides which request gets which connection, and what happens to a connection that is
// given back.
//
// Short reads share one pipelined connection, the lane (db/driver/lane/lane.ts). Any other work has a connection to itself until
// it is done. A pg Pool opens and keeps the clients (db/driver/pool/pooled-client.ts). The governor of the server admits each of
// them (db/driver/pool/slot.ts).
import type pg from 'pg';
import { Capacity } from './capacity.js';
import { CLOSE_MARGIN } from '../connection.js';
import { within } from '../../../src/lib/deadline.js';
import { ClientLeft, type Requester } from '../../../src/lib/requester.js';
import { connectFault, DatabaseFault, isServerFull, poolClosed, TOO_MANY_CONNECTIONS } from '../database-fault.js';
import { FoundServer } from './found-server.js';
import { LaneKeeper } from '../lane/lane-keeper.js';
import { Opener } from './opening.js';
import type { PoolLimits, PoolOptions, PoolStats } from './pool-types.js';
import type { Session } from './held-connection.js';
import { SessionKeeper } from './session-keeper.js';
import { withdrawn, type Membership, type Slot } from './slot.js';
import { WaitingQueue } from './waiting.js';

/*
 * A request for a connection gets the first of these that is possible:
 * - an idle session
 * - a session that is opened in a slot which is free now
 * - after a wait: the first session that is given back, or a session that is opened in a slot which is granted later
 *
 * States of the pool, and what changes them:
 *
 *     open     → draining   close(): requests go on as before
 *     draining → closed     nothing is in use, or the time is up; connections still in use are cut
 */

/**
 * How many requests may wait, per connection of the pool. Further requests are refused at once, so that the queue stays short.
 */
const WAITING_PER_CONNECTION = 100;

/** Interval (ms) of the checks whether a pool that closes still has a connection in use. */
const DRAIN_LOOK_EVERY = 10;

export class ConnectionPool {
  readonly #admission: Membership | undefined;
  readonly #capacity: Capacity;
  readonly #sessions: SessionKeeper;
  readonly #lane: LaneKeeper;
  readonly #opener: Opener;
  readonly #waiting = new WaitingQueue();
  /** What new connections found out about the server. */
  readonly #found = new FoundServer();
  #reportedIdle = false;
  #closing: Promise<void> | undefined;
  /** Set by close(); called when no connection is left. */
  #onEmpty: (() => void) | undefined;

  constructor(
    config: pg.ClientConfig,
    private readonly limits: PoolLimits,
    private readonly options: PoolOptions,
  ) {
    const { password, applicationName } = options;
    const { host, port } = config;
    const destination = host !== undefined && port !== undefined ? options.destinations?.at({ host, port }) : undefined;
    const stream = destination?.stream;
    const ownConfig = {
      ...config,
      ...(password && { password: () => password.current }),
      ...(stream && { stream }),
      application_name: applicationName,
    };
    this.#admission = options.admit?.(() => this.closeIdle());
    this.#capacity = new Capacity(limits, options, this.#admission, () => {
      this.#serve();
    });
    const shared = {
      capacity: this.#capacity,
      found: this.#found,
      admission: this.#admission,
      destination,
      idleChanged: () => {
        this.#reportIdle();
      },
    };
    const opener = new Opener(ownConfig, limits, options, {
      ...shared,
      closeLane: () => {
        this.#lane.close();
      },
    });
    this.#opener = opener;
    this.#sessions = new SessionKeeper(limits, options, {
      ...shared,
      opener,
      released: (session) => {
        this.#release(session);
      },
      looked: () => {
        // The pause after a refusal by the role's limit may be over.
        this.#askForSlots();
      },
      takesWritesAgain: () => {
        this.#sessions.retireReadOnly();
        this.#lane.closeReadOnly();
      },
    });
    this.#lane = new LaneKeeper(ownConfig, limits, options, {
      ...shared,
      opener,
      waiting: this.#waiting,
      run: (text, values, requester, deadline) => this.run(text, values, requester, deadline),
    });
  }

  /**
   * A connection that only the caller uses, until it is released.
   *
   * @param deadline end of the wait, on `performance.now`
   * @param requester ends its wait when it leaves
   * @throws DatabaseFault `busy` if none becomes free in time, `unavailable` if the server cannot be reached; ClientLeft
   */
  async connect(deadline = this.#acquireDeadline, requester?: Requester): Promise<Session> {
    if (requester?.destroyed) throw new ClientLeft();
    const idle = this.#sessions.takeIdle();
    if (idle) return idle;
    if (this.#capacity.closed) throw poolClosed();
    this.#found.refuseAgain();
    const slot = this.#capacity.takeSlot();
    if (slot) return this.#openOrWait(slot, deadline, requester);
    if (this.#waiting.length >= this.limits.max * WAITING_PER_CONNECTION)
      throw new DatabaseFault('busy', 'too many requests wait for a connection');
    return this.#wait(deadline, requester);
  }

  /**
   * Runs one short statement that changes nothing, on the lane if possible.
   *
   * @throws DatabaseFault, or the server's error; ClientLeft
   */
  read<R>(text: string, values: readonly unknown[], requester?: Requester): Promise<R[]> {
    return this.#lane.read<R>(text, values, requester);
  }

  /**
   * Runs one statement on a connection of its own.
   *
   * @param requester given for a statement that changes nothing: it is cancelled when the requester leaves
   * @throws DatabaseFault, or the server's error; ClientLeft
   */
  async run<R>(text: string, values: readonly unknown[], requester?: Requester, deadline?: number): Promise<R[]> {
    if (requester?.destroyed) throw new ClientLeft();
    const session = this.#sessions.takeIdle() ?? (await this.connect(deadline, requester));
    try {
      const { rows } = await (requester ? session.runFor<R>(requester, text, values) : session.run<R>(text, values));
      return rows;
    } finally {
      session.release();
    }
  }

  /** Called by Kysely's destroy(). */
  end(): Promise<void> {
    return this.close(0);
  }

  stats(): PoolStats {
    const { present, unknown } = this.#capacity;
    const idle = this.#sessions.idle + (this.#lane.isIdle ? 1 : 0);
    return { total: present, idle, unknown, waiting: this.#waiting.length + this.#lane.waiting };
  }

  /** Closes one unused connection. Returns whether there was one. */
  closeIdle(): boolean {
    return this.#sessions.closeIdle() || this.#lane.closeIdle();
  }

  /**
   * Lets running work finish, for at most `deadlineMs`, then closes every connection. Connections that are still in use or
   * opening after the deadline are cut. Never rejects.
   */
  close(deadlineMs: number): Promise<void> {
    this.#closing ??= this.#close(deadlineMs);
    return this.#closing;
  }

  async #close(deadlineMs: number): Promise<void> {
    const deadline = performance.now() + deadlineMs;
    const inUse = (): boolean => {
      const { total, idle, waiting } = this.stats();
      return waiting > 0 || idle < total;
    };
    while (inUse() && performance.now() < deadline)
      await new Promise((resolve) => setTimeout(resolve, DRAIN_LOOK_EVERY));
    this.#capacity.closed = true;
    this.#waiting.rejectAll(poolClosed);
    this.#lane.end();
    this.#sessions.endAll();
    this.#opener.end();
    // A request that is between two statements of a transaction gives its session back only with its next statement. Its
    // connection is gone already, and the pool does not wait for the request.
    if (this.#capacity.present > 0) {
      const empty = new Promise<void>((resolve) => (this.#onEmpty = resolve));
      await within(empty, CLOSE_MARGIN, poolClosed).catch(() => undefined);
    }
    this.#admission?.leave();
  }

  get #acquireDeadline(): number {
    return performance.now() + this.limits.acquireTimeout;
  }

  async #wait(deadline: number, requester?: Requester): Promise<Session> {
    const served = this.#waiting.wait(deadline, requester);
    this.#askForSlots();
    try {
      return await served;
    } catch (error) {
      // Otherwise connections of other tenants would be closed for a slot that no request needs.
      if (error instanceof ClientLeft) this.#capacity.withdrawSlots(this, this.#waiting.length);
      // The layers above name the limit in the answer.
      const busy = error instanceof DatabaseFault && error.kind === 'busy';
      throw busy && this.#capacity.isRefused ? new DatabaseFault('unavailable', TOO_MANY_CONNECTIONS) : error;
    }
  }

  /** Asks for one slot for each waiting request that can still get a connection of this pool. */
  #askForSlots(): void {
    const capacity = this.#capacity;
    while (capacity.awaited < this.#waiting.length && capacity.hasRoomToAsk) {
      capacity.awaited += 1;
      capacity.openSlot(this).then(
        (slot) => {
          capacity.awaited -= 1;
          this.#serve(slot);
        },
        (error: unknown) => {
          if (error === withdrawn) return;
          capacity.awaited -= 1;
          // A request that can still get a present connection of this pool keeps waiting.
          if (capacity.present === 0) this.#waiting.rejectFirst(connectFault(error));
        },
      );
    }
  }

  /** Serves the waiting requests after a connection has closed, or with the slot that was granted. */
  #serve(slot?: Slot): void {
    if (this.#capacity.present === 0) this.#onEmpty?.();
    if (slot) {
      const taken =
        !this.#capacity.closed && this.#waiting.open((deadline, asker) => this.#openOrWait(slot, deadline, asker));
      if (!taken) slot.release();
    }
    if (this.#waiting.length > 0) this.#askForSlots();
    this.#reportIdle();
  }

  /** Opens a connection. If the role or the server has no room for it, waits for the next free connection. */
  async #openOrWait(slot: Slot, deadline: number, requester?: Requester): Promise<Session> {
    try {
      return await this.#sessions.open(slot);
    } catch (error) {
      const full = isServerFull(error) && this.#admission !== undefined && !this.options.failsWhenFull;
      const refused = error instanceof DatabaseFault && error.reason === TOO_MANY_CONNECTIONS;
      const another = full || (refused && this.#capacity.isAtLimit);
      if (another && !this.#capacity.closed && performance.now() < deadline) return this.#wait(deadline, requester);
      throw error;
    }
  }

  /** A session that was given back goes to the next request, or becomes idle, or is closed if it is no longer usable. */
  #release(session: Session): void {
    if (session.fault || this.options.successes?.wanted !== false)
      this.options.onOutcome?.(session.fault, session.askedAt, false);
    const isUseless = !session.clean || session.retired || this.#capacity.closed;
    if (isUseless || (this.#admission?.mustYield() ?? false)) this.#sessions.end(session);
    else if (!this.#waiting.give(session)) this.#sessions.keepIdle(session);
  }

  /** Notifies admission when the pool gets its first unused connection, and when the last one is gone. */
  #reportIdle(): void {
    if (!this.#admission) return;
    const has = this.#sessions.idle > 0 || this.#lane.isIdle;
    if (has === this.#reportedIdle) return;
    this.#reportedIdle = has;
    this.#admission.idle(has);
  }
}
