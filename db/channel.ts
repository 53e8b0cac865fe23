// One connection that listens to a channel of PostgreSQL's LISTEN/NOTIFY and asks, made again whenever it is lost. An answer on
// it also says that the connection works: what was sent to it before has been heard. It must be direct: LISTEN does not survive
// a pooler in transaction mode.
import pg from 'pg';
import { clientConfig, type ConnectionSettings } from './client.js';
import { DatabaseFault } from './errors.js';

export interface ChannelListener {
  /** One message of anybody's, this process included, in the order in which the transactions behind them committed. */
  message(text: string): void;
  /** Listening began, or began again: messages before this moment may have been missed. */
  connected(): void;
}

export interface Channel {
  /**
   * Runs one statement. Whatever goes wrong with it, the connection is made again.
   *
   * @throws DatabaseFault where there is no connection, or no answer within 2 s; the server's error
   */
  ask<Row>(text: string, values: readonly unknown[]): Promise<Row | undefined>;
  /** Gives the connection up and makes another. */
  renew(): void;
  close(): void;
}

/** A connection that does not answer for this long (ms) is given up and made again. */
const GIVEN_UP_AFTER = 2_000;

/** Between two attempts to connect (ms), at least and at most. */
const RECONNECT = { min: 50, max: 500 };

/**
 * Opens a channel. Reconnects by itself for as long as it is open.
 *
 * @param name of the channel; everything that NOTIFYs it, triggers too, is heard
 */
export function openChannel(connection: ConnectionSettings, name: string, listener: ChannelListener): Channel {
  return new NotifyChannel(connection, name, listener);
}

class NotifyChannel implements Channel {
  #client: pg.Client | undefined;
  /** Whether the client listens, and can be asked. */
  #ready = false;
  #reconnect: NodeJS.Timeout | undefined;
  #attempts = 0;
  #closed = false;

  constructor(
    private readonly connection: ConnectionSettings,
    private readonly name: string,
    private readonly listener: ChannelListener,
  ) {
    void this.#listen();
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
    // Half of it by chance: replicas that lost the same server must not come back in step.
    this.#reconnect = setTimeout(() => void this.#listen(), longest * (0.5 + Math.random() / 2));
    this.#reconnect.unref();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#reconnect);
    this.#giveUp();
  }

  async #listen(): Promise<void> {
    const client = new pg.Client({
      ...clientConfig(this.connection),
      application_name: 'tenantry events',
      connectionTimeoutMillis: GIVEN_UP_AFTER,
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
      await client.connect();
      await this.#within(client.query(`listen ${pg.escapeIdentifier(this.name)}`));
    } catch {
      lost();
      return;
    }
    if (this.#client !== client) return;
    this.#ready = true;
    this.#attempts = 0;
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
    this.#ready = false;
    // Not end(): it says goodbye first, and waits for a server that may hang.
    (client as (pg.Client & { connection: pg.Connection }) | undefined)?.connection.stream.destroy();
  }
}
