// A pool of connections to one database: pg's Pool with the failure modes closed that pg and Kysely leave open between them,
// and with a say in it for whoever counts the connections of the whole server. Short reads share one pipelined connection,
// the lane (db/lane.ts); everything else has a connection to itself for as long as it takes.
import pg from 'pg';
import { within } from './deadline.js';
import { addressOf, type Destination, type Destinations } from './destinations.js';
import { connectFault, DatabaseFault, hasSqlState, statementFault, Unproven } from './errors.js';
import { FoundServer } from './found-server.js';
import { Lane, type LaneQuery } from './lane.js';
import { Session } from './session.js';
import { statementName } from './statement-names.js';
import { nextTurn } from './turns.js';

/** Bounds of one pool. All times in milliseconds. */
export interface PoolLimits {
  /** Most connections open at once. */
  readonly max: number;
  /** Longest wait for a connection, its handshake included. */
  readonly acquireTimeout: number;
  /** Longest run of one statement, enforced by the server; the client gives up one second later. */
  readonly timeout: number;
  /** An unused connection closes after this time. */
  readonly idleTimeoutMillis: number;
}

/** The right to have one connection open. */
export interface Slot {
  /** To be called when the connection has closed. */
  release(): void;
}

/** Whoever decides whether one more connection may be opened. */
export interface Admission {
  /** A slot where one is free now. */
  tryOpen(): Slot | undefined;
  /** A slot as soon as one is free. @throws DatabaseFault `busy` when that takes too long or too many wait */
  open(timeoutMs: number): Promise<Slot>;
  /** The pool has a connection that nobody uses, or has none any more: what `closeIdle` would find. */
  idle(has: boolean): void;
  /** Asked when a connection is given back: whether it is to be closed, because somebody else needs its slot more. */
  mustYield(): boolean;
}

/** A pool's part in what admits connections. */
export interface Membership extends Admission {
  /** To be called once, when the pool has closed: nothing is admitted any more. Slots count until each is released. */
  leave(): void;
}

/** A password that may be changed while the pool lives. */
export interface ChangingPassword {
  readonly current: string;
  /** The server did not take this one. Whether another is `current` now, with which to try again. Never rejects. */
  refused(password: string): Promise<boolean>;
}

/** What a new connection was found to be. */
export interface Proof {
  /** Whether its server, or its role, takes no writes. */
  readonly readOnly: boolean;
}

export interface PoolOptions {
  /** Shown in pg_stat_activity. */
  readonly applicationName: string;
  /** Use named prepared statements; false for poolers that cannot track them. */
  readonly preparedStatements: boolean;
  /** Let short reads share a pipelined connection. Needs two connections at least, and prepared statements. */
  readonly lane?: boolean;
  /** Entered with instead of the connection's own password. */
  readonly password?: ChangingPassword;
  /**
   * Whether other pools draw on the same CONNECTION LIMIT of the role: where it is reached, what one of them gives back is
   * waited for, within `acquireTimeout`.
   */
  readonly sharesLimit?: boolean;
  /**
   * Run on each new connection before anybody gets it; what it throws is what whoever asked for the connection gets. A
   * connection that it finds read-only serves reads, and once a second another one is opened to see whether that is over.
   */
  readonly prove?: (query: (text: string) => Promise<Record<string, unknown>[]>) => Promise<Proof | void>; // eslint-disable-line @typescript-eslint/no-invalid-void-type -- most find out nothing
  /** Retires connections that lead to the wrong server, or are old. */
  readonly destinations?: Destinations | undefined;
  /**
   * Makes the pool ask before it opens a connection. Without it only the pool's own bound counts.
   *
   * @param closeIdle closes one connection of the pool that nobody uses; false where there is none
   */
  readonly admit?: (closeIdle: () => boolean) => Membership;
  /**
   * Told how it went whenever a connection was opened, or could not be, and whenever one comes back from use: undefined where
   * the server answered, otherwise the fault and when what failed began (on `performance.now`).
   */
  readonly onOutcome?: (fault: DatabaseFault | undefined, since: number) => void;
  /** Told when an idle connection is lost. */
  readonly onConnectionLost?: (fault: DatabaseFault) => void;
}

export interface PoolStats {
  /** Connections open or being opened, the lane's included. */
  readonly total: number;
  readonly idle: number;
  /** Requests that wait for a connection. */
  readonly waiting: number;
}

/** Requests that may wait for a connection, per connection of the pool: more are refused at once instead of piling up. */
const WAITING_PER_CONNECTION = 100;

/** Passwords that are tried for one connection: one change makes it two, and more can come while it is opened. */
const MAX_PASSWORDS = 6;

const INVALID_PASSWORD = '28P01';

/** Reads that may wait for the lane to open. */
const MAX_WAITING_FOR_LANE = 1_000;

/** Longest wait (ms) for a connection's handshake: a server that hangs is noticed by it. */
const HANDSHAKE_TIMEOUT = 1_500;

/** The client's own deadline lies this much (ms) after the server's, which therefore fires first where it can. */
const QUERY_TIMEOUT_MARGIN = 1_000;

/** SQLSTATE: the role, or the server, has as many connections as it may have. */
const TOO_MANY_CONNECTIONS = '53300';

/** Between two attempts (ms) to open a connection that the role's limit refused. */
const ASK_AGAIN_AFTER = 50;

/** Between two looks (ms) at deadlines and idle times: they are kept this exactly. */
const WATCH_EVERY = 250;

/** Longest wait (ms) for connections that close() has cut to be given back. */
const CLOSE_MARGIN = 1_000;

interface Waiter {
  readonly resolve: (client: Session) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

export class ConnectionPool {
  /** Opens and closes connections. Who gets which is decided here: pg's queue cannot be given a connection it did not open. */
  readonly #pool: pg.Pool;
  /** Connections that are open, or closing. */
  readonly #sessions = new Map<pg.PoolClient, { readonly session: Session; readonly slot: Slot }>();
  /** Those that nobody uses; the last one to come goes first, so that the others grow old and are closed. */
  readonly #idle: Session[] = [];
  /** Connections whose handshake is under way. */
  #opening = 0;
  readonly #waiters: Waiter[] = [];
  /** Slots that were asked for and have not come yet. */
  #slotsAwaited = 0;
  /** The lane where it can be used. */
  #lane: Lane | undefined;
  /** Statements that were too slow for it, until when they keep off. */
  readonly #slow = new Map<string, number>();
  /** Whether there is a connection for it, be it one that is opening or closing. */
  #laneHeld = false;
  #laneOpening: Promise<Lane | undefined> | undefined;
  #waitingForLane = 0;
  readonly #admission: Membership | undefined;
  #toldIdle = false;
  #watch: NodeJS.Timeout | undefined;
  #closing: Promise<void> | undefined;
  /** Set by close(), to be told that no connection is left. */
  #onEmpty: (() => void) | undefined;
  /** Set when close() waits no longer: a connection that is ready only now is not handed out any more. */
  #cut = false;
  readonly #config: pg.ClientConfig;
  readonly #destination: Destination | undefined;
  /** What new connections found out about the server. */
  readonly #found = new FoundServer();

  constructor(
    config: pg.ClientConfig,
    private readonly limits: PoolLimits,
    private readonly options: PoolOptions,
  ) {
    const { password } = options;
    const { host, port } = config;
    if (host !== undefined && port !== undefined) this.#destination = options.destinations?.at({ host, port });
    const stream = this.#destination?.stream;
    this.#config = {
      ...config,
      ...(password && { password: () => password.current }),
      ...(stream && { stream }),
    };
    this.#pool = new pg.Pool({
      ...this.#config,
      Client: BoundedClient,
      max: Infinity,
      connectionTimeoutMillis: Math.min(limits.acquireTimeout, HANDSHAKE_TIMEOUT),
      statement_timeout: limits.timeout,
      idle_in_transaction_session_timeout: limits.timeout,
      application_name: options.applicationName,
      // eslint-disable-next-line @typescript-eslint/no-misused-promises -- pg-pool awaits it, and its types do not say so
      ...(options.prove && { onConnect: (client: pg.ClientBase) => this.#prove(client) }),
    });
    this.#admission = options.admit?.(() => this.closeIdle());
    // A connection that is lost while it is proved: #prove tells who asked for it. Without a listener the process would end.
    this.#pool.on('error', () => undefined);
    this.#pool.on('remove', (client) => {
      this.#sessions.get(client)?.slot.release();
      this.#sessions.get(client)?.session.left?.();
      this.#sessions.delete(client);
      this.#serve();
    });
  }

  /**
   * A connection of one's own until it is released.
   *
   * @throws DatabaseFault `busy` where none becomes free in time, `unavailable` where the server cannot be reached
   */
  async connect(): Promise<Session> {
    const idle = this.#takeIdle();
    if (idle) return idle;
    if (this.#cut) throw poolClosed();
    this.#found.refuseAgain();
    if (this.#total < this.#poolMax) {
      const slot = this.#tryOpen();
      if (slot) return this.#open(slot);
    }
    if (this.#waiters.length >= this.limits.max * WAITING_PER_CONNECTION)
      throw new DatabaseFault('busy', 'too many requests wait for a connection');
    return this.#wait();
  }

  /**
   * Runs one short statement that changes nothing, on the lane where there is one.
   *
   * @throws DatabaseFault, or the server's error
   */
  read<R>(text: string, values: readonly unknown[]): Promise<R[]> {
    const query: LaneQuery = { name: statementName(text), text, values };
    return this.#lane?.takes(query) ? this.#ride<R>(this.#lane, query) : this.#openAndRide<R>(query);
  }

  async #openAndRide<R>(query: LaneQuery): Promise<R[]> {
    const lane = this.#lane ?? (await this.#openLane(query));
    return lane?.takes(query) ? this.#ride<R>(lane, query) : this.run<R>(query.text, query.values);
  }

  async #ride<R>(lane: Lane, query: LaneQuery): Promise<R[]> {
    const since = performance.now();
    const asked = lane.read<R>(query);
    if (lane.inFlight === 1) this.#tellIdle();
    let rows: R[] | undefined;
    try {
      rows = await asked;
      if (rows) this.options.onOutcome?.(undefined, since);
    } catch (error) {
      if (error instanceof DatabaseFault) this.options.onOutcome?.(error, since);
      throw error;
    } finally {
      if (lane.inFlight === 0) this.#tellIdle();
      // A lane that is never idle would keep its slot from those who have none.
      else if (this.#admission?.mustYield()) lane.close();
    }
    // Behind the try: how this goes is told by the connection that it runs on, and would count twice.
    return rows ?? this.run<R>(query.text, query.values);
  }

  /** Runs one statement on a connection of its own. @throws DatabaseFault, or the server's error */
  async run<R>(text: string, values: readonly unknown[]): Promise<R[]> {
    const session = this.#takeIdle() ?? (await this.connect());
    try {
      const { rows } = await session.run<R>(text, values);
      return rows;
    } finally {
      session.release();
    }
  }

  /** Kysely's destroy() comes here. */
  end(): Promise<void> {
    return this.close(0);
  }

  stats(): PoolStats {
    const laneIdle = this.#lane?.inFlight === 0 ? 1 : 0;
    const waiting = this.#waiters.length + this.#waitingForLane;
    return { total: this.#total, idle: this.#idle.length + laneIdle, waiting };
  }

  /** Closes one connection that nobody uses. Returns whether there was one. */
  closeIdle(): boolean {
    const session = this.#idle.shift();
    if (session) {
      session.client.release(true);
      this.#tellIdle();
      return true;
    }
    if (this.#lane?.inFlight !== 0) return false;
    this.#lane.close();
    this.#tellIdle();
    return true;
  }

  /**
   * Lets running work finish, at most `deadlineMs`, then closes every connection. Never rejects: what is left over when
   * the time is up is destroyed.
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
    while (inUse() && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 10));
    this.#cut = true;
    for (const { timer, reject } of this.#waiters.splice(0)) {
      clearTimeout(timer);
      reject(poolClosed());
    }
    this.#lane?.close();
    clearInterval(this.#watch);
    for (const session of this.#idle.splice(0)) session.client.release(true);
    for (const { session } of this.#sessions.values()) session.cut(poolClosed());
    // Whoever sits between two statements of a transaction gives its client back when it asks for the next one, and not
    // before: the connection is gone, and nobody waits for that.
    if (this.#total > 0) {
      const empty = new Promise<void>((resolve) => (this.#onEmpty = resolve));
      await within(empty, CLOSE_MARGIN, poolClosed).catch(() => undefined);
    }
    this.#admission?.leave();
  }

  get #total(): number {
    return this.#sessions.size + this.#opening + (this.#laneHeld ? 1 : 0);
  }

  get #lanePossible(): boolean {
    return this.options.lane === true && this.options.preparedStatements && this.limits.max > 1;
  }

  /** The lane's connection is one of the pool's: it is kept free for it. */
  get #poolMax(): number {
    return this.limits.max - (this.#lanePossible && !this.#laneHeld ? 1 : 0);
  }

  #tryOpen(): Slot | undefined {
    return this.#admission ? this.#admission.tryOpen() : unlimited;
  }

  async #openSlot(): Promise<Slot> {
    return this.#admission ? this.#admission.open(this.limits.acquireTimeout) : unlimited;
  }

  #wait(): Promise<Session> {
    const served = new Promise<Session>((resolve, reject) => {
      const timer = setTimeout(() => {
        void this.#giveUp(waiter);
      }, this.limits.acquireTimeout);
      const waiter: Waiter = { resolve, reject, timer };
      this.#waiters.push(waiter);
    });
    this.#askForSlots();
    return served;
  }

  /** As many slots as there are waiting who could still get a connection of this pool. */
  #askForSlots(): void {
    while (
      this.#slotsAwaited < this.#waiters.length &&
      this.#total + this.#slotsAwaited < this.#poolMax &&
      !this.#cut
    ) {
      this.#slotsAwaited += 1;
      this.#openSlot().then(
        (slot) => {
          this.#slotsAwaited -= 1;
          this.#serve(slot);
        },
        (error: unknown) => {
          this.#slotsAwaited -= 1;
          // Whoever can still be given a connection of this pool goes on waiting for it.
          if (this.#total > 0) return;
          const waiter = this.#next();
          waiter?.reject(connectFault(error));
        },
      );
    }
  }

  #takeIdle(): Session | undefined {
    const session = this.#idle.pop();
    if (session && this.#idle.length === 0) this.#tellIdle();
    return session;
  }

  /** A session that was given back goes to who waits, or waits itself, or is closed where it is of no more use. */
  #release(session: Session): void {
    this.options.onOutcome?.(session.fault, session.askedAt);
    if (!session.clean || session.retired || this.#cut || (this.#admission?.mustYield() ?? false)) {
      session.client.release(true);
      return;
    }
    const waiter = this.#next();
    if (waiter) {
      waiter.resolve(session);
      return;
    }
    session.idleSince = performance.now();
    this.#idle.push(session);
    if (this.#idle.length === 1) this.#tellIdle();
  }

  /** Gives what is free to who waits: a connection that is opened in `slot`. */
  #serve(slot?: Slot): void {
    if (this.#total === 0) this.#onEmpty?.();
    if (slot) {
      const waiter = this.#next();
      if (waiter && !this.#cut) this.#open(slot).then(waiter.resolve, waiter.reject);
      else slot.release();
    }
    if (this.#waiters.length > 0) this.#askForSlots();
    this.#tellIdle();
  }

  async #giveUp(waiter: Waiter): Promise<void> {
    await nextTurn();
    const index = this.#waiters.indexOf(waiter);
    // Served in the last moment.
    if (index === -1) return;
    this.#waiters.splice(index, 1);
    waiter.reject(new DatabaseFault('busy', 'no connection became free in time'));
  }

  #next(): Waiter | undefined {
    const waiter = this.#waiters.shift();
    if (waiter) clearTimeout(waiter.timer);
    return waiter;
  }

  #tellIdle(): void {
    if (!this.#admission) return;
    const has = this.#idle.length > 0 || this.#lane?.inFlight === 0;
    if (has === this.#toldIdle) return;
    this.#toldIdle = has;
    this.#admission.idle(has);
  }

  async #open(slot: Slot): Promise<Session> {
    this.#opening += 1;
    const since = performance.now();
    const generation = this.#destination?.generation;
    let client: pg.PoolClient;
    try {
      client = await this.#enter(since + this.limits.acquireTimeout);
    } catch (error) {
      slot.release();
      this.#opening -= 1;
      this.#serve();
      throw this.#notOpened(error, since);
    }
    this.options.onOutcome?.(undefined, since);
    const { preparedStatements } = this.options;
    const queryTimeout = this.limits.timeout + QUERY_TIMEOUT_MARGIN;
    const session = new Session(client, preparedStatements, queryTimeout, {
      released: (given) => {
        this.#release(given);
      },
      tookNoWrite: () => this.#destination?.tookNoWrite(),
    });
    this.#join(session, generation);
    client.on('error', (error) => {
      this.#lose(session, error);
    });
    this.#opening -= 1;
    this.#sessions.set(client, { session, slot });
    this.#watchOver();
    if (!this.#cut) return session;
    client.release(true);
    throw poolClosed();
  }

  /**
   * Connects: with another password where the server takes the one before no more, since it may have just been changed; and
   * when one of the role's other connections is given back, where it is allowed no more.
   */
  async #enter(deadline: number): Promise<pg.PoolClient> {
    const { password } = this.options;
    let passwords = 1;
    let sure = false;
    for (;;) {
      const tried = password?.current;
      try {
        return await this.#pool.connect();
      } catch (error) {
        if (this.#sharedLimitReached(error) && !this.#cut && performance.now() < deadline) {
          await new Promise((resolve) => setTimeout(resolve, ASK_AGAIN_AFTER));
          continue;
        }
        const last = passwords === MAX_PASSWORDS || !hasSqlState(error, INVALID_PASSWORD);
        if (last || sure || tried === undefined) throw error;
        // Where no other is known, the same is tried once more: the server may have looked just before it was put in force.
        sure = !(await password?.refused(tried));
        passwords += 1;
      }
    }
  }

  #sharedLimitReached(error: unknown): boolean {
    return this.options.sharesLimit === true && hasSqlState(error, TOO_MANY_CONNECTIONS);
  }

  /** What whoever asked for the connection is told. */
  #notOpened(error: unknown, since: number): Error {
    const reason = error instanceof Unproven ? error.cause : connectFault(error);
    if (reason instanceof DatabaseFault) {
      this.#found.refused(reason);
      this.options.onOutcome?.(reason, since);
    }
    return reason;
  }

  #lose(session: Session, error: Error): void {
    const index = this.#idle.indexOf(session);
    if (index === -1) return;
    this.#idle.splice(index, 1);
    session.client.release(true);
    this.#tellIdle();
    this.options.onConnectionLost?.(connectFault(error));
  }

  /** One timer a pool for idle times and deadlines: timers for each statement would cost more than handing out sessions. */
  #watchOver(): void {
    this.#watch ??= setInterval(
      () => {
        const now = performance.now();
        for (const { session } of this.#sessions.values()) {
          session.checkDeadline(now);
          if (now > session.expiresAt) this.#retire(session);
        }
        this.#lookForWrites(now);
        const old = this.#idle.findIndex(({ idleSince }) => now - idleSince < this.limits.idleTimeoutMillis);
        for (const session of this.#idle.splice(0, old === -1 ? this.#idle.length : old)) session.client.release(true);
        if (this.#idle.length === 0) this.#tellIdle();
        if (this.#sessions.size > 0) return;
        clearInterval(this.#watch);
        this.#watch = undefined;
      },
      Math.min(WATCH_EVERY, this.limits.idleTimeoutMillis / 2),
    ).unref();
  }

  async #prove(client: pg.ClientBase): Promise<void> {
    let lost: Error | undefined;
    client.once('error', (error) => (lost = connectFault(error)));
    try {
      const proved = await this.options.prove?.(
        async (text) => (await client.query<Record<string, unknown>>(text)).rows,
      );
      if (lost) throw lost;
      this.#found.proved(client, proved?.readOnly ?? false);
    } catch (error) {
      throw new Unproven(statementFault(error) ?? (error as Error));
    }
  }

  /** The lane, opened where it can be and somebody has use for it; undefined where the statement is to go another way. */
  async #openLane(query: LaneQuery): Promise<Lane | undefined> {
    if (!this.#lanePossible || this.#cut || query.name === undefined) return undefined;
    if (!this.#laneOpening) {
      this.#found.refuseAgain();
      // The one before is closing: until it has, it holds the connection that is set aside for a lane.
      if (this.#laneHeld) return undefined;
      const slot = this.#tryOpen();
      // Who has a connection already waits for that one, and not for a second.
      if (!slot && this.#total > 0) return undefined;
      this.#laneOpening = this.#connectLane(slot).finally(() => {
        this.#laneOpening = undefined;
        this.#waitingForLane = 0;
      });
    }
    if (this.#waitingForLane >= MAX_WAITING_FOR_LANE)
      throw new DatabaseFault('busy', 'too many requests wait for a connection');
    this.#waitingForLane += 1;
    try {
      return await this.#laneOpening;
    } catch (error) {
      await nextTurn();
      throw error;
    }
  }

  async #connectLane(given: Slot | undefined): Promise<Lane | undefined> {
    this.#laneHeld = given !== undefined;
    const slot = given ?? (await this.#openSlot());
    this.#laneHeld = true;
    const generation = this.#destination?.generation;
    const joined: { leave?: () => void } = {};
    const lane = new Lane(
      { ...this.#config, application_name: this.options.applicationName },
      this.#slow,
      {
        connectTimeout: Math.min(this.limits.acquireTimeout, HANDSHAKE_TIMEOUT),
        idleTimeout: this.limits.idleTimeoutMillis,
        statementTimeout: this.limits.timeout,
        lifetime: this.#destination?.lifetime() ?? Infinity,
      },
      () => this.#destination?.tookNoWrite(),
      () => {
        joined.leave?.();
        this.#lane = undefined;
        this.#laneHeld = false;
        slot.release();
        this.#serve();
      },
    );
    const since = performance.now();
    try {
      await lane.open(async (client) => {
        await this.#prove(client);
        lane.readOnly = this.#found.isReadOnly(client);
      });
    } catch (error) {
      // The statement goes another way, on which another password is looked for.
      if (this.options.password && hasSqlState(error, INVALID_PASSWORD)) return undefined;
      // The statement goes the other way, on which a connection is waited for.
      if (this.#sharedLimitReached(error)) return undefined;
      throw this.#notOpened(error, since);
    }
    this.options.onOutcome?.(undefined, since);
    this.#lane = lane;
    const retire = (): void => {
      lane.close();
      this.#tellIdle();
    };
    if (this.#destination) joined.leave = this.#destination.join({ address: lane.address, retire });
    if (generation !== this.#destination?.generation) retire();
    return lane;
  }

  /** @param generation of the destination when the connection began to open */
  #join(session: Session, generation: number | undefined): void {
    const { client } = session;
    session.readOnly = this.#found.isReadOnly(client);
    if (!session.readOnly && this.#found.takesWritesAgain()) {
      // The connections from before would refuse writes for as long as they live.
      for (const other of this.#sessions.values()) if (other.session.readOnly) this.#retire(other.session);
      if (this.#lane?.readOnly) this.#lane.close();
    }
    if (!this.#destination) return;
    session.expiresAt = performance.now() + this.#destination.lifetime();
    session.left = this.#destination.join({
      address: addressOf(client),
      retire: () => {
        this.#retire(session);
      },
    });
    if (generation !== this.#destination.generation) session.retired = true;
  }

  /** Not handed out again: closed now, or when it is given back. */
  #retire(session: Session): void {
    session.retired = true;
    const index = this.#idle.indexOf(session);
    if (index === -1) return;
    this.#idle.splice(index, 1);
    session.client.release(true);
    this.#tellIdle();
  }

  /** While connections are read-only, opens another one a second to see whether that is over. */
  #lookForWrites(now: number): void {
    if (!this.#found.lookIsDue(now)) return;
    const known = [...this.#sessions.values()].find(({ session }) => session.readOnly && !session.retired);
    if (!known || this.#cut) return;
    const slot = this.#total < this.#poolMax ? this.#tryOpen() : undefined;
    // One makes room for it; the next look, or the next request, opens it.
    if (!slot) {
      this.#retire(known.session);
      return;
    }
    this.#found.looked(now);
    this.#open(slot).then(
      (found) => {
        if (found.readOnly) found.client.release(true);
        else this.#release(found);
      },
      () => undefined,
    );
  }
}

const unlimited: Slot = { release: () => undefined };

/** pg's end() waits for the server to close, which a server that hangs never does: its slot would be lost. */
class BoundedClient extends pg.Client {
  override end(): Promise<void>;
  override end(callback: (error: Error) => void): void;
  override end(callback?: (error: Error) => void): Promise<void> | undefined {
    const timer = setTimeout(() => {
      (this as pg.Client & { connection: pg.Connection }).connection.stream.destroy();
    }, CLOSE_MARGIN);
    this.once('end', () => {
      clearTimeout(timer);
    });
    if (!callback) return super.end();
    super.end(callback);
    return undefined;
  }
}

function poolClosed(): DatabaseFault {
  return new DatabaseFault('unavailable', 'the pool was closed');
}
