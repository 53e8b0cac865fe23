// Responses that wait for their turn on a connection: a client may send further requests before it has read the first answer
// (RFC 9112, section 9.3.2). When such a connection ends, every Node emits `close` for the response whose turn it is. For those that
// wait, Node 24 emits it too, and Node 20 does not.
import type { ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

const waiting = new WeakMap<Socket, Set<ServerResponse>>();

/**
 * Makes the response emit `close` when its connection ends before its turn. Call it when the request arrives. It does nothing for a
 * response whose turn it is.
 */
export function closeWithConnection(socket: Socket, response: ServerResponse): void {
  if (response.socket !== null) return;
  let responses = waiting.get(socket);
  if (!responses) {
    const queue = new Set<ServerResponse>();
    waiting.set(socket, (responses = queue));
    socket.once('close', () => {
      // When Node has emitted `close` for those that wait, if it does that. Otherwise they would get it twice.
      setImmediate(() => {
        for (const one of queue) if (one.socket === null) leave(one);
      });
    });
  }
  responses.add(response);
  response.once('close', () => responses.delete(response));
}

function leave(response: ServerResponse): void {
  response.destroy();
  response.emit('close');
}
