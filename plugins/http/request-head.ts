// Refuses request heads that are unsafe although Node's HTTP parser accepts them. Two servers on the way could read different
// hosts or lengths from the head, or the address does not decode to text.
import type { IncomingMessage } from 'node:http';
import fp from 'fastify-plugin';
import { AppError } from '../../src/errors.js';

declare module 'fastify' {
  interface FastifyInstance {
    /** The error for an address that does not decode to text; undefined if it does. */
    readonly undecodable: (url: string) => AppError | undefined;
  }
}

export const requestHead = fp(
  async (app) => {
    // Node would answer any Expect but 100-continue with a bare 417. RFC 9110, section 10.1.1, lets a server ignore it.
    app.server.on('checkExpectation', (request, response) => app.server.emit('request', request, response));
    app.steps.head = (request, reply) => {
      const detail = ambiguity(request.raw);
      if (detail === undefined) return undefined;
      // The end of this request is uncertain too, so nothing after it on the connection is read.
      reply?.header('connection', 'close');
      throw new AppError('invalid-request', { detail, event: { name: 'ambiguous-request' } });
    };
    const undecodable = (url: string): AppError | undefined =>
      decodes(url) ? undefined : new AppError('invalid-request', { detail: UNDECODABLE });
    app.decorate('undecodable', undecodable);
    // After validation, which names the parameter if it knows it.
    app.addHook('preHandler', (request, _reply, done) => {
      done(undecodable(request.url));
    });
  },
  { name: 'request-head', fastify: '5.x', dependencies: ['rate-limit'] },
);

const UNDECODABLE = 'The address contains NUL, or percent-encoding that is not UTF-8.';

/** RFC 9112, sections 3.2 and 6.1. Node refuses the other ambiguities: two lengths, a length together with chunks, a bare LF. */
function ambiguity({ headers, httpVersion }: IncomingMessage): string | undefined {
  const { host } = headers;
  if (httpVersion === '1.0')
    return headers['transfer-encoding'] === undefined ? undefined : 'Send no Transfer-Encoding with HTTP/1.0.';
  if (host === undefined) return 'Send a Host header.';
  // With the server's joinDuplicateHeaders two Host headers arrive as one comma-separated list.
  if (host.includes(',')) return 'Send exactly one Host header.';
  return undefined;
}

function decodes(url: string): boolean {
  if (!url.includes('%')) return true;
  try {
    return !decodeURIComponent(url).includes('\0');
  } catch {
    return false;
  }
}
