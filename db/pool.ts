// A pool of connections to one database. What counts the connections of the whole server admits each of them. Short reads share
// one pipelined connection, the lane (db/lane.ts); everything else has a connection to itself until it is done.
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { ClientConnection, CLOSE_MARGIN, type Ending } from './connection.js';
import { within } from './deadline.js';
import { addressOf, type Destination, type Destinations } from './destinations.js';
import {
  connectFault,
  DatabaseFault,
  hasSqlState,
  isServerFull,
  serverIsFull,
  statementFault,
  Unproven,
} from './errors.js';
import { FoundServer } from './found-server.js';
import { LaneLoad, type LaneStatement } from './lane-load.js';
import { Lane } from './lane.js';
import { Session } from './session.js';
import { nextTurn } from './turns.js';

/** Bounds of one pool. All times in milliseconds. */
export interface PoolLimits {
  /** Most connections open at once. */
  readonly max: number;
  /** Longest wait for a connection, its opening included. */
  readonly acquireTimeout: number;
  /**
   * Longest wait for a server while one connection is opened: TCP, TLS, authentication and proof together. Never more than
   * `acquireTimeout`. Default `CONNECT_TIMEOUT`.
   */
  readonly connectTimeout?: number;
  /** Longest run of one statement, enforced by the server; the client gives up one second later. */
  readonly timeout: number;
  /** An unused connection closes after this time. */
  readonly idleTimeoutMillis: number;
}

/**
 * The right to have one connection open. It ends with `release`, or with `orphan`, and is good for several attempts to connect
 * one after the other, as long as nothing is left of the attempt before.
 */
export interface Slot {
  /** The connection has reached the backend with this process id. */
  reached(pid: number): void;
  /** The connection is asked to close: the slot comes back soon. */
  closing(): void;
  /** Nothing is left of the connection, on the server neither. */
  release(): void;
  /**
   * The connection has closed, and its backend may live on: the slot counts as held until that is seen gone.
   *
   * @param freed called once, when it is free
   */
  orphan(freed: () => void): void;
}

/** Whoever decides whether one more connection may be opened. */
export interface Admission {
  /** A slot where one is free now. */
  tryOpen(): Slot | undefined;
  /** A slot as soon as one is free. @throws DatabaseFault `busy` when that takes too long or too many wait */
  open(timeoutMs: number): Promise<Slot>;
  /** The pool has a connection that nobody uses, or has none any more: what `closeIdle` would find. */
  idle(has: boolean): void;
  /**
   * Asked when a connection is given back: whether it is to be closed, because another pool needs its slot more. The pool then
   * calls `closing` of that slot at once.
   */
  mustYield(): boolean;
  /** The server refused a connection for want of room (53300), and its slot has not been given back yet. */
  refused?(): void;
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
   * @param closeIdle closes one connection of the pool that nobody uses, and calls `closing` of its slot; false where there is
   *   none
   */
  readonly admit?: (closeIdle: () => boolean) => Membership;
  /**
   * Told how it went whenever a connection was opened, or could not be, and whenever one comes back from use: undefined where
   * the server answered, otherwise the fault, when what failed began (on `performance.now`), and whether it was the opening.
   * The loss of one connection is one outcome, however many reads were under way on it.
   */
  readonly onOutcome?: (fault: DatabaseFault | undefined, since: number, opening: boolean) => void;
  /** Fails at once when the server has no room for a connection (53300). Otherwise room is waited for, within `acquireTimeout`. */
  readonly failsWhenFull?: boolean;
  /** Told when an idle connection is lost. */
  readonly onConnectionLost?: (fault: DatabaseFault) => void;
}

export interface PoolStats {
  /** Connections open or being opened, the lane's included. */
  readonly total: number;
  readonly idle: number;
  /** Connections that have closed, and whose backend may live on. They count towards `PoolLimits.max`. */
  readonly unknown: number;
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

/**
 * Longest wait (ms) for the opening of a connection: a server that hangs is noticed by it. TCP, TLS 1.3, authentication and
 * proof take 7 round trips, 2.1 s where one takes 300 ms; as much again is for lost packets.
 */
export const CONNECT_TIMEOUT = 4_000;

/** The client's own deadline lies this much (ms) after the server's, which therefore fires first where it can. */
const QUERY_TIMEOUT_MARGIN = 1_000;

/** SQLSTATE: the role, or the server, has as many connections as it may have. */
const TOO_MANY_CONNECTIONS = '53300';

/** Between two attempts (ms) to open a connection that the role's limit refused. */
const ASK_AGAIN_AFTER = 50;

/** A lane that is the pool's only connection is closed for a request that has waited this long (ms): the governor's quantum. */
const LANE_QUANTUM = 20;

/** How long (ms) a pool goes on with the connections that it has, after its role was refused another one. */
const AT_LIMIT_FOR = 1_000;

/** Between two looks (ms) at deadlines and idle times: they are kept this exactly. */
const WATCH_EVERY = 250;

interface Waiter {
  readonly resolve: (client: Session) => void;
  readonly reject: (error: Error) => void;
  /** Until when it waits, on `performance.now`. */
  readonly deadline: number;
  readonly timer: NodeJS.Timeout;
  /** Whether a connection is opened for it: if that takes too long, another waiter gets the connection. */
  opening?: boolean;
  late?: boolean;
  readonly since: number;
}

export class ConnectionPool {
  /** Connections that are open, or closing, and their slots. */
  readonly #sessions = new Map<Session, Slot>();
  /** Those whose opening is under way. */
  readonly #underWay = new Set<ClientConnection>();
  /** Those that nobody uses; the last one to come goes first, so that the others grow old and are closed. */
  readonly #idle: Session[] = [];
  /** Slots in which a connection is opened, or closes because it could not be. */
  #opening = 0;
  /** Backends that may live on without their connection. */
  #unknown = 0;
  readonly #waiters: Waiter[] = [];
  /** Slots that were asked for and have not come yet. */
  #slotsAwaited = 0;
  /** The lane where it can be used. */
  #lane: Lane | undefined;
  readonly #laneLoad = new LaneLoad();
  #atLimitUntil = 0;
  /** Whether there is a connection for it, be it one that is opening or closing. */
  #laneHeld = false;
  #laneOpening: Promise<Lane | undefined> | undefined;
  /** Set while its connection is opened. */
  #laneConnecting: Lane | undefined;
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
      application_name: options.applicationName,
    };
    this.#admission = options.admit?.(() => this.closeIdle());
  }

  /**
   * A connection of one's own until it is released.
   *
   * @param deadline until when it is waited for, on `performance.now`
   * @throws DatabaseFault `busy` where none becomes free in time, `unavailable` where the server cannot be reached
   */
  async connect(deadline = performance.now() + this.limits.acquireTimeout): Promise<Session> {
    const idle = this.#takeIdle();
    if (idle) return idle;
    if (this.#cut) throw poolClosed();
    this.#found.refuseAgain();
    if (this.#total < this.#poolMax) {
      const slot = this.#tryOpen();
      if (slot) return this.#openOrWait(slot, deadline);
    }
    if (this.#waiters.length >= this.limits.max * WAITING_PER_CONNECTION)
      throw new DatabaseFault('busy', 'too many requests wait for a connection');
    return this.#wait(deadline);
  }

  /**
   * Runs one short statement that changes nothing, on the lane where there is one.
   *
   * @throws DatabaseFault, or the server's error
   */
  read<R>(text: string, values: readonly unknown[]): Promise<R[]> {
    const statement = this.#laneLoad.statement(text);
    return this.#lane?.takes(statement)
      ? this.#ride<R>(this.#lane, statement, values)
      : this.#openAndRide<R>(statement, values);
  }

  async #openAndRide<R>(statement: LaneStatement, values: readonly unknown[]): Promise<R[]> {
    const deadline = performance.now() + this.limits.acquireTimeout;
    const lane = this.#lane ?? (await this.#openLane(statement));
    if (lane?.takes(statement)) return this.#ride<R>(lane, statement, values);
    return this.run<R>(statement.text, values, deadline);
  }

  async #ride<R>(lane: Lane, statement: LaneStatement, values: readonly unknown[]): Promise<R[]> {
    const since = performance.now();
    const asked = lane.read<R>(statement, values);
    if (lane.inFlight === 1) this.#tellIdle();
    let rows: R[] | undefined;
    try {
      rows = await asked;
      if (rows) this.options.onOutcome?.(undefined, since, false);
    } catch (error) {
      const loss = lane.takeLoss();
      if (loss) this.options.onOutcome?.(loss, since, false);
      throw error;
    } finally {
      // A lane that is never idle would keep its slot from those who have none: other tenants, and this pool's own waiters. One
      // that is closing already is not asked: the governor would count its connection twice.
      const yields = lane.isOpen && lane.inFlight > 0 && this.#admission?.mustYield();
      if (yields || this.#laneIsInTheWay(lane)) lane.close();
      else if (lane.inFlight === 0) this.#tellIdle();
    }
    // Behind the try: how this goes is told by the connection that it runs on, and would count twice.
    return rows ?? this.run<R>(statement.text, values);
  }

  /** Whether the lane is the only connection that works, and the first who waits for one is to have its place. */
  #laneIsInTheWay(lane: Lane): boolean {
    const [first] = this.#waiters;
    if (first === undefined || !lane.isOpen || this.#opening > 0 || this.#hasSession) return false;
    // The governor closes an unused lane for those who wait for a slot. In a full pool they do not ask for one.
    if (lane.inFlight === 0) return this.#total >= this.limits.max;
    return performance.now() - first.since >= LANE_QUANTUM;
  }

  /** Whether there is a connection besides the lane that works. */
  get #hasSession(): boolean {
    for (const session of this.#sessions.keys())
      if (!session.fault && !session.retired && !session.client.closing) return true;
    return false;
  }

  /** Runs one statement on a connection of its own. @throws DatabaseFault, or the server's error */
  async run<R>(text: string, values: readonly unknown[], deadline?: number): Promise<R[]> {
    const session = this.#takeIdle() ?? (await this.connect(deadline));
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
    return { total: this.#present, idle: this.#idle.length + laneIdle, unknown: this.#unknown, waiting };
  }

  /** Closes one connection that nobody uses. Returns whether there was one. */
  closeIdle(): boolean {
    const session = this.#idle.shift();
    if (session) {
      this.#end(session);
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
   * the time is up is cut, connections that are being opened too.
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
    this.#laneConnecting?.cut();
    clearInterval(this.#watch);
    for (const session of this.#idle.splice(0)) this.#end(session);
    for (const session of this.#sessions.keys()) if (!session.client.closing) session.cut(poolClosed());
    for (const connection of this.#underWay) connection.cut();
    // Whoever sits between two statements of a transaction gives its client back when it asks for the next one, and not
    // before: the connection is gone, and nobody waits for that.
    if (this.#present > 0) {
      const empty = new Promise<void>((resolve) => (this.#onEmpty = resolve));
      await within(empty, CLOSE_MARGIN, poolClosed).catch(() => undefined);
    }
    this.#admission?.leave();
  }

  /** Connections of this side. */
  get #present(): number {
    return this.#sessions.size + this.#opening + (this.#laneHeld ? 1 : 0);
  }

  /** What the pool's bound counts. */
  get #total(): number {
    return this.#present + this.#unknown;
  }

  get #lanePossible(): boolean {
    return this.options.lane === true && this.options.preparedStatements && this.limits.max > 1;
  }

  /** The lane's connection is one of the pool's. It is kept free for the lane, but not while backends are unknown. */
  get #poolMax(): number {
    if (this.#isAtLimit) return this.#total;
    return this.limits.max - (this.#lanePossible && !this.#laneHeld && this.#unknown === 0 ? 1 : 0);
  }

  get #connectTimeout(): number {
    return Math.min(this.limits.acquireTimeout, this.limits.connectTimeout ?? CONNECT_TIMEOUT);
  }

  /** Whether the role was refused another connection a moment ago, and there is one that can go round. */
  get #isAtLimit(): boolean {
    return performance.now() < this.#atLimitUntil && this.#hasSession;
  }

  #tryOpen(): Slot | undefined {
    return this.#admission ? this.#admission.tryOpen() : unlimited;
  }

  async #openSlot(): Promise<Slot> {
    return this.#admission ? this.#admission.open(this.limits.acquireTimeout) : unlimited;
  }

  #wait(deadline: number): Promise<Session> {
    const served = new Promise<Session>((resolve, reject) => {
      const timer = setTimeout(() => {
        void this.#giveUp(waiter);
      }, deadline - performance.now());
      const waiter: Waiter = { resolve, reject, deadline, timer, since: performance.now() };
      this.#waiters.push(waiter);
    });
    this.#askForSlots();
    if (this.#lane && this.#laneIsInTheWay(this.#lane)) {
      this.#lane.close();
      this.#tellIdle();
    }
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
          if (this.#present > 0) return;
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
    this.options.onOutcome?.(session.fault, session.askedAt, false);
    if (!session.clean || session.retired || this.#cut || (this.#admission?.mustYield() ?? false)) {
      this.#end(session);
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
    if (this.#present === 0) this.#onEmpty?.();
    if (slot) {
      const waiter = this.#cut ? undefined : this.#waiters.shift();
      if (waiter) void this.#openFor(waiter, slot);
      else slot.release();
    }
    if (this.#waiters.length > 0) this.#askForSlots();
    this.#tellIdle();
  }

  async #openFor(waiter: Waiter, slot: Slot): Promise<void> {
    waiter.opening = true;
    try {
      const session = await this.#openOrWait(slot, waiter.deadline);
      if (waiter.late) session.release();
      else waiter.resolve(session);
    } catch (error) {
      waiter.reject(error as Error);
    } finally {
      waiter.opening = false;
      clearTimeout(waiter.timer);
    }
  }

  async #giveUp(waiter: Waiter): Promise<void> {
    await nextTurn();
    if (waiter.opening) {
      waiter.late = true;
      waiter.reject(openedLate());
      return;
    }
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

  /** Opens a connection. If the role or the server has no room for it, the next one that is free is waited for. */
  async #openOrWait(slot: Slot, deadline: number): Promise<Session> {
    try {
      return await this.#open(slot);
    } catch (error) {
      const full = isServerFull(error) && this.#admission !== undefined && !this.options.failsWhenFull;
      const refused = error instanceof DatabaseFault && error.reason === TOO_MANY_CONNECTIONS;
      if ((full || (refused && this.#isAtLimit)) && !this.#cut && performance.now() < deadline)
        return this.#wait(deadline);
      throw error;
    }
  }

  async #open(slot: Slot): Promise<Session> {
    this.#opening += 1;
    const since = performance.now();
    const generation = this.#destination?.generation;
    let client: ClientConnection;
    try {
      client = await this.#enter(slot, since + this.limits.acquireTimeout);
    } catch (error) {
      throw this.#notOpened(error, since);
    }
    this.options.onOutcome?.(undefined, since, true);
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
    void client.closed.then((ending) => {
      session.left?.();
      this.#sessions.delete(session);
      this.#settle(slot, ending);
    });
    this.#opening -= 1;
    this.#sessions.set(session, slot);
    if (client.processID !== null) slot.reached(client.processID);
    this.#watchOver();
    if (!this.#cut) return session;
    this.#end(session);
    throw poolClosed();
  }

  /** Closes a connection that nobody uses any more. */
  #end(session: Session): void {
    this.#sessions.get(session)?.closing();
    session.client.close();
  }

  /** The connection in this slot has closed. */
  #settle(slot: Slot, ending: Ending): void {
    if (ending === 'gone') slot.release();
    else {
      this.#unknown += 1;
      slot.orphan(() => {
        this.#unknown -= 1;
        this.#serve();
      });
    }
    this.#serve();
  }

  /**
   * Connects: with another password where the server takes the one before no more, since it may have just been changed; and
   * when one of the role's other connections is given back, where it is allowed no more.
   */
  async #enter(slot: Slot, deadline: number): Promise<ClientConnection> {
    const { password } = this.options;
    let passwords = 1;
    let sure = false;
    for (;;) {
      const tried = password?.current;
      const besideLane = this.#laneHeld && !this.#hasSession;
      const connection = new ClientConnection({
        ...this.#config,
        statement_timeout: this.limits.timeout,
        idle_in_transaction_session_timeout: this.limits.timeout,
      });
      this.#underWay.add(connection);
      let failure: unknown;
      try {
        await connection.open(this.#connectTimeout, (client) => this.#prove(client));
        return connection;
      } catch (error) {
        failure = error;
      } finally {
        this.#underWay.delete(connection);
      }
      let again = false;
      const inTime = !this.#cut && performance.now() < deadline;
      if (serverIsFull(failure)) {
        this.#admission?.refused?.();
        // A slot that the server has no room for is given back: then other slots can be freed for it.
        again = inTime && !this.#admission && !this.options.failsWhenFull;
        if (again) await sleep(roomPause());
      } else if (hasSqlState(failure, TOO_MANY_CONNECTIONS)) {
        // What the limit allows may be the lane, which would keep it for as long as there are reads.
        if (besideLane) this.#lane?.close();
        if (this.#hasSession) this.#atLimitUntil = performance.now() + AT_LIMIT_FOR;
        else again = inTime && (besideLane || this.options.sharesLimit === true);
        if (again) await sleep(ASK_AGAIN_AFTER);
      } else if (tried !== undefined && !sure && passwords < MAX_PASSWORDS && hasSqlState(failure, INVALID_PASSWORD)) {
        // Where no other is known, the same is tried once more: the server may have looked just before it was put in force.
        sure = !(await password?.refused(tried));
        passwords += 1;
        again = !this.#cut;
      }
      // The next attempt has the slot only if nothing is left of this one.
      if (again && (await connection.closed) === 'gone') continue;
      void connection.closed.then((ending) => {
        this.#opening -= 1;
        this.#settle(slot, ending);
      });
      throw failure;
    }
  }

  /** What whoever asked for the connection is told. */
  #notOpened(error: unknown, since: number): Error {
    const reason = error instanceof Unproven ? error.cause : connectFault(error);
    if (reason instanceof DatabaseFault) {
      this.#found.refused(reason);
      this.options.onOutcome?.(reason, since, true);
    }
    return reason;
  }

  #lose(session: Session, error: Error): void {
    const index = this.#idle.indexOf(session);
    if (index === -1) return;
    this.#idle.splice(index, 1);
    this.#end(session);
    this.#tellIdle();
    this.options.onConnectionLost?.(connectFault(error));
  }

  /** One timer a pool for idle times and deadlines: timers for each statement would cost more than handing out sessions. */
  #watchOver(): void {
    this.#watch ??= setInterval(
      () => {
        const now = performance.now();
        for (const session of this.#sessions.keys()) {
          session.checkDeadline(now);
          if (now > session.expiresAt) this.#retire(session);
        }
        this.#lookForWrites(now);
        // The time is over in which the role's limit was not tried again.
        this.#askForSlots();
        const old = this.#idle.findIndex(({ idleSince }) => now - idleSince < this.limits.idleTimeoutMillis);
        for (const session of this.#idle.splice(0, old === -1 ? this.#idle.length : old)) this.#end(session);
        if (this.#idle.length === 0) this.#tellIdle();
        if (this.#sessions.size > 0) return;
        clearInterval(this.#watch);
        this.#watch = undefined;
      },
      Math.min(WATCH_EVERY, this.limits.idleTimeoutMillis / 2),
    ).unref();
  }

  async #prove(client: pg.ClientBase): Promise<void> {
    try {
      const proved = await this.options.prove?.(async (text) => {
        try {
          return (await client.query<Record<string, unknown>>(text)).rows;
        } catch (error) {
          // A connection that was lost says nothing of the database that it reached.
          throw statementFault(error) ?? error;
        }
      });
      this.#found.proved(client, proved?.readOnly ?? false);
    } catch (error) {
      throw new Unproven(statementFault(error) ?? (error as Error));
    }
  }

  /** The lane, opened where it can be and somebody has use for it; undefined where the statement is to go another way. */
  async #openLane({ name }: LaneStatement): Promise<Lane | undefined> {
    if (!this.#lanePossible || this.#cut || name === undefined || this.#isAtLimit) return undefined;
    if (!this.#laneOpening) {
      this.#found.refuseAgain();
      // The one before is closing: until it has, it holds the connection that is set aside for a lane.
      if (this.#laneHeld || this.#total >= this.limits.max) return undefined;
      const slot = this.#tryOpen();
      // Who has a connection already, or waits for one, waits for that one, and not for a second.
      if (!slot && this.#present + this.#slotsAwaited > 0) return undefined;
      const connected = this.#connectLane(slot);
      // With a slot the opening alone is waited for, which has its own deadline.
      this.#laneOpening = (slot ? connected : within(connected, this.limits.acquireTimeout, openedLate)).finally(() => {
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
    if (this.#cut) {
      this.#laneHeld = false;
      slot.release();
      throw poolClosed();
    }
    const generation = this.#destination?.generation;
    const joined: { leave?: () => void } = {};
    const lane = new Lane(
      this.#config,
      this.#laneLoad,
      {
        connectTimeout: this.#connectTimeout,
        idleTimeout: this.limits.idleTimeoutMillis,
        statementTimeout: this.limits.timeout,
        lifetime: this.#destination?.lifetime() ?? Infinity,
      },
      () => {
        slot.closing();
      },
      () => this.#destination?.tookNoWrite(),
      (ending) => {
        joined.leave?.();
        this.#lane = undefined;
        this.#laneHeld = false;
        this.#settle(slot, ending);
      },
    );
    this.#laneConnecting = lane;
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
      if (serverIsFull(error)) {
        this.#admission?.refused?.();
        return undefined;
      }
      if (hasSqlState(error, TOO_MANY_CONNECTIONS) && (this.options.sharesLimit === true || this.#hasSession)) {
        this.#atLimitUntil = performance.now() + AT_LIMIT_FOR;
        return undefined;
      }
      throw this.#notOpened(error, since);
    } finally {
      this.#laneConnecting = undefined;
    }
    if (lane.pid !== null) slot.reached(lane.pid);
    this.options.onOutcome?.(undefined, since, true);
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
      for (const other of this.#sessions.keys()) if (other.readOnly) this.#retire(other);
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
    this.#end(session);
    this.#tellIdle();
  }

  /** While connections are read-only, opens another one a second to see whether that is over. */
  #lookForWrites(now: number): void {
    if (!this.#found.lookIsDue(now)) return;
    const known = [...this.#sessions.keys()].find((session) => session.readOnly && !session.retired);
    if (!known || this.#cut) return;
    this.#found.looked(now);
    const slot = this.#total < this.#poolMax ? this.#tryOpen() : undefined;
    // One makes room for it; the next look, or the next request, opens it.
    if (!slot) {
      this.#retire(known);
      return;
    }
    this.#open(slot).then(
      (found) => {
        if (found.readOnly) this.#end(found);
        else this.#release(found);
      },
      () => undefined,
    );
  }
}

/** How long (ms) a pool that shares a full server with others waits before it asks again; by chance, so that not all ask at once. */
function roomPause(): number {
  return 100 + Math.random() * 100;
}

const unlimited: Slot = {
  reached: () => undefined,
  closing: () => undefined,
  release: () => undefined,
  orphan: (freed) => {
    freed();
  },
};

function openedLate(): DatabaseFault {
  return new DatabaseFault('busy', 'no connection was opened in time');
}

function poolClosed(): DatabaseFault {
  return new DatabaseFault('unavailable', 'the pool was closed');
}
