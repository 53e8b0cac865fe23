// The HTTP server of the metrics, on a port of its own: clients of the API must not read them. It is a plain node:http server, so
// that it answers while the app is full, drains or closes.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { v4 } from 'uuid';
import { AppError } from '../errors.js';
import type { Metrics } from '../observability/metrics.js';
import { AddressError } from './listen-address.js';
import { rawProblem, toProblem } from './problem.js';

export interface MetricsServer {
  /** The address that it listens on, such as `http://127.0.0.1:9464`. */
  readonly address: string;
  /** Ends the connections too; a scrape under way is answered first. */
  close(): Promise<void>;
}

export const METRICS_PATH = '/metrics';

/** A scraper sends a short head at once, and no body. */
const REQUEST_TIMEOUT = 5_000;
const MAX_HEADER_SIZE = 8 * 1_024;

/** Open connections, so that a flood costs no more than these. A scraper needs one. */
const MAX_CONNECTIONS = 100;

/**
 * Each scrape has a connection of its own. A client that sends many requests at once, and reads no answer, would make the process
 * hold all the answers.
 */
const REQUESTS_PER_CONNECTION = 1;

/** A connection on which nothing moves for so long (ms) is ended: its client does not read. The readings take at most 4 s. */
const IDLE_TIMEOUT = 10_000;

/** How long (ms) a scrape under way may take to end when the server closes. */
const LINGER = 1_000;

const METHODS = ['GET', 'HEAD'];

/** Node.js itself is measured from now on too. @throws AddressError if it cannot listen there */
export async function openMetricsServer(
  metrics: Pick<Metrics, 'expose' | 'measureNode'>,
  { host, port }: { readonly host: string; readonly port: number },
): Promise<MetricsServer> {
  const server = createServer(
    {
      requestTimeout: REQUEST_TIMEOUT,
      headersTimeout: REQUEST_TIMEOUT,
      connectionsCheckingInterval: 1_000,
      maxHeaderSize: MAX_HEADER_SIZE,
    },
    (request, response) => {
      answer(metrics, request, response).catch((error: unknown) => {
        refuse(response, error);
      });
    },
  );
  server.maxConnections = MAX_CONNECTIONS;
  server.maxRequestsPerSocket = REQUESTS_PER_CONNECTION;
  server.timeout = IDLE_TIMEOUT;
  server.on('clientError', (error: Error & { code?: string }, socket) => {
    if (error.code === 'ECONNRESET' || !socket.writable) socket.destroy();
    else socket.end(rawProblem(error, v4()), () => socket.destroy());
  });
  await listen(server, host, port);
  metrics.measureNode();
  const { address, port: taken, family } = server.address() as AddressInfo;
  return {
    address: `http://${family === 'IPv6' ? `[${address}]` : address}:${taken}`,
    close: () =>
      new Promise((resolve) => {
        const cut = setTimeout(() => {
          server.closeAllConnections();
        }, LINGER);
        server.close(() => {
          clearTimeout(cut);
          resolve();
        });
        server.closeIdleConnections();
      }),
  };
}

async function answer(
  metrics: Pick<Metrics, 'expose'>,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  // Read and dropped: otherwise a body would be taken for the next request.
  request.resume();
  const { method = '', url = '' } = request;
  if (url.split('?')[0] !== METRICS_PATH) throw new AppError('not-found');
  if (!METHODS.includes(method)) {
    response.setHeader('allow', METHODS.join(', '));
    throw new AppError('method-not-allowed');
  }
  const { contentType, body } = await metrics.expose();
  const bytes = Buffer.from(body);
  response.writeHead(200, {
    'content-type': contentType,
    'content-length': bytes.length,
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
  });
  // Node sends no body to a HEAD.
  response.end(bytes);
}

function refuse(response: ServerResponse, error: unknown): void {
  const { status, headers, body } = toProblem(error, v4());
  response.writeHead(status, headers).end(JSON.stringify(body));
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) => {
      reject(new AddressError(cause, { host, port, prefix: 'METRICS_' }));
    });
    server.listen(port, host, () => {
      server.removeAllListeners('error');
      // For example too many open files: the connection is lost, and the server goes on.
      server.on('error', () => undefined);
      resolve();
    });
  });
}
