// The lane of a pool: opens it when a read needs it, sends reads on it, and closes it when its slot is needed more elsewhere. The
// lane itself is in db/driver/lane/lane.ts.
import type pg from 'pg';
import type { Capacity } from '../pool/capacity.js';
import { within } from '../../../src/lib/deadline.js';
import type { Destination } from '../destinations.js';
import {
  DatabaseFault,
  hasSqlState,
  openedLate,
  poolClosed,
  serverIsFull,
  TOO_MANY_CONNECTIONS,
} from '../database-fault.js';
import type { FoundServer } from '../pool/found-server.js';
import { LaneLoad, type LaneStatement } from './lane-load.js';
import { Lane } from './lane.js';
import { INVALID_PASSWORD, type Opener } from '../pool/opening.js';
import { connectTimeoutOf, noLanes, type LaneCounts, type PoolLimits, type PoolOptions } from '../pool/pool-types.js';
import type { Membership, Slot } from '../pool/slot.js';
import { ClientLeft, type Requester } from '../../../src/lib/requester.js';
import { nextTurn } from '../../../src/lib/turns.js';
import type { WaitingQueue } from '../pool/waiting.js';

/*
 * States of a pool's lane, and what changes them:
 *
 *     none    → opening   a read comes that may use a lane, and the pool has room for one
 *     opening → open      its connection is proved
 *     opening → none      it could not be opened; the reads that wait for it fail, or use connections of their own
 *     open    → closing   it is idle or read-only, retired, in the way of a request that waits, or its slot is needed by
 *                         another pool; db/driver/lane/lane.ts has more reasons
 *     closing → none      its connection has closed
 */

/** Reads that may wait for the lane to open. */
const MAX_WAITING_FOR_LANE = 1_000;

/**
 * If the lane is the pool's only connection, it is closed for a request that has waited this long (ms): the governor's quantum.
 */
const LANE_QUANTUM = 20;

/** The parts of the pool that the lane needs. */
export interface LaneKeeperDeps {
  readonly capacity: Capacity;
  readonly opener: Opener;
  readonly found: FoundServer;
  readonly admission: Membership | undefined;
  readonly destination: Destination | undefined;
  readonly waiting: Pick<WaitingQueue, 'longestWait'>;
  /** Runs a statement on a connection of its own. */
  readonly run: <R>(text: string, values: readonly unknown[], requester?: Requester, deadline?: number) => Promise<R[]>;
  /** Called when the lane may have become idle, or is no longer idle. */
  readonly idleChanged: () => void;
}

export class LaneKeeper {
  /** The lane, if it can be used. */
  #lane: Lane | undefined;
  readonly #load = new LaneLoad();
  /** Set while the lane opens, including the wait for its slot. */
  #opening: Promise<Lane | undefined> | undefined;
  /** Set while the lane's connection opens. */
  #connecting: Lane | undefined;
  #waiting = 0;
  readonly #counts: LaneCounts;

  /** @param config of the pool's connections */
  constructor(
    private readonly config: pg.ClientConfig,
    private readonly limits: PoolLimits,
    private readonly options: PoolOptions,
    private readonly deps: LaneKeeperDeps,
  ) {
    this.#counts = options.laneCounts ?? noLanes();
  }

  /** Whether there is a lane with nothing under way on it. */
  get isIdle(): boolean {
    return this.#lane?.inFlight === 0;
  }

  /** Reads that wait for the lane to open. */
  get waiting(): number {
    return this.#waiting;
  }

  /**
   * Runs one short statement that changes nothing, on the lane if possible. A statement on the lane is never cancelled: a
   * CancelRequest would reach the statement of another request. It runs for at most 500 ms, and its answer is dropped.
   *
   * @throws DatabaseFault, or the server's error; ClientLeft
   */
  read<R>(text: string, values: readonly unknown[], requester?: Requester): Promise<R[]> {
    if (requester?.destroyed) return Promise.reject(new ClientLeft());
    const statement = this.#load.statement(text);
    return this.#lane?.takes(statement)
      ? this.#ride<R>(this.#lane, statement, values, requester)
      : this.#openAndRide<R>(statement, values, requester);
  }

  /** Asks the lane to close: reads under way on it are answered. */
  close(): void {
    this.#lane?.close();
  }

  /** Closes the lane if it is idle. Returns whether it was. */
  closeIdle(): boolean {
    if (!this.isIdle) return false;
    this.close();
    this.deps.idleChanged();
    return true;
  }

  /** Closes the lane if its server was found read-only. */
  closeReadOnly(): void {
    if (this.#lane?.readOnly) this.#lane.close();
  }

  /** Called when the pool closes. */
  end(): void {
    this.close();
    this.#connecting?.cut();
  }

  async #openAndRide<R>(statement: LaneStatement, values: readonly unknown[], requester?: Requester): Promise<R[]> {
    const deadline = performance.now() + this.limits.acquireTimeout;
    const lane = this.#lane ?? (await this.#open(statement));
    if (requester?.destroyed) throw new ClientLeft();
    if (lane?.takes(statement)) return this.#ride<R>(lane, statement, values, requester);
    if (this.deps.capacity.lanePossible && statement.name !== undefined) this.#counts.overflows += 1;
    return this.deps.run<R>(statement.text, values, requester, deadline);
  }

  async #ride<R>(
    lane: Lane,
    statement: LaneStatement,
    values: readonly unknown[],
    requester?: Requester,
  ): Promise<R[]> {
    const since = performance.now();
    const asked = lane.read<R>(statement, values);
    if (lane.inFlight === 1) this.deps.idleChanged();
    let rows: R[] | undefined;
    try {
      rows = await asked;
      if (rows && this.options.successes?.wanted !== false) this.options.onOutcome?.(undefined, since, false);
    } catch (error) {
      const loss = lane.takeLoss();
      if (loss) this.options.onOutcome?.(loss, since, false);
      throw error;
    } finally {
      if (lane.inFlight === 0) this.deps.idleChanged();
      // A lane that is never idle would keep its slot from other tenants and from this pool's own requests. A lane that is
      // closing is skipped: the governor would count its connection twice.
      else if (lane.isOpen && (this.deps.admission?.mustYield() || this.#isInTheWay)) lane.close();
    }
    this.#counts[rows ? 'reads' : 'overflows'] += 1;
    // Outside the try: the connection of `run` reports this outcome itself. Inside, it would count twice.
    return rows ?? this.deps.run<R>(statement.text, values, requester);
  }

  /**
   * Whether the lane is the only connection that works, and the first waiting request has waited for a quantum. If unknown
   * backends take all other places of the pool, the lane stays. A write in its place could hang as they do, and then no read
   * would be answered any more.
   */
  get #isInTheWay(): boolean {
    const { capacity, waiting } = this.deps;
    return waiting.longestWait >= LANE_QUANTUM && capacity.opening === 0 && !capacity.hasSession && !capacity.isFull;
  }

  /** The lane, opened if possible; undefined if the statement must run on a connection of its own. */
  async #open({ name }: LaneStatement): Promise<Lane | undefined> {
    const { capacity, found } = this.deps;
    if (!capacity.lanePossible || capacity.closed || name === undefined || capacity.isAtLimit) return undefined;
    if (!this.#opening) {
      found.refuseAgain();
      if (!capacity.hasRoomForLane) return undefined;
      const slot = capacity.tryOpen();
      // If the pool has a connection or waits for one, the read uses that connection and does not wait for a second one.
      if (!slot && capacity.present + capacity.awaited > 0) return undefined;
      const opened = this.#openIn(slot);
      // With a slot, the read waits for the opening only, which has its own deadline.
      this.#opening = (slot ? opened : within(opened, this.limits.acquireTimeout, openedLate)).finally(() => {
        this.#opening = undefined;
        this.#waiting = 0;
      });
    }
    if (this.#waiting >= MAX_WAITING_FOR_LANE)
      throw new DatabaseFault('busy', 'too many requests wait for a connection');
    this.#waiting += 1;
    try {
      return await this.#opening;
    } catch (error) {
      await nextTurn();
      throw error;
    }
  }

  /** @param given the slot, if the pool already has it */
  async #openIn(given: Slot | undefined): Promise<Lane | undefined> {
    const { capacity, opener, found, destination } = this.deps;
    capacity.laneHeld = given !== undefined;
    const slot = given ?? (await capacity.openSlot());
    capacity.laneHeld = true;
    if (capacity.closed) {
      capacity.laneHeld = false;
      slot.release();
      throw poolClosed();
    }
    const generation = destination?.generation;
    const joined: { leave?: () => void } = {};
    const lane = this.#make(slot, joined);
    this.#connecting = lane;
    const since = performance.now();
    let server: string | undefined;
    try {
      await lane.open(async (client) => {
        await opener.prove(client);
        lane.readOnly = found.isReadOnly(client);
        server = found.serverOf(client);
      });
    } catch (error) {
      if (this.#goesAnotherWay(error)) return undefined;
      throw opener.failed(error, since);
    } finally {
      this.#connecting = undefined;
    }
    if (lane.pid !== null) slot.reached(lane.pid);
    this.options.onOutcome?.(undefined, since, true);
    this.#lane = lane;
    const retire = (): void => {
      lane.close();
      this.deps.idleChanged();
    };
    if (destination)
      joined.leave = destination.join({ address: lane.address, server, takesWrites: !lane.readOnly, retire });
    if (generation !== destination?.generation) retire();
    return lane;
  }

  /** @param joined `leave` is called when the lane's connection has closed */
  #make(slot: Slot, joined: { readonly leave?: () => void }): Lane {
    const { capacity, destination } = this.deps;
    this.#counts.open += 1;
    return new Lane(
      this.config,
      this.#load,
      {
        connectTimeout: connectTimeoutOf(this.limits),
        idleTimeout: this.limits.idleTimeoutMillis,
        statementTimeout: this.limits.timeout,
        lifetime: destination?.lifetime() ?? Infinity,
      },
      () => {
        slot.closing();
      },
      () => destination?.tookNoWrite(),
      (ending) => {
        joined.leave?.();
        this.#counts.open -= 1;
        this.#lane = undefined;
        capacity.laneLeft(slot, ending);
      },
    );
  }

  /** Whether the reads that waited for a lane that failed to open must use connections of their own. */
  #goesAnotherWay(error: unknown): boolean {
    const { admission, capacity } = this.deps;
    // Those connections try another password.
    if (this.options.password && hasSqlState(error, INVALID_PASSWORD)) return true;
    // Those connections wait for room.
    if (serverIsFull(error)) {
      admission?.refused?.();
      return true;
    }
    if (!hasSqlState(error, TOO_MANY_CONNECTIONS)) return false;
    if (this.options.sharesLimit !== true && !capacity.hasSession) return false;
    capacity.reachedLimit();
    return true;
  }
}
