// Which Redis server a connection leads to, and how much memory it uses. A process of Redis has a run id, and a history of writes
// has a replication id. After a restart or a failover one of them is another, however much of the data is the same.

/** The part of the driver's connection that is needed here. */
export interface RedisConnection {
  readonly status: string;
  info(section: string): Promise<string>;
  on(event: 'ready' | 'close', listener: () => void): unknown;
}

/** The server at the other end of one connection. Another connection is another object, even to the same server. */
export interface ConnectedServer {
  /** `redis:<run id>:<replication id>/<database>`. */
  readonly identity: string;
  /** Bytes that the server uses. */
  usedMemory: number;
}

export interface RedisServerWatch {
  /** Undefined until the server of this connection is known, and if it is no primary. */
  readonly current: ConnectedServer | undefined;
  close(): void;
}

/** Time (ms) between two questions on one connection. */
const ASK_EVERY = 1_000;

/**
 * @param database the number of the database that the connection uses
 * @param onError called with the first of several failures in a row; the user may not be allowed to use INFO
 */
export function watchRedisServer(
  client: RedisConnection,
  database: number,
  onError: (error: unknown) => void,
): RedisServerWatch {
  let current: ConnectedServer | undefined;
  /** Grows with each connection, so that an answer of a former connection counts for nothing. */
  let connection = 0;
  let timer: NodeJS.Timeout | undefined;
  let failing = false;
  let closed = false;

  async function ask(): Promise<void> {
    clearTimeout(timer);
    const asked = connection;
    try {
      const parts = await Promise.all(['server', 'replication', 'memory'].map((section) => client.info(section)));
      if (asked !== connection || closed) return;
      const fields = parts.join('\n');
      const identity = identityIn(fields, database);
      const usedMemory = Number(field(fields, 'used_memory') ?? 0);
      if (identity === undefined) current = undefined;
      else if (current?.identity === identity) current.usedMemory = usedMemory;
      else current = { identity, usedMemory };
      failing = false;
    } catch (error) {
      if (asked !== connection || closed) return;
      // The server may have become another one meanwhile.
      current = undefined;
      if (!failing) onError(error);
      failing = true;
    }
    timer = setTimeout(() => void ask(), ASK_EVERY).unref();
  }

  const begin = (): void => {
    connection += 1;
    current = undefined;
    void ask();
  };
  client.on('ready', begin);
  client.on('close', () => {
    connection += 1;
    current = undefined;
    clearTimeout(timer);
  });
  if (client.status === 'ready') begin();
  return {
    get current() {
      return current;
    },
    close() {
      closed = true;
      current = undefined;
      clearTimeout(timer);
    },
  };
}

function identityIn(fields: string, database: number): string | undefined {
  const runId = field(fields, 'run_id');
  const replicationId = field(fields, 'master_replid');
  if (runId === undefined || replicationId === undefined || field(fields, 'role') !== 'master') return undefined;
  return `redis:${runId}:${replicationId}/${database}`;
}

function field(fields: string, name: string): string | undefined {
  return new RegExp(`^${name}:([^\\r\\n]+)`, 'm').exec(fields)?.[1];
}
