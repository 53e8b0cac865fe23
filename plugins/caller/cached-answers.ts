// Cached answers: a route that declares `cached` answers from the read cache, and a route that declares `changes` invalidates before
// it is acknowledged (src/replicas/read-cache/read-cache.ts). A hit needs no connection to the tenant's database.
import type { FastifyInstance, FastifyReply, FastifyRequest, RouteHandlerMethod, RouteOptions } from 'fastify';
import fp from 'fastify-plugin';
import type { Versioned } from '../../db/shared/row-version.js';
import {
  answersOneRow,
  cacheKeys,
  changedScopes,
  refusesStored,
  scopeOf,
  undeclaredChanges,
  type CachedRoute,
  type CachedTable,
} from '../../src/http/cached-routes.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import { AppError } from '../../src/errors.js';
import { etagOf } from '../../src/http/row-versions.js';
import { REPLAYED } from '../../src/http/sent-answers.js';
import type { CachedWrite, Written } from '../../src/replicas/read-cache/cache-types.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** A write whose scopes are not released yet. */
    cachedWrite: CachedWrite | null;
  }
}

/** Headers that describe a change, which an error must not have. */
const OF_THE_CHANGE = ['location', 'etag', 'cache-control', 'idempotent-replayed'] as const;

/** Hits of this turn of the event loop, which are answered when all requests that have arrived were looked at. */
let hits: { readonly text: string; readonly reply: FastifyReply }[] = [];

/**
 * Answers together what arrived together. If each request were answered before the next is looked at, each answer would wake its
 * reader, which costs more than all the rest.
 */
function sendSoon(text: string, reply: FastifyReply): void {
  if (hits.push({ text, reply }) === 1) setImmediate(sendHits);
}

function sendHits(): void {
  const all = hits;
  hits = [];
  for (const { text, reply } of all) {
    try {
      reply.send(bodyOf(text, reply));
    } catch (error) {
      // This is outside the handler: Fastify does not catch it here.
      reply.send(error);
    }
  }
}

type KeyOf = ReturnType<typeof cacheKeys>;

export const cachedAnswers = fp(
  async (app) => {
    const { readCache, mustNotWrite, tenantDirectory } = app.engine;
    const routes: CachedRoute[] = [];
    const wrapped = new WeakSet<RouteHandlerMethod>();
    /** Makes the keys of the route that answers one row of a table. */
    const rowKeys = new Map<CachedTable, KeyOf>();
    app.decorateRequest('cachedWrite', null);

    function fromCache(
      cache: NonNullable<typeof readCache>,
      table: CachedTable,
      keyOf: KeyOf,
      handler: RouteHandlerMethod,
    ): RouteHandlerMethod {
      async function answerLater(
        this: FastifyInstance,
        request: FastifyRequest,
        reply: FastifyReply,
        answer: Promise<string | undefined>,
        own: { readonly answer?: unknown },
      ): Promise<unknown> {
        const text = await answer;
        if (text !== undefined) return bodyOf(text, reply);
        return 'answer' in own ? own.answer : handler.call(this, request, reply);
      }
      // It is not async: a hit in memory makes no promise.
      return function (request, reply) {
        // The epoch must be fresh: it names the database. The handler asks the database of the admission.
        const tenant = tenantDirectory.peek(request.tenantId);
        if (!tenant || tenant.epoch !== request.tenant?.epoch || refusesStored(request.headers['cache-control']))
          return handler.call(this, request, reply);
        const own: { answer?: unknown } = {};
        const read = {
          tenantId: tenant.id,
          place: placeOfTenant(tenant),
          epoch: tenant.epoch,
          scope: scopeOf(table, request),
          key: keyOf(request),
          requester: request.requester,
        };
        const answer = cache.read(read, async (requesters) => {
          request.requester = requesters;
          own.answer = await handler.call(this, request, reply);
          return reply.sent || reply.statusCode !== 200 ? undefined : written(own.answer, reply);
        });
        if (typeof answer !== 'string') return answerLater.call(this, request, reply, answer, own);
        sendSoon(answer, reply);
        return undefined;
      };
    }

    function invalidating(
      cache: NonNullable<typeof readCache>,
      table: CachedTable,
      handler: RouteHandlerMethod,
    ): RouteHandlerMethod {
      return async function (request, reply) {
        // Admission has set it. A move to another place makes another epoch, so that nothing of this place is read again.
        const { tenant } = request;
        const place = tenant ? placeOfTenant(tenant) : '';
        const scopes = changedScopes(table, request);
        request.cachedWrite = await cache.beginWrite(request.tenantId, place, scopes, tenant?.epoch);
        return handler.call(this, request, reply);
      };
    }

    /** With READ_CACHE=off. It is undefined from the start on, unless the registry was away then. */
    function refusing(handler: RouteHandlerMethod): RouteHandlerMethod {
      return function (request, reply) {
        if (mustNotWrite() === undefined) return handler.call(this, request, reply);
        throw new AppError('unavailable', {
          detail: 'Nothing was changed: other replicas may still cache what this one changes. Try again.',
          retryAfter: 1,
        });
      };
    }

    /** What a read of the row would answer now, if the write answered just that. A repeated answer is an old one. */
    function leftBy(request: FastifyRequest, reply: FastifyReply, payload: unknown): Written | undefined {
      const { changes, answersRow } = request.routeOptions.config;
      const keyOf = answersRow && changes && rowKeys.get(changes);
      if (!keyOf || typeof payload !== 'string' || reply.statusCode !== 200 || reply.hasHeader(REPLAYED))
        return undefined;
      const etag = reply.getHeader('etag');
      return { key: keyOf(request), value: `${typeof etag === 'string' ? etag : ''}\n${payload}` };
    }

    /** Runs after the commit of a write with an Idempotency-Key, and also for a repeated answer, which acknowledges again. */
    async function release(request: FastifyRequest, reply: FastifyReply, payload: unknown): Promise<unknown> {
      const write = request.cachedWrite;
      if (!write || !readCache) return payload;
      request.cachedWrite = null;
      if (reply.statusCode >= 300) {
        readCache.giveUp(write, reply.statusCode < 500);
        return payload;
      }
      try {
        await readCache.release(write, leftBy(request, reply, payload));
      } catch (error) {
        for (const name of OF_THE_CHANGE) reply.removeHeader(name);
        throw error;
      }
      return payload;
    }

    app.addHook('onRoute', (route: RouteOptions) => {
      const { config, method, url, handler } = route;
      routes.push({ config, method, url });
      if (wrapped.has(handler)) return;
      if (readCache && config?.cached) {
        const keyOf = cacheKeys(url, hasQuery(route));
        if (answersOneRow({ url, config })) rowKeys.set(config.cached, keyOf);
        route.handler = fromCache(readCache, config.cached, keyOf, handler);
      }
      if (!readCache && config?.changes) route.handler = refusing(handler);
      if (readCache && config?.changes) {
        route.handler = invalidating(readCache, config.changes, handler);
        route.onSend = [...[route.onSend ?? []].flat(), release];
      }
      if (route.handler !== handler) wrapped.add(route.handler);
    });
    app.addHook('onReady', async () => {
      const [undeclared] = undeclaredChanges(routes);
      if (undeclared !== undefined) throw new Error(`${undeclared} must declare in its config what it \`changes\``);
    });
  },
  {
    name: 'cached-answers',
    fastify: '5.x',
    dependencies: ['engine', 'tenant-pool', 'admission', 'etags', 'idempotency'],
  },
);

function placeOfTenant({ dbHost, dbPort }: TenantRecord): string {
  return `${dbHost}:${dbPort}`;
}

/** An answer as it is stored: its ETag, which may be empty, and its body. */
function written(answer: unknown, reply: FastifyReply): string {
  const { rowVersion } = answer as Partial<Versioned>;
  const etag = rowVersion === undefined ? '' : etagOf({ rowVersion });
  // The serializers of this service make texts.
  return `${etag}\n${reply.serialize(answer) as string}`;
}

/** The body of a stored answer, whose headers are set. */
function bodyOf(text: string, reply: FastifyReply): string {
  const end = text.indexOf('\n');
  // As plugins/http/etags.ts does.
  if (end > 0) reply.header('etag', text.slice(0, end)).header('cache-control', 'private, no-cache');
  reply.type('application/json; charset=utf-8');
  return text.slice(end + 1);
}

function hasQuery({ schema }: RouteOptions): boolean {
  return (schema as { readonly querystring?: unknown } | undefined)?.querystring !== undefined;
}
