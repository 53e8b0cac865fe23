// The id of a request: the client's own id if it is well formed, otherwise a new one.
import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';

/** For Fastify's `genReqId` option. An id of any form or length would let a client write into the log. */
export function generateRequestId(request: Pick<IncomingMessage, 'headers'>): string {
  const given = request.headers['x-request-id'];
  return typeof given === 'string' && /^[\w-]{1,64}$/.test(given) ? given : randomUUID();
}
