// Closes a connection whose client may still send. If a socket is destroyed while bytes wait to be read, TCP resets the
// connection, and the client may lose the answer that it has not read yet (RFC 9112, section 9.6).
import type { Socket } from 'node:net';

/** The longest (ms) that a client may go on sending after its answer. */
const LINGER = 5_000;

/** The most bytes that are read and discarded after the answer: about this many, because they are counted from time to time. */
export const LINGER_BYTES = 16 * 1024 * 1024;

/** Time (ms) between two counts. */
const COUNT_EVERY = 50;

const discarding = new WeakSet<Socket>();

/**
 * Sends what was written, then the end of the connection. Reads and discards what the client still sends, until the client ends
 * its side, or until LINGER or LINGER_BYTES is used up.
 */
export function closeLingering(socket: Socket): void {
  socket.end();
  boundDiscarding(socket, () => false);
  // Node's HTTP parser may have paused the socket, and only while it reads from the socket can it be resumed.
  socket.resume();
  process.nextTick(() => {
    // The parser reads no more: a request after this answer must not be served.
    socket.removeAllListeners('data');
    socket.on('data', () => undefined);
  });
}

/** Destroys the socket when LINGER or LINGER_BYTES is used up and `isOver` is still false. */
export function boundDiscarding(socket: Socket, isOver: () => boolean): void {
  discarding.add(socket);
  const until = performance.now() + LINGER;
  const last = socket.bytesRead + LINGER_BYTES;
  const stop = (): void => {
    clearInterval(timer);
    discarding.delete(socket);
  };
  const timer = setInterval(() => {
    if (isOver()) stop();
    else if (performance.now() > until || socket.bytesRead > last) socket.destroy();
  }, COUNT_EVERY);
  socket.once('close', stop);
}

/** Whether the client has its answer, and what it sends is discarded. It must get no second answer. */
export function isDiscarding(socket: Socket): boolean {
  return discarding.has(socket);
}
