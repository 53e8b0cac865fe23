// A TCP proxy that reads PostgreSQL's protocol (version 3, without TLS): a test sees each statement before the server does,
// may hold it, and may lose its answer.
//
//     client ── statements ──▶ onStatement ── pass ──▶ server ── answer ──▶ client
//                                          └─ lose ──▶ server ── answer ──✗  the client's connection is reset
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

/**
 * - `pass`: the statement and its answer go through.
 * - `lose`: the server runs the statement to its end, the answer is dropped, and the connection is reset.
 */
export type Verdict = 'pass' | 'lose';

/** The unit that the server answers with one ReadyForQuery: a simple query, or everything up to a Sync. */
export interface Statement {
  /** Several statements are joined by `; `. */
  readonly sql: string;
  /** The connection's application_name at its start. */
  readonly application: string;
}

export interface StatementProxy {
  readonly host: string;
  readonly port: number;
  /** Called before each statement is forwarded; the statement waits until it resolves. An error resets the connection. */
  onStatement: (statement: Statement) => Verdict | Promise<Verdict>;
  close(): Promise<void>;
}

const SSL_REQUEST = 80_877_103;
const GSS_REQUEST = 80_877_104;
const CANCEL_REQUEST = 80_877_102;

const passEverything = (): Verdict => 'pass';

/** Starts a proxy on a free port of the loopback interface. */
export async function startStatementProxy(target: {
  readonly host: string;
  readonly port: number;
}): Promise<StatementProxy> {
  const clients = new Set<Socket>();
  const proxy: Omit<StatementProxy, 'host' | 'port'> = {
    onStatement: passEverything,
    async close() {
      for (const client of clients) client.resetAndDestroy();
      server.close();
      await once(server, 'close');
    },
  };
  const server = createServer((client) => {
    clients.add(client);
    client.on('close', () => clients.delete(client));
    relay(client, connect(target.port, target.host), (statement) => proxy.onStatement(statement));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return Object.assign(proxy, { host: '127.0.0.1', port: (server.address() as AddressInfo).port });
}

function relay(client: Socket, upstream: Socket, onStatement: StatementProxy['onStatement']): void {
  const cut = (): void => {
    client.resetAndDestroy();
    upstream.destroy();
  };
  for (const socket of [client, upstream]) {
    socket.setNoDelay();
    socket.on('error', cut);
  }
  client.on('close', () => upstream.destroy());
  upstream.on('close', () => client.destroy());

  /** One entry for each ReadyForQuery that the server owes, the oldest first. */
  const owed: Verdict[] = [];
  let application = '';
  let started = false;
  /** Messages that wait for their Sync, and the SQL in them. */
  let messages: Buffer[] = [];
  let texts: string[] = [];
  const prepared = new Map<string, string>();
  const portals = new Map<string, string>();
  /** Keeps statements in order, also while one is held. */
  let turn = Promise.resolve();

  function forward(bytes: Buffer, sql?: string): void {
    turn = turn
      .then(async () => {
        if (sql !== undefined) owed.push(await onStatement({ sql, application }));
        upstream.write(bytes);
      })
      .catch(cut);
  }

  const readClient = splitter((message) => {
    if (!started) {
      const code = message.readInt32BE(4);
      if (code === SSL_REQUEST || code === GSS_REQUEST) {
        client.write('N');
      } else {
        started = true;
        application = /\0application_name\0([^\0]*)\0/.exec(message.toString('utf8', 8))?.[1] ?? '';
        // The end of the handshake is a ReadyForQuery too; a CancelRequest gets no answer.
        if (code !== CANCEL_REQUEST) owed.push('pass');
        forward(message);
      }
      return;
    }
    const type = String.fromCharCode(message[0] ?? 0);
    const [first = '', second = ''] = message.toString('utf8', 5).split('\0', 2);
    if (type === 'P') prepared.set(first, second);
    if (type === 'B') portals.set(first, prepared.get(second) ?? '');
    if (type === 'E') texts.push(portals.get(first) ?? '');
    if (type === 'Q') texts.push(first);
    messages.push(message);
    // Parse, Bind, Describe, Execute and Close wait for their Sync; every other message is forwarded at once.
    if ('PBDEC'.includes(type)) return;
    const bytes = Buffer.concat(messages);
    if (type === 'Q' || type === 'S') {
      forward(bytes, texts.join('; '));
      texts = [];
    } else {
      forward(bytes);
    }
    messages = [];
  });

  const readServer = splitter((message) => {
    const verdict = owed[0] ?? 'pass';
    const isReady = message[0] === 'Z'.charCodeAt(0);
    if (isReady) owed.shift();
    if (verdict === 'pass') client.write(message);
    else if (isReady) cut();
  });

  client.on('data', (chunk: Buffer) => {
    readClient(chunk, () => !started);
  });
  upstream.on('data', (chunk: Buffer) => {
    readServer(chunk, () => false);
  });
}

/** Splits a stream into messages. Those of a client's start have a length and no type. */
function splitter(onMessage: (message: Buffer) => void): (chunk: Buffer, isUntyped: () => boolean) => void {
  let rest = Buffer.alloc(0);
  return (chunk, isUntyped) => {
    rest = Buffer.concat([rest, chunk]);
    for (;;) {
      const typeBytes = isUntyped() ? 0 : 1;
      if (rest.length < typeBytes + 4) return;
      const length = typeBytes + rest.readInt32BE(typeBytes);
      if (rest.length < length) return;
      const message = rest.subarray(0, length);
      rest = rest.subarray(length);
      onMessage(message);
    }
  };
}
