// A TCP proxy in front of PostgreSQL that loses one message of one connection, as a broken network does.
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

/**
 * - `answer`: the message reaches the server, and the connection is cut before its answer reaches the client.
 * - `late`: the client's connection is cut; the server gets the message when `deliver` is called.
 */
export type Loss = 'answer' | 'late';

export interface LossyProxy {
  readonly host: string;
  readonly port: number;
  /**
   * Loses a message once: the first that matches the last pattern, on a connection whose earlier messages matched the other
   * patterns in order.
   */
  lose(loss: Loss, ...messages: readonly RegExp[]): void;
  /** Whether the message is lost. */
  readonly lost: boolean;
  /** Delivers the late message, if its connection is still open. */
  deliver(): void;
  close(): Promise<void>;
}

export async function startLossyProxy(target: { readonly host: string; readonly port: number }): Promise<LossyProxy> {
  const sockets = new Set<Socket>();
  let wanted: { readonly loss: Loss; readonly messages: readonly RegExp[] } | undefined;
  let deliver = (): void => undefined;

  const server = createServer((client) => {
    const upstream = connect(target.port, target.host);
    let matched: { of: typeof wanted; count: number } = { of: undefined, count: 0 };
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.setNoDelay(true);
      socket.on('error', () => undefined);
      socket.on('close', () => sockets.delete(socket));
    }
    let cut = false;
    client.on('data', (chunk: Buffer) => {
      if (wanted !== matched.of) matched = { of: wanted, count: 0 };
      if (wanted?.messages[matched.count]?.test(chunk.toString('latin1'))) matched.count += 1;
      if (wanted === undefined || matched.count < wanted.messages.length) {
        upstream.write(chunk);
        return;
      }
      const { loss } = wanted;
      wanted = undefined;
      cut = true;
      if (loss === 'late') {
        deliver = () => void upstream.write(chunk);
        client.resetAndDestroy();
        return;
      }
      upstream.write(chunk);
      upstream.once('data', () => {
        client.resetAndDestroy();
        upstream.destroy();
      });
    });
    upstream.on('data', (chunk: Buffer) => {
      if (!cut) client.write(chunk);
    });
    client.on('close', () => {
      if (!cut) upstream.destroy();
    });
    upstream.on('close', () => client.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;

  return {
    host: '127.0.0.1',
    port,
    lose(loss, ...messages) {
      wanted = { loss, messages };
    },
    get lost() {
      return wanted === undefined;
    },
    deliver: () => {
      deliver();
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}
