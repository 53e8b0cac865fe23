// Addresses that lead nowhere: 404, or 405 with Allow if another method leads somewhere.
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { AppError } from '../../src/errors.js';

interface Address {
  readonly pattern: RegExp;
  readonly methods: Set<string>;
}

/**
 * To be registered after the rate limit and admission, and before the routes. The rate limit does not see unknown routes by
 * itself: a scanner is limited like every other client.
 */
export const notFound = fp(
  async (app) => {
    const allowedAt = watchMethods(app);
    const limit = app.rateLimit();
    const refuse = (request: FastifyRequest, reply: FastifyReply): never => {
      const undecodable = app.undecodable(request.url);
      if (undecodable) throw undecodable;
      const allowed = allowedAt(request.url);
      // A route that leads somewhere can find nothing there, such as a file that does not exist.
      if (allowed.length === 0 || allowed.includes(request.method)) throw new AppError('not-found');
      reply.header('allow', allowed.join(', '));
      throw new AppError('method-not-allowed');
    };
    // Before the body: what a body must be like is for a route to say.
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
 * Finds the methods that lead somewhere at an address whose percent-encoding is valid, for Allow (RFC 9110, section 10.2.1).
 */
function watchMethods(app: FastifyInstance): (url: string) => readonly string[] {
  const addresses = new Map<string, Address>();
  app.addHook('onRoute', ({ method, url: reported, prefix, routePath = '' }) => {
    // The root of a prefix is at two addresses, with a slash at its end and without. Fastify reports only one of the two.
    const isRoot = prefix !== '' && ['', '/'].includes(routePath);
    const url = isRoot ? prefix : reported;
    const known = addresses.get(url) ?? { pattern: patternOf(url, isRoot ? '/?' : ''), methods: new Set() };
    addresses.set(url, known);
    // The preflight's route of the CORS plugin is at every address.
    for (const one of [method].flat()) if (url !== '*') known.methods.add(one);
  });
  return (url) => {
    // Decoded as the router does it: an escaped slash stays inside its segment.
    const path = decodeURI(url.split('?')[0] ?? '');
    const allowed = new Set<string>();
    for (const { pattern, methods } of addresses.values())
      if (pattern.test(path)) for (const method of methods) allowed.add(method);
    return [...allowed].sort();
  };
}

/** Of `/users/:id` and `/docs/static/*`. A segment is matched without backtracking: it holds no slash. */
function patternOf(url: string, end: string): RegExp {
  const source = url
    .split('/')
    .map((part) =>
      part.startsWith(':') ? '[^/]+' : part === '*' ? '.*' : part.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&'),
    );
  return new RegExp(`^${source.join('/')}${end}$`);
}
