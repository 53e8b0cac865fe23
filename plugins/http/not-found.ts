// Answers unknown addresses: 404, or 405 with Allow if the address exists for another method.
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { AppError } from '../../src/errors.js';

interface Address {
  readonly pattern: RegExp;
  readonly methods: Set<string>;
}

/**
 * Register it after the rate limit and admission, and before the routes. The rate limit does not count unknown routes by itself.
 * Counted here, a scanner is limited like every other client.
 */
export const notFound = fp(
  async (app) => {
    const allowedAt = watchMethods(app);
    const limit = app.rateLimit();
    const refuse = (request: FastifyRequest, reply: FastifyReply): never => {
      const undecodable = app.undecodable(request.url);
      if (undecodable) throw undecodable;
      const allowed = allowedAt(request.url);
      // The handler of a known route can also find nothing, such as a file that does not exist.
      if (allowed.length === 0 || allowed.includes(request.method)) throw new AppError('not-found');
      reply.header('allow', allowed.join(', '));
      throw new AppError('method-not-allowed');
    };
    // Before the body, because only a route can define the form of its body.
    app.addHook('preParsing', (request, reply, _payload, done) => {
      if (!request.is404) {
        done();
        return;
      }
      Promise.resolve(limit.call(app, request, reply))
        .then(() => refuse(request, reply))
        .catch(done);
    });
    app.setNotFoundHandler(refuse);
  },
  { name: 'not-found', fastify: '5.x', dependencies: ['@fastify/rate-limit', 'admission'] },
);

/**
 * Finds the methods that an address supports, for Allow (RFC 9110, section 10.2.1). The percent-encoding of the address must be
 * valid.
 */
function watchMethods(app: FastifyInstance): (url: string) => readonly string[] {
  const addresses = new Map<string, Address>();
  app.addHook('onRoute', ({ method, url }) => {
    const known = addresses.get(url) ?? { pattern: patternOf(url), methods: new Set() };
    addresses.set(url, known);
    // The CORS plugin's preflight route matches every address.
    for (const one of [method].flat()) if (url !== '*') known.methods.add(one);
  });
  return (url) => {
    // Decoded like in the router: an escaped slash stays inside its segment.
    const path = decodeURI(url.split('?')[0] ?? '');
    const allowed = new Set<string>();
    for (const { pattern, methods } of addresses.values())
      if (pattern.test(path)) for (const method of methods) allowed.add(method);
    return [...allowed].sort();
  };
}

/**
 * The pattern for a URL such as `/users/:id` or `/docs/static/*`, with or without a slash at the end. A segment contains no slash,
 * so it matches without backtracking.
 */
function patternOf(url: string): RegExp {
  const source = url
    .split('/')
    .map((part) =>
      part.startsWith(':') ? '[^/]+' : part === '*' ? '.*' : part.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&'),
    );
  return new RegExp(`^${source.join('/')}/?$`);
}
