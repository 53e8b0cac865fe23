// The pg Pool under a connection pool: it makes, opens, keeps and closes the clients. The connection pool
// (db/driver/pool/pool.ts) decides which request gets which client. So pg's own queue and idle list stay empty, and an idle
// connection is handed out without passing through pg's Pool.
import pg from 'pg';
import { ClientConnection } from '../connection.js';
import { poolClosed } from '../database-fault.js';

/** How the clients of one pool are opened. */
interface Opening {
  /** Longest wait (ms) for one connection, its proof included. */
  readonly timeout: number;
  /** @throws if the connection must not be used */
  readonly prove: (client: ClientConnection) => Promise<void>;
  /** Called when pg's Pool begins to open a client. */
  readonly begun: (client: PooledClient) => void;
}

/** pg's types for the callback of `connect`. */
type Connected = ((error: Error) => void) | ((error: null, client: pg.Client) => void);

/**
 * A client as pg's Pool sees it: it is connected when it is proved, and `end` sends Terminate and waits.
 *
 * One class serves all pools. With a class for each pool, pg's code would meet a new kind of object in each, which the
 * JavaScript engine cannot optimise.
 */
export class PooledClient extends ClientConnection {
  readonly #opening: Opening;
  /** Set by pg's Pool when it hands the client out. */
  declare release?: (destroy: boolean) => void;
  #discarded = false;

  constructor(config: pg.ClientConfig & { readonly opening: Opening }) {
    super(config);
    this.#opening = config.opening;
  }

  override connect(): Promise<pg.Client>;
  override connect(callback: Connected): void;
  override connect(callback?: Connected): Promise<pg.Client> | undefined {
    this.#opening.begun(this);
    const opened = this.open(this.#opening.timeout, this.#opening.prove).then(() => this);
    if (!callback) return opened;
    const answer = callback as (error: unknown, client?: pg.Client) => void;
    opened.then(() => {
      answer(null, this);
    }, answer);
    return undefined;
  }

  /** Closes the connection, and waits until it has closed. */
  override end(): Promise<void>;
  override end(callback: (error: Error) => void): void;
  override end(callback?: (error: Error) => void): Promise<void> | undefined {
    this.close();
    const closed = this.closed.then(() => undefined);
    if (!callback) return closed;
    void closed.then(callback as () => void);
    return undefined;
  }

  /** Gives the client back to pg's Pool, which closes and forgets it. From the second call on it does nothing. */
  discard(): void {
    if (this.#discarded) return;
    this.#discarded = true;
    this.release?.(true);
  }
}

/** An attempt to open a connection. */
export interface Attempt {
  readonly client: PooledClient;
  /** Resolves when the client is open and proved. Rejects with the error of pg or of the proof; then the client closes. */
  readonly opened: Promise<void>;
}

/** One pg Pool. */
export class PooledClients {
  readonly #pool: pg.Pool;
  /** The client that pg's Pool began to open last. */
  #begun!: PooledClient;

  constructor(config: pg.ClientConfig, { timeout, prove }: Pick<Opening, 'timeout' | 'prove'>) {
    const begun = (client: PooledClient): void => {
      this.#begun = client;
    };
    const opening: Opening = { timeout, prove, begun };
    this.#pool = new pg.Pool({
      ...config,
      ...{ opening },
      // pg passes the whole configuration to the client, `opening` included. pg's types leave that out.
      Client: PooledClient as unknown as new () => PooledClient,
      // The connection pool bounds the clients (db/driver/pool/capacity.ts), and closes unused ones
      // (db/driver/pool/session-keeper.ts).
      max: Infinity,
      idleTimeoutMillis: 0,
    });
    // pg emits this for clients that failed to open, or are closing. Without a listener the process would end.
    this.#pool.on('error', () => undefined);
  }

  /** Begins to open a connection. @throws DatabaseFault after `end` */
  open(): Attempt {
    if (this.#pool.ending) throw poolClosed();
    // pg's Pool has no idle client and is never full, so it makes the client before `connect` returns.
    const opened = new Promise<void>((resolve, reject) => {
      this.#pool.connect((error) => {
        if (error) reject(error);
        else resolve();
      });
    });
    return { client: this.#begun, opened };
  }

  /** Opens no further client. Open clients stay open until they are discarded. */
  end(): void {
    void this.#pool.end();
  }
}
