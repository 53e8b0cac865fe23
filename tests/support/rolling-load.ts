// Clients of a topology whose replicas are replaced: each keeps its connection, and a quarter of what it sends is a POST with an
// Idempotency-Key.
import { randomUUID } from 'node:crypto';
import { Agent, request, type IncomingHttpHeaders } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Record<string, unknown>;
}

interface Sending {
  readonly token?: string;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  /** The client's own address: all of 127.0.0.0/8 is this machine. */
  readonly from?: string;
  readonly agent?: Agent;
}

/** Sends one request over a socket. Rejects if the connection fails. */
export async function send(
  url: string,
  method: string,
  { token, body, headers, from, agent }: Sending = {},
): Promise<Answer> {
  const text = body === undefined ? undefined : JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const outgoing = request(
      url,
      {
        method,
        ...(agent && { agent }),
        ...(from !== undefined && { localAddress: from }),
        headers: {
          ...(text !== undefined && { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }),
          ...(token !== undefined && { authorization: `Bearer ${token}` }),
          ...headers,
        },
      },
      (incoming) => {
        let received = '';
        incoming.setEncoding('utf8').on('data', (chunk: string) => (received += chunk));
        incoming.on('error', reject).on('end', () => {
          const parsed = received === '' ? {} : (JSON.parse(received) as Record<string, unknown>);
          resolve({ status: incoming.statusCode ?? 0, headers: incoming.headers, body: parsed });
        });
      },
    );
    outgoing.on('error', reject).end(text);
  });
}

interface Caller {
  readonly url: string;
  readonly token: string;
}

/** A product whose creation was answered. */
export interface Created {
  readonly id: string;
  readonly name: string;
}

export interface Failure {
  readonly method: string;
  /** The status and the body, or the reason why there was none. */
  readonly outcome: string;
  readonly at: number;
}

export interface Load {
  readonly clients: number;
  /** Requests so far. */
  readonly sent: number;
  /** Ends when the requests under way are answered. Safe to call again. */
  stop(): Promise<{
    readonly sent: number;
    readonly created: readonly Created[];
    readonly failures: readonly Failure[];
  }>;
}

const CLIENTS = 8;

/** Starts clients that send one request after the other until they are stopped. They repeat none. */
export function startLoad({ url, token, productId }: Caller & { readonly productId: string }): Load {
  // Each client has a connection of its own.
  const agent = new Agent({ keepAlive: true, maxSockets: CLIENTS });
  const load = { sent: 0, created: [] as Created[], failures: [] as Failure[] };
  let stopping = false;
  const client = async (number: number): Promise<void> => {
    for (let turn = number; !stopping; turn += 1) {
      const name = `load-${randomUUID()}`;
      const [method, path, sending] =
        turn % 4 === 0
          ? (['POST', '/products', { body: { name, price: '1.00' }, headers: { 'idempotency-key': name } }] as const)
          : (['GET', turn % 4 === 1 ? '/products?limit=5' : `/products/${productId}`, {}] as const);
      load.sent += 1;
      try {
        const { status, body } = await send(url + path, method, { token, agent, ...sending });
        if (status === 201) load.created.push({ id: String(body['id']), name });
        else if (status !== 200)
          load.failures.push({ method, outcome: `${status} ${JSON.stringify(body)}`, at: performance.now() });
      } catch (error) {
        load.failures.push({ method, outcome: String(error), at: performance.now() });
      }
      await sleep(10);
    }
  };
  const all = Promise.all(Array.from({ length: CLIENTS }, (_, number) => client(number)));
  return {
    clients: CLIENTS,
    get sent() {
      return load.sent;
    },
    stop: async () => {
      stopping = true;
      await all;
      agent.destroy();
      return load;
    },
  };
}

/** The created products that are not there exactly once, under the id that was answered. */
export async function notThereOnce({ url, token }: Caller, created: readonly Created[]): Promise<Created[]> {
  const ids = new Map<string, string[]>();
  let query = 'limit=100';
  for (;;) {
    const { status, body } = await send(`${url}/products?${query}`, 'GET', { token });
    if (status !== 200) throw new Error(`the list of products was answered ${status}`);
    for (const { id, name } of body['data'] as Created[]) ids.set(name, [...(ids.get(name) ?? []), id]);
    if (typeof body['nextCursor'] !== 'string') break;
    query = `limit=100&cursor=${encodeURIComponent(body['nextCursor'])}`;
  }
  return created.filter(({ id, name }) => ids.get(name)?.join() !== id);
}
