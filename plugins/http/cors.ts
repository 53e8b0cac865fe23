// Cross-origin calls from browsers: allowed for the listed origins; an empty list allows none.
import corsPlugin from '@fastify/cors';
import fp from 'fastify-plugin';
import { QUOTA_HEADERS } from '../../src/http/quota-headers.js';

export const cors = fp<{ origins: readonly string[] }>(
  async (app, { origins }) => {
    if (origins.length === 0) return;
    await app.register(corsPlugin, {
      origin: [...origins],
      methods: ['GET', 'POST', 'PATCH', 'DELETE'],
      // A browser that traces sends both trace headers, and the preflight must allow both.
      allowedHeaders: ['authorization', 'content-type', 'x-request-id', 'traceparent', 'tracestate'],
      exposedHeaders: ['location', ...QUOTA_HEADERS, 'retry-after', 'x-request-id'],
      maxAge: 600,
      // Otherwise an OPTIONS without the preflight headers gets a 400 with the plugin's own text.
      strictPreflight: false,
    });
  },
  { name: 'cors', fastify: '5.x' },
);
