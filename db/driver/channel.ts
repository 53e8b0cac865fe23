// One connection for queries and for one channel of LISTEN/NOTIFY, opened again whenever it is lost. An answer to a query also
// proves that every notification sent before it has arrived.
import pg from 'pg';
import { clientConfig, type ConnectionSettings } from './client.js';
import { ClientConnection } from './connection.js';
import { addressOf, type Destination, type Destinations } from './destinations.js';
import { DatabaseFault } from './database-fault.js';
import { CONNECT_TIMEOUT } from './pool/pool-types.js';
import { keepSession } from './pooled-session.js';
import { proveWritable } from './proof.js';

export interface ChannelListener {
  /** A message from any process, this one included. Messages come in the order in which their transactions committed. */
  message(text: string): void;
  /** The channel has a connection, the first or a new one. */
  connected(): void;
}

export interface Channel {
  /** Whether there is a connection that has proved to accept writes. */
  readonly connected: boolean;
  /** Whether messages are received. */
  readonly listening: boolean;
  /**
   * Runs one statement. Statements that run at the same time are sent at once and answered in order. After any error the
   * connection is opened again.
   *
   * @throws DatabaseFault if there is no connection, or no answer within 2 s; the server's error
   */
  ask<Row>(text: string, values: readonly unknown[]): Promise<Row | undefined>;
  /**
   * Begins or ends listening. A listening session that PostgreSQL does not wake holds up the NOTIFY queue of the whole server. A
   * session that begins to listen reads through everything that is held up in that queue.
   *
   * @throws as `ask` does
   */
  listen(on: boolean): Promise<void>;
  /** Gives up the connection and opens another. */
  renew(): void;
  close(): void;
}

/** If a connection does not answer for this long (ms), the channel replaces it. */
const GIVEN_UP_AFTER = 2_000;

/** Shortest and longest pause (ms) between two attempts to connect. */
const RECONNECT = { min: 50, max: 500 };

export interface ChannelOptions {
  /** Longest wait (ms) while the connection is opened. */
  readonly connectTimeout?: number | undefined;
  /** Retires the connection when it leads to the wrong server. */
  readonly destinations?: Destinations | undefined;
}

/**
 * Opens a channel, which reconnects by itself until it is closed.
 *
 * @param name of the channel; every NOTIFY of that name is received, those of triggers too
 */
export function openChannel(
  connection: ConnectionSettings,
  name: string,
  listener: ChannelListener,
  options: ChannelOptions = {},
): Channel {
  return new NotifyChannel(connection, name, listener, options);
}

class NotifyChannel implements Channel {
  listening = false;
  readonly #connectTimeout: number;
  readonly #destination: Destination | undefined;
  #client: ClientConnection | undefined;
  #leave: (() => void) | undefined;
  /** Whether the client is ready for queries. */
  #ready = false;
  #reconnect: NodeJS.Timeout | undefined;
  #attempts = 0;
  #closed = false;

  constructor(
    private readonly connection: ConnectionSettings,
    private readonly name: string,
    private readonly listener: ChannelListener,
    { connectTimeout = CONNECT_TIMEOUT, destinations }: ChannelOptions,
  ) {
    this.#connectTimeout = connectTimeout;
    this.#destination = destinations?.at(connection);
    void this.#connect();
  }

  get connected(): boolean {
    return this.#ready;
  }

  async listen(on: boolean): Promise<void> {
    await this.ask(`${on ? 'listen' : 'unlisten'} ${pg.escapeIdentifier(this.name)}`, []);
    this.listening = on;
    // Reset here and not when the connection opens: a server can accept connections and be of no use. Then the pauses must grow.
    this.#attempts = 0;
  }

  async ask<Row>(text: string, values: readonly unknown[]): Promise<Row | undefined> {
    const client = this.#client;
    if (!client || !this.#ready) throw new DatabaseFault('unavailable', 'not connected');
    try {
      const { rows } = await this.#within<pg.QueryResult<Row & pg.QueryResultRow>>(client.query(text, [...values]));
      return rows[0];
    } catch (error) {
      if (this.#client === client) this.renew();
      throw error;
    }
  }

  renew(): void {
    this.#giveUp();
    if (this.#closed) return;
    clearTimeout(this.#reconnect);
    const longest = Math.min(RECONNECT.max, RECONNECT.min * 2 ** this.#attempts);
    this.#attempts += 1;
    // Half of the pause is random, so that replicas that lost the same server do not reconnect at the same moment.
    this.#reconnect = setTimeout(() => void this.#connect(), longest * (0.5 + Math.random() / 2));
    this.#reconnect.unref();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#reconnect);
    this.#giveUp();
  }

  async #connect(): Promise<void> {
    const stream = this.#destination?.stream;
    const client = new ClientConnection({
      ...clientConfig(this.connection),
      ...(stream && { stream }),
      pipeline: true,
      application_name: 'tenantry events',
      statement_timeout: GIVEN_UP_AFTER,
    });
    this.#client = client;
    const lost = (): void => {
      if (this.#client === client) this.renew();
    };
    client.on('error', lost);
    client.on('end', lost);
    client.on('notification', ({ payload = '' }) => {
      if (this.#client === client) this.listener.message(payload);
    });
    try {
      await client.open(this.#connectTimeout, async () => {
        await proveWritable(async (text) => {
          const { rows } = await client.query<Record<string, unknown>>(text);
          await keepSession(client, rows[0]);
          return rows;
        });
      });
    } catch {
      lost();
      return;
    }
    if (this.#client !== client) return;
    this.#leave = this.#destination?.join({ address: addressOf(client), retire: lost });
    this.#ready = true;
    this.listener.connected();
  }

  /** @throws DatabaseFault after GIVEN_UP_AFTER; a pause of this process does not count against the server */
  async #within<T>(answer: Promise<T>): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        // Timers run before sockets are read: the answer may be there.
        setImmediate(reject, new DatabaseFault('unavailable', 'no answer in time'));
      }, GIVEN_UP_AFTER);
    });
    try {
      return await Promise.race([answer, late]);
    } finally {
      clearTimeout(timer);
      answer.catch(() => undefined);
    }
  }

  #giveUp(): void {
    const client = this.#client;
    this.#client = undefined;
    this.#leave?.();
    this.#leave = undefined;
    this.#ready = false;
    this.listening = false;
    // Not end(), which sends Terminate first and waits for a server that may hang.
    client?.cut();
  }
}
