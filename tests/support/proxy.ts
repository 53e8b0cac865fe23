// A TCP proxy in this process that simulates a faulty network in front of a real server.
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

/**
 * - `pass`: bytes go both ways.
 * - `hang`: a black hole: connections are accepted and stay open, but no byte passes, and no end of a connection.
 * - `refuse`: new connections are reset at once.
 * - `swallow`: the client's bytes arrive, and the server's answers are lost.
 */
export type ProxyMode = 'pass' | 'hang' | 'refuse' | 'swallow';

export interface Proxy {
  readonly host: string;
  readonly port: number;
  /** Open connections to the proxy. */
  readonly open: number;
  /** All connections so far. */
  readonly accepted: number;
  /** For open and new connections. Bytes that came in during a hang are delivered when bytes pass again. */
  mode: ProxyMode;
  /** Delay (ms) of each chunk that goes to the server. */
  delay: number;
  /** The target of new connections; open connections keep theirs. */
  target: { readonly host: string; readonly port: number };
  /** Resets every open connection. */
  cut(): void;
  close(): Promise<void>;
}

/** Starts a proxy on a free port of the loopback interface, or on the given port. */
export async function startProxy(
  target: { readonly host: string; readonly port: number },
  at: { readonly host: string; readonly port: number } = { host: '127.0.0.1', port: 0 },
): Promise<Proxy> {
  const pairs = new Set<readonly [client: Socket, server: Socket]>();
  let mode: ProxyMode = 'pass';
  let accepted = 0;

  const server = createServer((client) => {
    accepted += 1;
    if (mode === 'refuse') {
      client.resetAndDestroy();
      return;
    }
    const upstream = connect(proxy.target.port, proxy.target.host);
    const pair = [client, upstream] as const;
    pairs.add(pair);
    for (const [from, to] of [pair, [upstream, client]] as const) {
      from.on('data', (chunk: Buffer) => {
        if (mode === 'swallow' && from === upstream) return;
        if (proxy.delay > 0 && from === client) setTimeout(() => to.write(chunk), proxy.delay);
        else to.write(chunk);
      });
      from.on('error', () => undefined);
      from.on('close', () => {
        pairs.delete(pair);
        if (mode !== 'hang') to.destroy();
      });
      if (mode === 'hang') from.pause();
    }
  });
  server.listen(at.port, at.host);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;

  const proxy: Proxy = {
    host: at.host,
    port,
    target,
    delay: 0,
    get open() {
      return pairs.size;
    },
    get accepted() {
      return accepted;
    },
    get mode() {
      return mode;
    },
    set mode(next) {
      mode = next;
      for (const socket of [...pairs].flat()) {
        if (next === 'hang') socket.pause();
        else socket.resume();
      }
      if (next === 'refuse') proxy.cut();
    },
    cut() {
      for (const [client, upstream] of pairs) {
        client.resetAndDestroy();
        upstream.destroy();
      }
    },
    async close() {
      proxy.cut();
      server.close();
      await once(server, 'close');
    },
  };
  return proxy;
}
