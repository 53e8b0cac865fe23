// ETag on every answer that has a version, 304 for If-None-Match, and If-Match for handlers. A handler answers an object with
// `rowVersion`, which the schema of the answer leaves out of the body.
import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { ExpectedVersions, Versioned } from '../../db/shared/row-version.js';
import { isRead } from '../../src/http/admission-steps.js';
import { acceptedBy, etagOf, names } from '../../src/http/row-versions.js';

declare module 'fastify' {
  interface FastifyRequest {
    /**
     * The versions of the row that the request may change; undefined for any. A route that uses it declares the error
     * `precondition-failed`.
     *
     * @throws AppError `invalid-request` if the header is not valid
     */
    readonly ifMatch: ExpectedVersions;
  }
}

export const etags = fp(
  async (app) => {
    app.decorateRequest('ifMatch', {
      getter(this: FastifyRequest) {
        return acceptedBy(this.headers['if-match']);
      },
    });
    app.addHook('preSerialization', (_request, reply, payload, done) => {
      // A browser may keep such an answer, and must ask whether it is current.
      if (hasVersion(payload)) reply.header('etag', etagOf(payload)).header('cache-control', 'private, no-cache');
      done(null, payload);
    });
    app.addHook('onSend', (request, reply, payload, done) => {
      const etag = isRead(request) && reply.statusCode === 200 ? reply.getHeader('etag') : undefined;
      if (typeof etag !== 'string' || !names(request.headers['if-none-match'], etag)) {
        done(null, payload);
        return;
      }
      reply.code(304).removeHeader('content-type');
      // Of a HEAD Fastify still needs the payload, for its length.
      done(null, request.method === 'HEAD' ? payload : null);
    });
  },
  { name: 'etags', fastify: '5.x' },
);

function hasVersion(payload: unknown): payload is Versioned {
  return typeof (payload as Partial<Versioned> | null)?.rowVersion === 'string';
}
