// A TCP proxy in this process that plays a network at fault, in front of a real server.
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

/**
 * - `pass`: bytes go both ways.
 * - `hang`: a black hole: connections are accepted and stay open, and nothing goes through, not even an end.
 * - `refuse`: new connections are reset at once.
 * - `swallow`: what the client says arrives, and what the server answers is lost.
 */
export type ProxyMode = 'pass' | 'hang' | 'refuse' | 'swallow';

export interface Proxy {
  readonly host: string;
  readonly port: number;
  /** Connections that are open to the proxy. */
  readonly open: number;
  /** Connections that were ever made to it. */
  readonly accepted: number;
  /** For open connections and for new ones. What came in during a hang is delivered when bytes pass again. */
  mode: ProxyMode;
  /** Delays (ms) each chunk that goes to the server. */
  delay: number;
  /** Resets every open connection. */
  cut(): void;
  close(): Promise<void>;
}

/** Starts one on a free port of the loopback interface. */
export async function startProxy(target: { readonly host: string; readonly port: number }): Promise<Proxy> {
  const pairs = new Set<readonly [client: Socket, server: Socket]>();
  let mode: ProxyMode = 'pass';
  let accepted = 0;

  const server = createServer((client) => {
    accepted += 1;
    if (mode === 'refuse') {
      client.resetAndDestroy();
      return;
    }
    const upstream = connect(target.port, target.host);
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
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;

  const proxy: Proxy = {
    host: '127.0.0.1',
    port,
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
