// Answers that are given before the body has arrived, such as 401, 404 or 413: a client that is still sending can read them. What
// it still sends is discarded, within the bounds of src/http/lingering-close.ts.
import type { IncomingMessage, ServerResponse } from 'node:http';
import fp from 'fastify-plugin';
import { boundDiscarding, closeLingering } from '../../src/http/lingering-close.js';

export const earlyAnswers = fp<{ bodyLimit: number }>(
  async (app, { bodyLimit }) => {
    const { server } = app;
    const isTooLong = ({ headers }: IncomingMessage): boolean => Number(headers['content-length']) > bodyLimit;
    // Before Fastify, which may answer at once. Not a hook: a request without a body costs two look-ups here.
    server.prependListener('request', (request: IncomingMessage, response: ServerResponse) => {
      const { headers } = request;
      if (headers['content-length'] === undefined && headers['transfer-encoding'] === undefined) return;
      // No route takes such a body, so it is not worth reading to keep the connection.
      if (isTooLong(request)) response.shouldKeepAlive = false;
      // Before Node's own listener.
      response.prependListener('finish', () => {
        if (!request.complete) afterAnswer(request);
      });
    });
    // A client that waits for permission to send a body that is too long gets its 413 instead.
    server.on('checkContinue', (request: IncomingMessage, response: ServerResponse) => {
      if (!isTooLong(request)) response.writeContinue();
      server.emit('request', request, response);
    });
  },
  { name: 'early-answers', fastify: '5.x' },
);

function afterAnswer(request: IncomingMessage): void {
  const { socket } = request;
  let closes = false;
  // Node calls it, after this event, if this was the last answer on the connection.
  socket.destroySoon = () => {
    closes = true;
    closeLingering(socket);
  };
  process.nextTick(() => {
    if (closes) return;
    Reflect.deleteProperty(socket, 'destroySoon');
    // Node reads the rest of the body, however long it is, and keeps the connection.
    boundDiscarding(socket, () => request.complete);
  });
}
