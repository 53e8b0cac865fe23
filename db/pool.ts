// A pool of connections to one database: pg's Pool with the failure modes closed that pg and Kysely leave open between them,
// and with a say in it for whoever counts the connections of the whole server. Short reads share one pipelined connection,
// the lane (db/lane.ts); everything else has a connection to itself for as long as it takes.
import type { PostgresCursor, PostgresPoolClient, PostgresQueryResult } from 'kysely';
import pg from 'pg';
import { connectFault, DatabaseFault, statementFault, Unproven } from './errors.js';
import { Lane, type LaneQuery } from './lane.js';
import { statementName } from './statement-names.js';

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

export interface PoolOptions {
  /** Shown in pg_stat_activity. */
  readonly applicationName: string;
  /** Use named prepared statements; false for poolers that cannot track them. */
  readonly preparedStatements: boolean;
  /** Let short reads share a pipelined connection. Needs two connections at least, and prepared statements. */
  readonly lane?: boolean;
  /** Run on each new connection before anybody gets it; what it throws is what whoever asked for the connection gets. */
  readonly prove?: (query: (text: string) => Promise<Record<string, unknown>[]>) => Promise<void>;
  readonly admission?: Admission;
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

/** Reads that may wait for the lane to open. */
const MAX_WAITING_FOR_LANE = 1_000;

/** Longest wait (ms) for a connection's handshake: a server that hangs is noticed by it. */
const HANDSHAKE_TIMEOUT = 1_500;

/** The client's own deadline lies this much (ms) after the server's, which therefore fires first where it can. */
const QUERY_TIMEOUT_MARGIN = 1_000;

/** Longest wait (ms) for connections that close() has cut to be given back. */
const CLOSE_MARGIN = 1_000;

interface Waiter {
  readonly resolve: (client: SafeClient) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

export class ConnectionPool {
  readonly #pool: pg.Pool;
  readonly #clients = new WeakMap<pg.PoolClient, SafeClient>();
  /** Connections that exist, with their slots. */
  readonly #open = new Map<pg.PoolClient, Slot>();
  /** Slots of connections whose handshake is under way. */
  readonly #opening: Slot[] = [];
  /** pg's own queue is never used: in it nobody could be given a connection of another origin. */
  readonly #waiters: Waiter[] = [];
  /** Slots that were asked for and have not come yet. */
  #slotsAwaited = 0;
  /** The lane where it can be used. */
  #lane: Lane | undefined;
  /** Whether there is a connection for it, be it one that is opening or closing. */
  #laneHeld = false;
  #laneOpening: Promise<Lane> | undefined;
  #waitingForLane = 0;
  #toldIdle = false;
  #closing: Promise<void> | undefined;
  /** Set when close() waits no longer: a connection that is ready only now is not handed out any more. */
  #cut = false;

  constructor(
    private readonly config: pg.ClientConfig,
    private readonly limits: PoolLimits,
    private readonly options: PoolOptions,
  ) {
    this.#pool = new pg.Pool({
      ...config,
      Client: BoundedClient,
      max: limits.max,
      connectionTimeoutMillis: Math.min(limits.acquireTimeout, HANDSHAKE_TIMEOUT),
      idleTimeoutMillis: limits.idleTimeoutMillis,
      statement_timeout: limits.timeout,
      query_timeout: limits.timeout + QUERY_TIMEOUT_MARGIN,
      idle_in_transaction_session_timeout: limits.timeout,
      application_name: options.applicationName,
      // eslint-disable-next-line @typescript-eslint/no-misused-promises -- pg-pool awaits it, and its types do not say so
      ...(options.prove && { onConnect: (client: pg.ClientBase) => this.#prove(client) }),
    });
    this.#pool.on('error', (error) => options.onConnectionLost?.(connectFault(error)));
    this.#pool.on('connect', (client) => {
      const slot = this.#opening.shift();
      if (slot) this.#open.set(client, slot);
      // A backend that dies between two queries of a transaction raises 'error' on the client, which the pool does not
      // listen to while it is checked out: without this the process would end. The next query reports the loss.
      client.on('error', () => undefined);
    });
    this.#pool.on('remove', (client) => {
      this.#open.get(client)?.release();
      this.#open.delete(client);
      this.#serve();
    });
  }

  /**
   * A connection of one's own until it is released.
   *
   * @throws DatabaseFault `busy` where none becomes free in time, `unavailable` where the server cannot be reached
   */
  async connect(): Promise<SafeClient> {
    if (this.#cut) throw poolClosed();
    if (this.#idle > 0) return this.#checkOut();
    if (this.#total < this.#poolMax) {
      const slot = this.#tryOpen();
      if (slot) return this.#openFor(slot);
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
  async read<R>(text: string, values: readonly unknown[]): Promise<R[]> {
    const query: LaneQuery = { name: statementName(text), text, values };
    const lane = this.#lane ?? (await this.#openLane(query));
    if (!lane?.takes(query)) return this.run<R>(text, values);
    const asked = lane.read<R>(query);
    if (lane.inFlight === 1) this.#tellIdle();
    try {
      return (await asked) ?? (await this.run<R>(text, values));
    } finally {
      if (lane.inFlight === 0) this.#tellIdle();
    }
  }

  /** Runs one statement on a connection of its own. @throws DatabaseFault, or the server's error */
  async run<R>(text: string, values: readonly unknown[]): Promise<R[]> {
    const client = await this.connect();
    try {
      const { rows } = await client.query<R>(text, values);
      return rows;
    } finally {
      client.release();
    }
  }

  /** Kysely's destroy() comes here. */
  end(): Promise<void> {
    return this.close(0);
  }

  stats(): PoolStats {
    const laneIdle = this.#lane?.inFlight === 0 ? 1 : 0;
    const waiting = this.#waiters.length + this.#waitingForLane;
    return { total: this.#total, idle: this.#idle + laneIdle, waiting };
  }

  /** Closes one connection that nobody uses. Returns whether there was one. */
  closeIdle(): boolean {
    if (this.#idle > 0) {
      // pg has no way to close an idle connection but to take it and to give it back as broken.
      this.#pool.connect((_error, client) => client?.release(true));
      this.#tellIdle();
      return true;
    }
    if (this.#lane?.inFlight === 0) {
      this.#lane.close();
      return true;
    }
    return false;
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
    // It would wait for ever for a client that never returns, and not at all for a connection to be really closed.
    void this.#pool.end();
    for (const client of this.#open.keys()) this.#clients.get(client)?.cut();
    // Whoever sits between two statements of a transaction gives its client back when it asks for the next one, and not
    // before: the connection is gone, and nobody waits for that.
    const late = performance.now() + CLOSE_MARGIN;
    while (this.#total > 0 && performance.now() < late) await new Promise((resolve) => setTimeout(resolve, 10));
  }

  /** Connections that nobody has asked for: those whose hand-over is under way are pg's waiting ones. */
  get #idle(): number {
    return this.#pool.idleCount - this.#pool.waitingCount;
  }

  get #total(): number {
    return this.#open.size + this.#opening.length + (this.#laneHeld ? 1 : 0);
  }

  get #lanePossible(): boolean {
    return this.options.lane === true && this.options.preparedStatements && this.limits.max > 1;
  }

  /** The lane's connection is one of the pool's: it is kept free for it. */
  get #poolMax(): number {
    return this.limits.max - (this.#lanePossible && !this.#laneHeld ? 1 : 0);
  }

  #tryOpen(): Slot | undefined {
    return this.options.admission ? this.options.admission.tryOpen() : unlimited;
  }

  async #openSlot(): Promise<Slot> {
    return this.options.admission ? this.options.admission.open(this.limits.acquireTimeout) : unlimited;
  }

  #wait(): Promise<SafeClient> {
    const served = new Promise<SafeClient>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiters.splice(this.#waiters.indexOf(waiter), 1);
        reject(new DatabaseFault('busy', 'no connection became free in time'));
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

  /** Gives what is free to who waits: an idle connection, or one that is opened in `slot`. */
  #serve(slot?: Slot): void {
    while (this.#idle > 0) {
      const waiter = this.#next();
      if (!waiter) break;
      this.#checkOut().then(waiter.resolve, waiter.reject);
    }
    if (slot) {
      const waiter = this.#next();
      if (waiter && !this.#cut) this.#openFor(slot).then(waiter.resolve, waiter.reject);
      else slot.release();
    }
    if (this.#waiters.length > 0) this.#askForSlots();
    this.#tellIdle();
  }

  #next(): Waiter | undefined {
    const waiter = this.#waiters.shift();
    if (waiter) clearTimeout(waiter.timer);
    return waiter;
  }

  #tellIdle(): void {
    const { admission } = this.options;
    if (!admission) return;
    const has = this.#idle > 0 || this.#lane?.inFlight === 0;
    if (has !== this.#toldIdle) admission.idle(has);
    this.#toldIdle = has;
  }

  async #openFor(slot: Slot): Promise<SafeClient> {
    if (this.#idle > 0) {
      // One came back meanwhile: pg would hand it out and open none.
      slot.release();
      return this.#checkOut();
    }
    this.#opening.push(slot);
    try {
      return await this.#checkOut();
    } catch (error) {
      // Which one does not matter: a slot is like the other.
      this.#opening.pop()?.release();
      this.#serve();
      throw error;
    }
  }

  async #checkOut(): Promise<SafeClient> {
    let client: pg.PoolClient;
    try {
      const connecting = this.#pool.connect();
      this.#tellIdle();
      client = await connecting;
    } catch (error) {
      throw error instanceof Unproven ? error.cause : connectFault(error);
    }
    if (this.#cut) {
      client.release(true);
      throw poolClosed();
    }
    let safe = this.#clients.get(client);
    if (!safe) {
      safe = new SafeClient(
        client,
        this.options.preparedStatements,
        () => this.options.admission?.mustYield() ?? false,
        () => {
          this.#serve();
        },
      );
      this.#clients.set(client, safe);
    }
    safe.checkOut();
    return safe;
  }

  async #prove(client: pg.ClientBase): Promise<void> {
    try {
      await this.options.prove?.(async (text) => (await client.query<Record<string, unknown>>(text)).rows);
    } catch (error) {
      throw new Unproven(statementFault(error) ?? (error as Error));
    }
  }

  /** The lane, opened where it can be and somebody has use for it; undefined where the statement is to go another way. */
  async #openLane(query: LaneQuery): Promise<Lane | undefined> {
    if (!this.#lanePossible || this.#cut || query.name === undefined) return undefined;
    if (!this.#laneOpening) {
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
    return this.#laneOpening;
  }

  async #connectLane(given: Slot | undefined): Promise<Lane> {
    this.#laneHeld = given !== undefined;
    const slot = given ?? (await this.#openSlot());
    this.#laneHeld = true;
    const lane = new Lane(
      { ...this.config, application_name: this.options.applicationName },
      {
        connectTimeout: Math.min(this.limits.acquireTimeout, HANDSHAKE_TIMEOUT),
        idleTimeout: this.limits.idleTimeoutMillis,
      },
      () => {
        this.#lane = undefined;
        this.#laneHeld = false;
        slot.release();
        this.#serve();
      },
    );
    try {
      await lane.open((client) => this.#prove(client));
    } catch (error) {
      throw error instanceof Unproven ? error.cause : connectFault(error);
    }
    this.#lane = lane;
    return lane;
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

/** A checked-out pg client as Kysely sees it. */
export class SafeClient implements PostgresPoolClient {
  #running = 0;
  #checkedOut = false;
  /** What went wrong when the connection's state is no longer known. */
  #doubt: Error | undefined;

  constructor(
    private readonly client: pg.PoolClient,
    private readonly prepared: boolean,
    private readonly mustYield: () => boolean,
    private readonly released: () => void,
  ) {}

  checkOut(): void {
    this.#checkedOut = true;
  }

  query<R>(text: string, values: readonly unknown[]): Promise<PostgresQueryResult<R>>;
  query<R>(cursor: PostgresCursor<R>): PostgresCursor<R>;
  query<R>(
    text: string | PostgresCursor<R>,
    values: readonly unknown[] = [],
  ): Promise<PostgresQueryResult<R>> | PostgresCursor<R> {
    if (typeof text !== 'string') throw new TypeError('cursors are not supported: a page is a query of its own');
    return this.#run<R>(text, values);
  }

  async #run<R>(text: string, values: readonly unknown[]): Promise<PostgresQueryResult<R>> {
    // Behind a statement that got no answer the ROLLBACK would wait for the whole deadline a second time, and its error
    // would hide the first one.
    if (this.#doubt) throw this.#doubt;
    const name = this.prepared ? statementName(text) : undefined;
    this.#running += 1;
    try {
      // pg copies nothing and changes nothing in `values`; Kysely hands over a fresh array.
      const result = await this.client.query({ ...(name && { name }), text, values: values as unknown[] });
      // The server answers COMMIT of a failed transaction with ROLLBACK and no error: the write would be acknowledged and lost.
      if (text === 'commit' && result.command !== 'COMMIT')
        throw new DatabaseFault('unavailable', 'the transaction had failed and was rolled back');
      return result as unknown as PostgresQueryResult<R>;
    } catch (error) {
      const thrown = statementFault(error) ?? (error as Error);
      // After a timeout the answer may still arrive and would be read as the next query's; after DDL a named statement's
      // result type may not match for as long as the connection lives (0A000).
      if (!isAnswered(error) || (name && error.code === '0A000')) this.#doubt ??= thrown;
      throw thrown;
    } finally {
      this.#running -= 1;
    }
  }

  /** Back to the pool, unless a statement still runs, a transaction is still open, or the connection is in doubt. */
  release(): void {
    const clean = !this.#doubt && this.#running === 0 && this.client.getTransactionStatus() === 'I';
    this.#checkedOut = false;
    this.client.release(!clean || this.mustYield());
    this.released();
  }

  /** Cuts the connection of whoever outlived the pool. */
  cut(): void {
    if (!this.#checkedOut) return;
    this.#doubt ??= poolClosed();
    (this.client as pg.PoolClient & { connection: pg.Connection }).connection.stream.destroy();
  }
}

function poolClosed(): DatabaseFault {
  return new DatabaseFault('unavailable', 'the pool was closed');
}

/** Whether the server itself answered with an error, after which the connection is usable again. */
function isAnswered(error: unknown): error is pg.DatabaseError {
  return error instanceof pg.DatabaseError && error.severity === 'ERROR';
}
