// Security headers by helmet. An API's headers are the same for every answer, so helmet runs once, at the start. Running helmet
// for each request costs ten times as much as setting its headers. No cache may store an answer, unless its route says otherwise
// (docs/reference/api.md#caches).
import helmet from '@fastify/helmet';
import fastify from 'fastify';
import fp from 'fastify-plugin';

declare module 'fastify' {
  interface FastifyInstance {
    /** For an answer for which no hook runs. */
    readonly securityHeaders: Readonly<Record<string, string>>;
  }
}

export const securityHeaders = fp(
  async (app) => {
    const headers = await constantHeaders();
    app.decorate('securityHeaders', headers);
    app.addHook('onRequest', (_request, reply, done) => {
      reply.headers(headers);
      done();
    });
  },
  { name: 'security-headers', fastify: '5.x' },
);

async function constantHeaders(): Promise<Record<string, string>> {
  const probe = fastify();
  await probe.register(helmet, {
    contentSecurityPolicy: { useDefaults: false, directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] } },
    crossOriginResourcePolicy: { policy: 'same-origin' },
    referrerPolicy: { policy: 'no-referrer' },
    strictTransportSecurity: { maxAge: 31_536_000, includeSubDomains: true },
    // These headers are for pages, and an API has none; frame-ancestors replaces X-Frame-Options.
    crossOriginEmbedderPolicy: false,
    crossOriginOpenerPolicy: false,
    originAgentCluster: false,
    xDnsPrefetchControl: false,
    xDownloadOptions: false,
    xFrameOptions: false,
    xPermittedCrossDomainPolicies: false,
    xXssProtection: false,
  });
  probe.get('/', async () => '');
  const { headers } = await probe.inject('/');
  await probe.close();
  const named = [
    'content-security-policy',
    'cross-origin-resource-policy',
    'referrer-policy',
    'strict-transport-security',
    'x-content-type-options',
  ];
  const set = named.map((name): [string, string] => {
    const value = headers[name];
    if (typeof value !== 'string') throw new Error(`helmet set no ${name}`);
    return [name, value];
  });
  return { ...Object.fromEntries(set), 'cache-control': 'no-store' };
}
