// A connection for the statement of a person. The text goes by the extended protocol, in which PostgreSQL accepts one statement only.
// Values come back as PostgreSQL's own text. Time and bytes are bounded.
import { openPool, type ConnectionSettings } from './client.js';
import { answeredError, DatabaseFault, statementFault } from './database-fault.js';
import type { Session } from './pool/held-connection.js';
import type { PoolLimits, PoolOptions } from './pool/pool-types.js';

export interface PlainAnswer {
  /** The columns of the rows: name, and the OID of the type. */
  readonly columns: readonly { readonly name: string; readonly type: number }[];
  readonly rows: readonly (readonly (string | null)[])[];
  /** The first word of PostgreSQL's answer: `FETCH`, `UPDATE`. */
  readonly command: string;
  /** The number in PostgreSQL's answer; 0 if it has none. */
  readonly count: number;
}

export interface OneSession {
  /** Runs a text of this program. It is not interrupted. @throws DatabaseFault, or the server's error */
  run(text: string): Promise<readonly Readonly<Record<string, unknown>>[]>;
  /** Runs a text with the words of a person in it, as one statement. @throws AnsweredError, DatabaseFault, Interrupted */
  ask(text: string): Promise<PlainAnswer>;
}

/** The bounds of one session. */
export interface SessionBounds {
  /** Longest time (ms) of the whole work. Then the connection is cut. */
  readonly deadline: number;
  /** Most bytes that the server may send. */
  readonly bytes: number;
  /** Cancels what `ask` runs. */
  readonly signal: AbortSignal;
}

/** The reason of the fault if the server sent more than the bound. */
export const TOO_MANY_BYTES = 'the rows take too many bytes';

/** The statement was cancelled by the signal. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';
}

/** Opens a connection, works on it, and closes it. @throws DatabaseFault if there is no connection; errors of `work` */
export async function inOneSession<T>(
  connection: ConnectionSettings,
  limits: PoolLimits,
  options: PoolOptions,
  bounds: SessionBounds,
  work: (session: OneSession) => Promise<T>,
): Promise<T> {
  const pool = openPool(connection, { ...limits, max: 1 }, options);
  try {
    const session = await pool.connect();
    const unbind = bind(session, bounds);
    try {
      return await work({
        run: async (text) => (await session.run<Record<string, unknown>>(text, [])).rows,
        ask: (text) => ask(session, text, bounds.signal),
      });
    } finally {
      unbind();
      session.release();
    }
  } finally {
    await pool.close(0);
  }
}

/** Cuts the session at its bounds. Returns how to stop that. */
function bind(session: Session, { deadline, bytes }: SessionBounds): () => void {
  const timer = setTimeout(() => {
    session.cut(new DatabaseFault('timeout', 'no answer'));
  }, deadline);
  const { stream } = session.client.connection;
  let received = 0;
  const count = (chunk: Buffer): void => {
    received += chunk.length;
    if (received > bytes) session.cut(new DatabaseFault('unavailable', TOO_MANY_BYTES));
  };
  stream.on('data', count);
  return () => {
    clearTimeout(timer);
    stream.off('data', count);
  };
}

/** pg's types have neither the mode nor the parsers of one query. */
type Query = (config: object, answer: (error: Error | null, result: Result) => void) => void;

interface Result {
  readonly fields: readonly { readonly name: string; readonly dataTypeID: number }[];
  readonly rows: (string | null)[][];
  readonly command: string | null;
  readonly rowCount: number | null;
}

const AS_TEXT = { getTypeParser: () => (text: string) => text };

async function ask(session: Session, text: string, signal: AbortSignal): Promise<PlainAnswer> {
  if (isOver(signal)) throw new Interrupted();
  const { client } = session;
  const stop = (): void => {
    void client.requestCancel().finally(() => {
      session.cut(new DatabaseFault('unavailable', 'interrupted'));
    });
  };
  signal.addEventListener('abort', stop, { once: true });
  try {
    return await new Promise<PlainAnswer>((resolve, reject) => {
      const send = client.query.bind(client) as unknown as Query;
      send({ text, values: [], queryMode: 'extended', rowMode: 'array', types: AS_TEXT }, (error, result) => {
        if (error) reject(error);
        else
          resolve({
            columns: result.fields.map(({ name, dataTypeID }) => ({ name, type: dataTypeID })),
            rows: result.rows,
            command: result.command ?? '',
            count: result.rowCount ?? 0,
          });
      });
    });
  } catch (error) {
    if (isOver(signal)) throw new Interrupted();
    throw session.fault ?? answeredError(error) ?? statementFault(error) ?? error;
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

/** A function: otherwise TypeScript assumes that `aborted` stays as it was at the first check. */
function isOver(signal: AbortSignal): boolean {
  return signal.aborted;
}
