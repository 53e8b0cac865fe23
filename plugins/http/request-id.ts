// The request id: taken from the client where it is well formed, made otherwise, and told in X-Request-Id.
import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import fp from 'fastify-plugin';

export const requestId = fp(
  async (app) => {
    // On the way out: an answer that an earlier plugin gives, such as a preflight's, comes by here too.
    app.addHook('onSend', (request, reply, _payload, done) => {
      reply.header('x-request-id', request.id);
      done();
    });
  },
  { name: 'request-id', fastify: '5.x' },
);

/** For Fastify's `genReqId` option. An id with control bytes or of any length would let a client write into the log. */
export function generateRequestId(request: Pick<IncomingMessage, 'headers'>): string {
  const given = request.headers['x-request-id'];
  return typeof given === 'string' && /^[\w-]{1,64}$/.test(given) ? given : randomUUID();
}
