// Asks a server to cancel the statement that runs on a connection (CancelRequest of the protocol).
//
// A CancelRequest names a backend and not a statement. It must not reach the backend while another request uses the connection:
// that request's statement would be cancelled. PostgreSQL signals the backend before it closes the request's socket, and a backend
// without a statement ignores the signal. So a connection may be used again after both the answer of the statement and the end of
// that socket, in any order.
import type { Socket } from 'node:net';
import pg from 'pg';

/**
 * - `done`: the server has read the request, signalled the backend, and closed the socket.
 * - `not-sent`: the server could not be reached. The statement goes on.
 * - `unknown`: the request was sent, and its end was not seen. It may reach the backend at any later time.
 */
export type CancelOutcome = 'done' | 'not-sent' | 'unknown';

/** Longest wait (ms) for the socket of the request: connect, TLS, and the end. */
const CANCEL_TIMEOUT = 1_000;

/** What the server sent when the connection was opened. */
export interface BackendKey {
  readonly processID: number;
  readonly secretKey: number;
}

/** pg's connection: its published types leave most of it out. */
type Wire = pg.Connection & {
  readonly stream: Socket;
  connect(portOrPath: number | string, host?: string): void;
  requestSsl(): void;
  cancel(processID: number, secretKey: number): void;
};

const Wire = pg.Connection as unknown as new (config: object) => Wire;

/**
 * Sends the request to the host and the port of the connection, behind TLS if the connection is. Never rejects.
 *
 * @param config of the connection to the backend
 */
export function requestCancel(
  { host = '', port = 0, ssl, stream }: pg.ClientConfig,
  { processID, secretKey }: BackendKey,
): Promise<CancelOutcome> {
  return new Promise((resolve) => {
    const wire = new Wire({ ssl, stream });
    let isSent = false;
    let isEnded = false;
    const timer = setTimeout(() => wire.stream.destroy(), CANCEL_TIMEOUT);
    const send = (): void => {
      wire.stream.once('end', () => (isEnded = true));
      isSent = true;
      wire.cancel(processID, secretKey);
    };
    wire.once('connect', () => {
      if (ssl) wire.requestSsl();
      else send();
    });
    wire.once('sslconnect', send);
    // It closes afterwards. A certificate that is not accepted does not close it.
    wire.on('error', () => wire.stream.destroy());
    wire.once('end', () => {
      clearTimeout(timer);
      if (!isSent) resolve('not-sent');
      else resolve(isEnded ? 'done' : 'unknown');
    });
    if (host.startsWith('/')) wire.connect(`${host}/.s.PGSQL.${port}`);
    else wire.connect(port, host);
  });
}
