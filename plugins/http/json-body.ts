// Request bodies: JSON in UTF-8, not compressed, and parsed strictly. Fastify's own parser takes the last of two equal keys and
// replaces invalid UTF-8, so that a proxy could check other data than the service stores.
import type { IncomingHttpHeaders } from 'node:http';
import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { AppError } from '../../src/errors.js';
import { parseStrictJson } from '../../src/http/strict-json.js';

export const jsonBody = fp(
  async (app) => {
    app.removeAllContentTypeParsers();
    // Many clients send a content type with every request. On a route that needs no body, it has no meaning without a body.
    app.addHook('preParsing', (request, _reply, _payload, done) => {
      const { headers } = request.raw;
      if (!request.is404 && !needsBody(request)) {
        if (announcesNoBody(headers)) delete headers['content-type'];
        else if (!isJson(headers)) headers['content-type'] = UNNEEDED;
      }
      done();
    });
    // A chunked body may be empty.
    app.addContentTypeParser<Buffer>(UNNEEDED, { parseAs: 'buffer' }, (_request, body, done) => {
      done(body.length === 0 ? null : new AppError('unsupported-media-type'), undefined);
    });
    app.addContentTypeParser<Buffer>('application/json', { parseAs: 'buffer' }, (request, body, done) => {
      // A chunked body, or a body for an unknown address.
      if (body.length === 0 && !needsBody(request)) {
        done(null, undefined);
        return;
      }
      refuseOtherEncodings(request);
      done(null, parseStrictJson(textOf(body)));
    });
  },
  { name: 'json-body', fastify: '5.x' },
);

/** Replaces a missing content type, and every type other than JSON, on a route that needs no body. */
const UNNEEDED = 'application/vnd.tenantry.unneeded';

function isJson({ 'content-type': type = '' }: IncomingHttpHeaders): boolean {
  return /^application\/json\s*(?:;|$)/i.test(type);
}

function announcesNoBody(headers: IncomingHttpHeaders): boolean {
  return headers['transfer-encoding'] === undefined && (headers['content-length'] ?? '0') === '0';
}

function needsBody({ routeOptions }: FastifyRequest): boolean {
  return routeOptions.schema?.body !== undefined;
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

function textOf(body: Buffer): string {
  if (body.length === 0) throw new AppError('invalid-request', { detail: 'The body is empty. Send JSON.' });
  try {
    return utf8.decode(body);
  } catch {
    throw new AppError('invalid-request', { detail: 'The body is not valid UTF-8.' });
  }
}

function refuseOtherEncodings({ headers }: FastifyRequest): void {
  const { 'content-type': type = '', 'content-encoding': encoding = 'identity' } = headers;
  if (encoding.toLowerCase() !== 'identity')
    throw new AppError('unsupported-media-type', { detail: 'Send the body without a Content-Encoding.' });
  for (const [, charset = ''] of type.matchAll(/;\s*charset\s*=\s*"?([^";\s]*)/gi)) {
    if (charset.toLowerCase() !== 'utf-8')
      throw new AppError('unsupported-media-type', { detail: 'Send the body in the charset utf-8.' });
  }
}
