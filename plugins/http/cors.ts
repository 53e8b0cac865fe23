// Cross-origin calls from browsers: allowed for the listed origins; an empty list allows none.
import corsPlugin from '@fastify/cors';
import type { IncomingMessage } from 'node:http';
import fp from 'fastify-plugin';
import { QUOTA_HEADERS } from '../../src/http/quota-headers.js';

declare module 'fastify' {
  interface FastifyInstance {
    /** For an answer for which no hook runs. */
    readonly corsHeaders: (request: Pick<IncomingMessage, 'headers'>) => Readonly<Record<string, string>>;
    /**
     * For an answer to bytes that Node's parser refused, whose Origin is not known. Every page may read such an answer: it holds
     * nothing but the kind of the failure and a request ID.
     */
    readonly corsHeadersWithoutOrigin: Readonly<Record<string, string>>;
  }
}

/** Every request header of the API that a browser asks for in a preflight. */
const REQUEST_HEADERS = [
  'authorization',
  'content-type',
  'idempotency-key',
  'if-match',
  'if-none-match',
  'x-request-id',
  // A browser that traces sends both.
  'traceparent',
  'tracestate',
];

/** Every header of the API's answers that a browser hides from a page by default. */
const ANSWER_HEADERS = [
  'allow',
  'etag',
  'idempotent-replayed',
  'location',
  'retry-after',
  'www-authenticate',
  'x-request-id',
  ...QUOTA_HEADERS,
];

export const cors = fp<{ origins: readonly string[] }>(
  async (app, { origins }) => {
    const exposed = { 'access-control-expose-headers': ANSWER_HEADERS.join(', ') };
    app.decorate(
      'corsHeadersWithoutOrigin',
      origins.length === 0 ? {} : { 'access-control-allow-origin': '*', ...exposed },
    );
    app.decorate('corsHeaders', ({ headers: { origin } }) => {
      if (origins.length === 0) return {};
      const allowed = origin !== undefined && origins.includes(origin);
      return { vary: 'Origin', ...exposed, ...(allowed && { 'access-control-allow-origin': origin }) };
    });
    if (origins.length === 0) return;
    await app.register(corsPlugin, {
      origin: [...origins],
      methods: ['GET', 'HEAD', 'POST', 'PATCH', 'DELETE'],
      allowedHeaders: REQUEST_HEADERS,
      exposedHeaders: ANSWER_HEADERS,
      // For browsers. Other caches must not keep a preflight.
      maxAge: 600,
      cacheControl: 'no-store',
      // Otherwise an OPTIONS without the preflight headers gets a 400 with the plugin's own text.
      strictPreflight: false,
    });
  },
  { name: 'cors', fastify: '5.x' },
);
