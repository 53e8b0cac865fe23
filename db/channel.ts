// A channel of PostgreSQL's LISTEN/NOTIFY that knows whether it works. A half-open socket looks healthy for minutes, so a
// heartbeat travels the whole way, out over one connection and in over another, and who asks learns when it stayed away.
import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { sql } from 'kysely';
import { clientConfig, createDatabase, type ConnectionSettings } from './client.js';
import { ClientConnection } from './connection.js';
import { addressOf, type Destination, type Destinations } from './destinations.js';
import { CROWDED } from './notify-queue.js';
import { CONNECT_TIMEOUT } from './pool-types.js';
import { proveWritable } from './proof.js';

export interface ChannelListener {
  /** One message of anybody's, this process included, in the order in which the transactions behind them committed. */
  message(text: string): void;
  /** Listening began, or began again: messages before this moment may have been missed. */
  connected(): void;
}

export interface Channel {
  /** Whether a heartbeat that was sent at most `SILENCE` ms ago has been heard. */
  readonly live: boolean;
  /** Sends messages to everybody who listens; resolves when they are committed. @throws DatabaseFault */
  publish(messages: readonly string[]): Promise<void>;
  close(): Promise<void>;
}

/** Behind this much silence (ms) the channel does not count as live. */
export const SILENCE = 500;

/** Between two heartbeats (ms): several may be lost or late before the channel counts as silent. */
const BEAT_EVERY = 100;

/** A connection that has been silent for this long (ms) is given up and made anew. */
const GIVEN_UP_AFTER = 2_000;

/** Between two attempts to connect (ms), at least and at most. */
const RECONNECT = { min: 50, max: 500 };

/** Two, so that a heartbeat never waits behind a message. */
const PUBLISHER = { max: 2, timeout: 1_000, idleTimeoutMillis: 60_000 };

export interface ChannelOptions {
  /** Longest wait (ms) while one of its connections is opened. */
  readonly connectTimeout?: number | undefined;
  readonly destinations?: Destinations | undefined;
}

/**
 * Opens a channel over a direct connection: LISTEN does not survive a pooler in transaction mode. Reconnects by itself for
 * as long as it is open.
 *
 * @param name of the channel; everything that NOTIFYs it, triggers too, is heard
 * @param connectTimeout longest wait (ms) while a connection is opened, and begins to listen
 */
export function openChannel(
  connection: ConnectionSettings,
  name: string,
  listener: ChannelListener,
  { connectTimeout = CONNECT_TIMEOUT, destinations }: ChannelOptions = {},
): Channel {
  return new NotifyChannel(connection, name, listener, connectTimeout, destinations);
}

class NotifyChannel implements Channel {
  readonly #publisher;
  /** A channel of this process alone: the others are not woken by its heartbeat. */
  readonly #beatName = `beat_${randomBytes(8).toString('hex')}`;
  readonly #beat: NodeJS.Timeout;
  #beating = false;
  readonly #destination: Destination | undefined;
  #client: ClientConnection | undefined;
  #leave: (() => void) | undefined;
  #reconnect: NodeJS.Timeout | undefined;
  #attempts = 0;
  /** When the last heartbeat that was heard had been sent. */
  #heardBeatOf = -Infinity;
  #connectedAt = 0;
  #closed = false;

  constructor(
    private readonly connection: ConnectionSettings,
    private readonly name: string,
    private readonly listener: ChannelListener,
    private readonly connectTimeout: number,
    destinations: Destinations | undefined,
  ) {
    const limits = { ...PUBLISHER, acquireTimeout: connectTimeout, connectTimeout };
    this.#publisher = createDatabase<unknown>(connection, limits, {
      applicationName: 'tenantry events',
      preparedStatements: true,
      prove: proveWritable,
      destinations,
    });
    this.#destination = destinations?.at(connection);
    this.#beat = setInterval(() => void this.#sendBeat(), BEAT_EVERY);
    this.#beat.unref();
    void this.#listen();
  }

  get live(): boolean {
    return performance.now() - this.#heardBeatOf < SILENCE;
  }

  async publish(messages: readonly string[]): Promise<void> {
    await sql`select pg_notify(${this.name}, message) from unnest(${messages}::text[]) as message`.execute(
      this.#publisher.db,
    );
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#beat);
    clearTimeout(this.#reconnect);
    this.#giveUp();
    await this.#publisher.close(0);
  }

  /** It has no maximum age: a publisher that was replaced and leads elsewhere is not heard, and then the listener is replaced too. */
  async #listen(): Promise<void> {
    const stream = this.#destination?.stream;
    const client = new ClientConnection({
      ...clientConfig(this.connection),
      ...(stream && { stream }),
      application_name: 'tenantry events',
    });
    this.#client = client;
    const lost = (): void => {
      if (this.#client === client) this.#tryAgain();
    };
    client.on('error', lost);
    client.on('end', lost);
    client.on('notification', ({ channel, payload = '' }) => {
      if (channel === this.#beatName) this.#heardBeatOf = Number(payload);
      else if (this.#client === client) this.listener.message(payload);
    });
    try {
      await client.open(this.connectTimeout, async () => {
        await proveWritable(async (text) => (await client.query<Record<string, unknown>>(text)).rows);
        await client.query(`listen ${pg.escapeIdentifier(this.name)}; listen ${pg.escapeIdentifier(this.#beatName)}`);
      });
    } catch {
      lost();
      return;
    }
    if (this.#client !== client) return;
    this.#leave = this.#destination?.join({
      address: addressOf(client),
      retire: lost,
    });
    this.#attempts = 0;
    this.#connectedAt = performance.now();
    this.listener.connected();
  }

  #tryAgain(): void {
    this.#giveUp();
    if (this.#closed) return;
    const longest = Math.min(RECONNECT.max, RECONNECT.min * 2 ** this.#attempts);
    this.#attempts += 1;
    // Half of it by chance: replicas that lost the same server must not come back in step.
    this.#reconnect = setTimeout(() => void this.#listen(), longest * (0.5 + Math.random() / 2));
    this.#reconnect.unref();
  }

  #giveUp(): void {
    const client = this.#client;
    this.#client = undefined;
    this.#leave?.();
    this.#leave = undefined;
    this.#connectedAt = 0;
    // Not end(): it says goodbye first, and waits for a server that may hang.
    client?.cut();
  }

  async #sendBeat(): Promise<void> {
    const now = performance.now();
    if (this.#connectedAt > 0 && now - Math.max(this.#heardBeatOf, this.#connectedAt) > GIVEN_UP_AFTER)
      this.#tryAgain();
    if (this.#beating) return;
    this.#beating = true;
    try {
      // Not into a crowded queue, in which triggers notify no more. Asking frees what everybody has read.
      await sql`select pg_notify(${this.#beatName}, ${String(now)}) where pg_notification_queue_usage() < ${CROWDED}`.execute(
        this.#publisher.db,
      );
    } catch {
      // Not heard, and so noticed where it matters.
    } finally {
      this.#beating = false;
    }
  }
}
