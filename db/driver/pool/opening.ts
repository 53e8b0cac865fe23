// Opens a connection in a slot, all within one deadline, and proves the connection before it is used. It tries another password
// if the server refuses the first, and tries again if the server or the role has no room.
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import type { ClientConnection } from '../connection.js';
import { keepSession } from '../pooled-session.js';
import type { Capacity } from './capacity.js';
import {
  connectFault,
  DatabaseFault,
  hasSqlState,
  serverIsFull,
  statementFault,
  TOO_MANY_CONNECTIONS,
  Unproven,
} from '../database-fault.js';
import type { FoundServer } from './found-server.js';
import { connectTimeoutOf, type ChangingPassword, type PoolLimits, type PoolOptions } from './pool-types.js';
import { PooledClients, type PooledClient } from './pooled-client.js';
import type { Membership, Slot } from './slot.js';

/*
 * States of an opening, and what changes them:
 *
 *     connecting → open         the connection is proved
 *     connecting → connecting   the same slot is used again, after nothing is left of the previous attempt, if:
 *                                 - the password was refused (28P01), and another one is known, or has just come into force
 *                                 - the server has no room (53300), and no admission could free another slot instead
 *     connecting → failed       anything else, the deadline is over, or the pool closes; the slot ends when the connection has.
 *                               If the role has no room (53300), the request may wait for another slot (db/driver/pool/pool.ts)
 */

/** How many passwords are tried for one connection. One change makes two; more changes can come while the connection opens. */
const MAX_PASSWORDS = 6;

export const INVALID_PASSWORD = '28P01';

/** The parts of the pool that an opening needs. */
export interface OpeningDeps {
  readonly capacity: Capacity;
  readonly found: FoundServer;
  readonly admission: Membership | undefined;
  /** Asks the lane to close, if there is one. */
  readonly closeLane: () => void;
}

export class Opener {
  readonly #clients: PooledClients;
  /** Clients whose opening is under way. */
  readonly #underWay = new Set<PooledClient>();

  constructor(
    config: pg.ClientConfig,
    private readonly limits: PoolLimits,
    private readonly options: PoolOptions,
    private readonly deps: OpeningDeps,
  ) {
    const timeouts = { statement_timeout: limits.timeout, idle_in_transaction_session_timeout: limits.timeout };
    this.#clients = new PooledClients(
      { ...config, ...timeouts },
      { timeout: connectTimeoutOf(limits), prove: (client) => this.prove(client) },
    );
  }

  /**
   * Opens a connection. The caller then reports it to the pool's capacity as `opened`. If none can be opened, the slot ends when
   * the last attempt has closed.
   *
   * @throws DatabaseFault, which has been reported; what `prove` throws
   */
  async open(slot: Slot): Promise<PooledClient> {
    this.deps.capacity.beginOpening();
    const since = performance.now();
    let client: PooledClient;
    try {
      client = await this.#enter(slot, since + this.limits.acquireTimeout);
    } catch (error) {
      throw this.failed(error, since);
    }
    this.options.onOutcome?.(undefined, since, true);
    return client;
  }

  /** Cuts the connections that are opening. No connection is opened afterwards. */
  end(): void {
    this.#clients.end();
    for (const client of this.#underWay) client.cut();
  }

  /** @throws Unproven if the connection must not be used */
  async prove(client: ClientConnection): Promise<void> {
    try {
      const proof = await this.options.prove?.(async (text) => {
        try {
          const { rows } = await client.query<Record<string, unknown>>(text);
          await keepSession(client, rows[0]);
          return rows;
        } catch (error) {
          // The loss of a connection says nothing about the database that the connection reached.
          throw statementFault(error) ?? error;
        }
      });
      this.deps.found.proved(client, proof ?? { readOnly: false });
    } catch (error) {
      throw new Unproven(statementFault(error) ?? (error as Error));
    }
  }

  /**
   * Reports a connection that could not be opened. Returns the error for the request.
   *
   * @param since when the opening began, on `performance.now`
   */
  failed(error: unknown, since: number): Error {
    const reason = error instanceof Unproven ? error.cause : connectFault(error);
    if (reason instanceof DatabaseFault) {
      this.deps.found.refused(reason);
      this.options.onOutcome?.(reason, since, true);
    }
    return reason;
  }

  async #enter(slot: Slot, deadline: number): Promise<PooledClient> {
    const { capacity } = this.deps;
    const passwords = new Passwords(this.options.password);
    for (;;) {
      passwords.begin();
      const besideLane = capacity.laneHeld && !capacity.hasSession;
      const { client, opened } = this.#clients.open();
      this.#underWay.add(client);
      let failure: unknown;
      try {
        await opened;
        return client;
      } catch (error) {
        failure = error;
      } finally {
        this.#underWay.delete(client);
      }
      let again = false;
      const inTime = !capacity.closed && performance.now() < deadline;
      if (serverIsFull(failure)) again = await this.#serverWillHaveRoom(inTime);
      else if (hasSqlState(failure, TOO_MANY_CONNECTIONS)) this.#roleHasNoRoom(besideLane);
      else if (hasSqlState(failure, INVALID_PASSWORD)) again = await passwords.another();
      // The next attempt may use the slot only if nothing is left of this attempt.
      if (again && (await client.closed) === 'gone' && !capacity.closed) continue;
      void client.closed.then((ending) => {
        capacity.notOpened(slot, ending);
      });
      throw failure;
    }
  }

  /** The server has no room. Returns, after a pause, whether to try again in this slot. */
  async #serverWillHaveRoom(inTime: boolean): Promise<boolean> {
    this.deps.admission?.refused?.();
    // A slot that the server has no room for is given back. Then admission can free another slot for this pool.
    if (!inTime || this.deps.admission || this.options.failsWhenFull) return false;
    await sleep(roomPause());
    return true;
  }

  /**
   * The role has as many connections as its limit allows. If it may soon have room, the pool opens one connection at a time from
   * now on, after pauses.
   *
   * @param besideLane whether the lane was the pool's only other connection
   */
  #roleHasNoRoom(besideLane: boolean): void {
    const { capacity } = this.deps;
    // The lane would hold the role's last permitted connection while reads keep coming.
    if (besideLane) this.deps.closeLane();
    const waits = besideLane || capacity.hasSession || capacity.isAtLimit || this.options.sharesLimit === true;
    if (waits) capacity.reachedLimit();
  }
}

/** The passwords that are tried for one connection. */
class Passwords {
  #tries = 1;
  #tried: string | undefined;
  /** Whether the last password was tried for the second time. */
  #sure = false;

  constructor(private readonly source: ChangingPassword | undefined) {}

  /** Call this when an attempt begins: it uses the current password. */
  begin(): void {
    this.#tried = this.source?.current;
  }

  /** The server refused that password. Returns whether to try again. */
  async another(): Promise<boolean> {
    if (!this.source || this.#tried === undefined || this.#sure || this.#tries >= MAX_PASSWORDS) return false;
    // If no other password is known, the same one is tried once more: the server may have checked just before it was in force.
    this.#sure = !(await this.source.refused(this.#tried));
    this.#tries += 1;
    return true;
  }
}

/** Pause (ms) before a full server is tried again. It is random, so that pools do not all try at once. */
function roomPause(): number {
  return 100 + Math.random() * 100;
}
