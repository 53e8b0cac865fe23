// The connections of a pool besides its lane. It opens them, keeps the unused ones, and closes those that are idle for too long,
// too old, lost, or connected to the wrong server.
import type { Capacity } from './capacity.js';
import { addressOf, type Destination } from '../destinations.js';
import { connectFault, poolClosed } from '../database-fault.js';
import type { FoundServer } from './found-server.js';
import type { Opener } from './opening.js';
import type { PoolLimits, PoolOptions } from './pool-types.js';
import { Session } from './held-connection.js';
import type { Slot } from './slot.js';

/*
 * States of a session, and what changes them:
 *
 *     (opened)      → in use    the request that it was opened for gets it; opened to check for writes, it becomes idle
 *     in use        → idle      it is given back, and no request waits
 *     idle          → in use    a request takes the session that came back last, so that the others grow old and are closed
 *     in use        → retired   it leads to the wrong server, is too old, or a table has changed since it was opened: it is closed
 *                               when it is given back
 *     in use        → cut       a statement is overdue, or the pool closes: what runs fails; the request still gives it back
 *     idle, retired → closing   it is retired and unused, its slot is needed elsewhere, it was idle for too long, or it was lost
 *     closing, cut  → closed    the connection has closed
 */

/** The client's deadline is this much (ms) after the server's, so that the server's deadline fires first if it can. */
const QUERY_TIMEOUT_MARGIN = 1_000;

/** Interval (ms) of the checks of deadlines and idle times, which is also their precision. */
const WATCH_EVERY = 250;

/** The parts of the pool that the sessions need. */
export interface SessionKeeperDeps {
  readonly capacity: Capacity;
  readonly opener: Opener;
  readonly found: FoundServer;
  readonly destination: Destination | undefined;
  /** Called when a session is given back, in whatever state it is. */
  readonly released: (session: Session) => void;
  /** Called when the number of idle sessions may have changed. */
  readonly idleChanged: () => void;
  /** Called at each check of deadlines and idle times. */
  readonly looked: () => void;
  /** Called when the server accepts writes again. */
  readonly takesWritesAgain: () => void;
}

export class SessionKeeper {
  readonly #idle: Session[] = [];
  #watch: NodeJS.Timeout | undefined;

  constructor(
    private readonly limits: PoolLimits,
    private readonly options: PoolOptions,
    private readonly deps: SessionKeeperDeps,
  ) {}

  /** Unused sessions. */
  get idle(): number {
    return this.#idle.length;
  }

  /** Takes an unused session, which is in use from then on. */
  takeIdle(): Session | undefined {
    const session = this.#idle.pop();
    if (session && this.#idle.length === 0) this.deps.idleChanged();
    return session;
  }

  keepIdle(session: Session): void {
    session.idleSince = performance.now();
    this.#idle.push(session);
    if (this.#idle.length === 1) this.deps.idleChanged();
  }

  /** Closes the session that has been idle for longest. Returns whether there was one. */
  closeIdle(): boolean {
    const session = this.#idle.shift();
    if (!session) return false;
    this.end(session);
    this.deps.idleChanged();
    return true;
  }

  /** @throws DatabaseFault, also when the pool was closed meanwhile; what the proof throws */
  async open(slot: Slot): Promise<Session> {
    const { capacity, opener, destination } = this.deps;
    const generation = destination?.generation;
    const client = await opener.open(slot);
    const { preparedStatements } = this.options;
    const queryTimeout = this.limits.timeout + QUERY_TIMEOUT_MARGIN;
    const session = new Session(client, preparedStatements, queryTimeout, {
      released: this.deps.released,
      cancelled: () => {
        if (this.options.departures) this.options.departures.cancelled += 1;
      },
      spoiled: () => {
        this.#outgrow();
      },
      tookNoWrite: () => destination?.tookNoWrite(),
    });
    this.#join(session, generation);
    client.on('error', (error) => {
      this.#lose(session, error);
    });
    void client.closed.then((ending) => {
      client.discard();
      session.left?.();
      capacity.left(session, slot, ending);
    });
    capacity.opened(session, slot);
    if (client.backendId !== null) slot.reached(client.backendId);
    this.#watchOver();
    if (!capacity.closed) return session;
    this.end(session);
    throw poolClosed();
  }

  /** Closes a session that is unused, or was given back and is no longer usable. */
  end(session: Session): void {
    this.deps.capacity.closing(session);
    session.client.discard();
  }

  /** Retires the sessions that were found read-only. They would refuse writes until they close. */
  retireReadOnly(): void {
    for (const session of this.deps.capacity.sessions) if (session.readOnly) this.#retire(session);
  }

  /** Called when the pool closes: closes idle sessions, and cuts those in use. */
  endAll(): void {
    clearInterval(this.#watch);
    for (const session of this.#idle.splice(0)) this.end(session);
    for (const session of this.deps.capacity.sessions) if (!session.client.closing) session.cut(poolClosed());
  }

  /** @param generation of the destination when the connection began to open */
  #join(session: Session, generation: number | undefined): void {
    const { destination, found } = this.deps;
    const { client } = session;
    session.readOnly = found.isReadOnly(client);
    if (!session.readOnly && found.takesWritesAgain()) this.deps.takesWritesAgain();
    if (!destination) return;
    session.expiresAt = performance.now() + destination.lifetime();
    session.left = destination.join({
      address: addressOf(client),
      server: found.serverOf(client),
      takesWrites: !session.readOnly,
      retire: () => {
        this.#retire(session);
      },
    });
    if (generation !== destination.generation) session.retired = true;
  }

  /** After DDL: what runs again must not meet a connection whose prepared statements do not fit either. */
  #outgrow(): void {
    for (const session of this.deps.capacity.sessions) {
      session.outgrown = true;
      this.#retire(session);
    }
  }

  #retire(session: Session): void {
    session.retired = true;
    this.#endIdle(session);
  }

  #lose(session: Session, error: Error): void {
    if (this.#endIdle(session)) this.options.onConnectionLost?.(connectFault(error));
  }

  /** Closes a session if it is idle. Returns whether it was. */
  #endIdle(session: Session): boolean {
    const index = this.#idle.indexOf(session);
    if (index === -1) return false;
    this.#idle.splice(index, 1);
    this.end(session);
    this.deps.idleChanged();
    return true;
  }

  /** One timer for the whole pool. A timer for each statement would cost more than handing out sessions. */
  #watchOver(): void {
    this.#watch ??= setInterval(
      () => {
        const now = performance.now();
        for (const session of this.deps.capacity.sessions) {
          session.checkDeadline(now);
          if (now > session.expiresAt) this.#retire(session);
        }
        this.#lookForWrites(now);
        this.deps.looked();
        const old = this.#idle.findIndex(({ idleSince }) => now - idleSince < this.limits.idleTimeoutMillis);
        for (const session of this.#idle.splice(0, old === -1 ? this.#idle.length : old)) this.end(session);
        if (this.#idle.length === 0) this.deps.idleChanged();
        if (!this.deps.capacity.sessions.next().done) return;
        clearInterval(this.#watch);
        this.#watch = undefined;
      },
      Math.min(WATCH_EVERY, this.limits.idleTimeoutMillis / 2),
    ).unref();
  }

  /** While sessions are read-only, opens another one a second to check whether the server accepts writes again. */
  #lookForWrites(now: number): void {
    const { capacity, found } = this.deps;
    if (!found.lookIsDue(now)) return;
    const known = [...capacity.sessions].find((session) => session.readOnly && !session.retired);
    if (!known || capacity.closed) return;
    found.looked(now);
    const slot = capacity.takeSlot();
    // A read-only session makes room. The next check, or the next request, opens the connection.
    if (!slot) {
      this.#retire(known);
      return;
    }
    this.open(slot).then(
      (session) => {
        if (session.readOnly) this.end(session);
        else this.deps.released(session);
      },
      () => undefined,
    );
  }
}
