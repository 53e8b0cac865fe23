// One connection to a server. It opens under one deadline, the proof included, and its closing shows whether the server's backend
// is gone too.
import pg from 'pg';
import { requestCancel, type CancelOutcome } from './cancel.js';
import { DatabaseFault } from './database-fault.js';

/**
 * What is known about the server's backend after its connection has closed.
 *
 * - `gone`: the backend has ended or never began. The server closed the connection, after our Terminate or its own FATAL.
 *   PostgreSQL closes the socket when the process ends, and not before.
 * - `unknown`: the connection was cut or broke. The backend may be in a COMMIT that waits for a standby, or stopped. An end of
 *   stream without a message before it may come from a machine in between.
 */
export type Ending = 'gone' | 'unknown';

/** Longest wait (ms) for the server to close a connection after Terminate. */
export const CLOSE_MARGIN = 1_000;

/** How long (ms) a server may be silent while a connection opens: max(MIN_SILENCE, SILENCE_SHARE × deadline). */
const MIN_SILENCE = 1_500;
const SILENCE_SHARE = 3 / 8;

/** Interval (ms) of the checks for received bytes. */
const LISTEN_EVERY = 250;

/** Message X of the protocol. */
const TERMINATE = Buffer.from([0x58, 0, 0, 0, 4]);

/** SQLSTATE of the notice that a backend sends when it ends because another backend has crashed. */
const CRASH_OF_ANOTHER = '57P02';

interface Message {
  readonly severity?: string;
  readonly code?: string;
}

/**
 * What is known about the backend, from the start of the connection to its end:
 *
 *     new ── startup packet sent ──▶ asked ── BackendKeyData ──▶ reached (it has a pid) ── proved ──▶ open
 *     new ── closed ──▶ gone
 *     any later state ── we send Terminate, or it says FATAL; then the server closes ──▶ gone
 *     any later state ── closed in any other way ──▶ unknown
 */
export class ClientConnection extends pg.Client {
  declare readonly connection: pg.Connection & { _ending: boolean; readonly stream: { readonly bytesRead: number } };
  /** The backend's process id, after the server has sent it. */
  declare readonly processID: number | null;
  declare readonly secretKey: number | null;
  /** Resolves when the connection has closed. */
  readonly closed: Promise<Ending>;
  #asked = false;
  #ready = false;
  #opening = true;
  /** The backend has announced that it ends. */
  #fatal = false;
  #terminated = false;
  /** The other side has closed the stream, in order (`#endOfStream`) or with a reset (`#reset`). */
  #endOfStream = false;
  #reset = false;
  #closing = false;
  #lost: Error | undefined;
  #backendId: number | undefined;

  constructor(readonly config: Readonly<pg.ClientConfig>) {
    super(config);
    // The running statement fails with this error too. Without a listener the process would end.
    this.on('error', (error) => (this.#lost ??= error));
    const { connection } = this;
    // pg also closes its own side. Many proxies answer that by closing the other side while the backend goes on.
    connection.end = () => {
      connection._ending = true;
      this.#terminated = true;
      connection.stream.write(TERMINATE);
    };
    connection.once('connect', () => {
      if (config.ssl) return;
      this.#asked = true;
      this.#watchStream();
    });
    connection.once('sslconnect', () => {
      // The startup packet is sent after the TLS handshake. Before that, the server has no backend that counts.
      connection.stream.once('secureConnect', () => (this.#asked = true));
      this.#watchStream();
    });
    connection.on('errorMessage', ({ severity }: Message) => {
      // The severity comes in the server's language. Before the connection is ready, every error is fatal.
      if (!this.#ready || severity === 'FATAL' || severity === 'PANIC') this.#fatal = true;
    });
    connection.on('notice', ({ code }: Message) => {
      if (code === CRASH_OF_ANOTHER) this.#fatal = true;
    });
    this.closed = new Promise((resolve) => {
      connection.once('end', () => {
        resolve(this.#ending);
      });
    });
  }

  /** The process id of the backend that runs the statements. A pooler sends a process id of its own, which it knows in cancels. */
  get backendId(): number | null {
    return this.#backendId ?? this.processID;
  }

  /** A further connection to the same place, as the same role. */
  another(): ClientConnection {
    // Named, because pg's Pool hides the password from a spread.
    return new ClientConnection({ ...this.config, password: this.config.password, pipeline: false });
  }

  /** Records the backend behind a pooler (db/driver/pooled-session.ts). */
  isServedBy(backendId: number): void {
    this.#backendId = backendId;
  }

  /** Whether the connection is closing or was cut. */
  get closing(): boolean {
    return this.#closing;
  }

  /**
   * Connects and proves the connection. If either fails, the connection closes.
   *
   * A hung server is noticed before the deadline, and a distant server still gets the whole deadline. Each step of an opening is
   * one round trip, so the server may be silent for max(1.5 s, 3/8 × deadline).
   *
   * @param deadlineMs for everything: name look-up, TCP, TLS, authentication and proof
   * @throws DatabaseFault `unavailable` when the time is up or the server is silent; what pg or `prove` throws
   */
  async open(deadlineMs: number, prove?: (client: this) => Promise<void>): Promise<void> {
    const time = { isUp: false };
    const giveUp = (): void => {
      time.isUp = true;
      this.cut();
    };
    const timer = setTimeout(giveUp, deadlineMs);
    const listening = this.#listen(Math.max(MIN_SILENCE, deadlineMs * SILENCE_SHARE), giveUp);
    try {
      await super.connect();
      this.#ready = true;
      await prove?.(this);
      this.#checkLost();
      this.#opening = false;
    } catch (error) {
      this.#opening = false;
      this.close();
      throw time.isUp ? new DatabaseFault('unavailable', 'connection failed') : error;
    } finally {
      clearTimeout(timer);
      clearInterval(listening);
    }
  }

  /**
   * Sends Terminate, on a pipelined connection after the statements under way; then the server closes. The connection is cut at
   * once if it is not open yet, or if it is not pipelined and a statement runs on it.
   *
   * @param marginMs longest wait for the server to close; then the connection is cut
   */
  close(marginMs = CLOSE_MARGIN): void {
    if (this.#closing) return;
    if (this.#opening || (!this.#ready && !this.#fatal)) {
      this.cut();
      return;
    }
    this.#closing = true;
    // After FATAL the backend closes by itself.
    if (!this.#fatal) void super.end();
    const timer = setTimeout(() => {
      this.cut();
    }, marginMs).unref();
    void this.closed.then(() => {
      clearTimeout(timer);
    });
  }

  /** Closes the connection on this side at once. */
  cut(): void {
    this.#closing = true;
    this.connection.stream.destroy();
  }

  /** Asks the server to cancel what runs on this connection (db/driver/cancel.ts). Never rejects. */
  async requestCancel(): Promise<CancelOutcome> {
    const { processID, secretKey } = this;
    if (processID === null || secretKey === null) return 'not-sent';
    const outcome = await requestCancel(this.config, { processID, secretKey });
    // A pooler may close the socket before it passes the request on.
    return outcome === 'done' && this.#backendId !== undefined ? 'unknown' : outcome;
  }

  /** Calls `onSilence` when the server has sent nothing for `ms`. Stop it with clearInterval. */
  #listen(ms: number, onSilence: () => void): NodeJS.Timeout {
    // Under TLS pg replaces the stream. The bytes of the handshake arrive at this stream too.
    const { stream } = this.connection;
    let heard = stream.bytesRead;
    // Looks and not time: while this process stands still the server's bytes wait to be read, behind this timer.
    let looks = 0;
    return setInterval(() => {
      looks = stream.bytesRead === heard ? looks + 1 : 0;
      heard = stream.bytesRead;
      if (looks * LISTEN_EVERY >= ms) onSilence();
    }, LISTEN_EVERY);
  }

  /** @throws Error if the connection was lost or cut during its proof */
  #checkLost(): void {
    if (this.#lost) throw this.#lost;
    if (this.#closing) throw new Error('Connection terminated');
  }

  #watchStream(): void {
    const { stream } = this.connection;
    stream.once('end', () => (this.#endOfStream = true));
    stream.once('error', () => (this.#reset = true));
  }

  get #ending(): Ending {
    if (!this.#asked) return 'gone';
    if (this.#terminated && this.#endOfStream) return 'gone';
    return this.#fatal && (this.#endOfStream || this.#reset) ? 'gone' : 'unknown';
  }
}
