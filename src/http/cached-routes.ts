// Which routes are cached, and which routes change what is cached. Both declare the table in their options (`config`).
import { createHash } from 'node:crypto';
import type { FastifyRequest, RouteOptions } from 'fastify';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { packageVersion } from '../lib/package-version.js';
import { isRead } from './admission-steps.js';

/** A table of the tenants' databases. */
export type CachedTable = keyof TenantDatabase;

declare module 'fastify' {
  interface FastifyContextConfig {
    /**
     * The answers of this reading route are cached until a row of the table changes: the row of the path's `:id`, or any row. Of
     * the caller they depend on nothing but the tenant. The route sets no headers.
     */
    readonly cached?: CachedTable;
    /**
     * This route changes rows of the table: the row of the path's `:id`, of which the schema allows one spelling only. Without
     * `:id` it only adds rows. The start fails if a route under the address of a cached one changes something and does not
     * declare this.
     */
    readonly changes?: CachedTable;
    /** With `changes`: an answer 200 is what the cached route of the row answers after it, so it is stored as that. */
    readonly answersRow?: true;
  }
}

/** Keys that are longer are hashed. */
const MAX_KEY = 120;

/** The scope that the answer of a cached route follows. */
export function scopeOf(table: CachedTable, { params }: Pick<FastifyRequest, 'params'>): string {
  const { id } = params as { readonly id?: string };
  return id === undefined ? table : `${table}:${id}`;
}

/** The scopes that a write changes. */
export function changedScopes(table: CachedTable, request: Pick<FastifyRequest, 'params'>): string[] {
  return [...new Set([scopeOf(table, request), table])];
}

/**
 * Makes keys for a route: everything that its answer depends on besides the data. Params and query are as validated: one request
 * has one spelling.
 */
export function cacheKeys(
  url: string,
  hasQuery: boolean,
): (request: Pick<FastifyRequest, 'params' | 'query'>) => string {
  // Another version may answer in another form.
  const prefix = `${packageVersion()}:${url}:`;
  if (!hasQuery && rowUrl.test(url)) return ({ params }) => prefix + (params as { readonly id: string }).id;
  return ({ params, query }) => {
    const text = JSON.stringify([params, hasQuery ? query : null]);
    return prefix + (text.length <= MAX_KEY ? text : createHash('sha256').update(text).digest('base64url'));
  };
}

/** The address of a row: its only parameter is the id. */
const rowUrl = /^[^:*]*\/:id$/;

/** Whether the route answers one row, by its id. */
export function answersOneRow({ url, config }: Pick<CachedRoute, 'url' | 'config'>): boolean {
  return config?.cached !== undefined && rowUrl.test(url);
}

/** What is needed to know of a route here. */
export interface CachedRoute extends Pick<RouteOptions, 'method' | 'url'> {
  readonly config: RouteOptions['config'] | undefined;
}

/** Whether a Cache-Control header of a request demands an answer from the database (RFC 9111, section 5.2.1). */
export function refusesStored(cacheControl: string | undefined): boolean {
  return cacheControl !== undefined && /(?:^|[\s,])no-(?:cache|store)\s*(?:,|$)/i.test(cacheControl);
}

/**
 * Routes that change something under the address of a cached route and do not declare it.
 *
 * @returns `METHOD /url` of each
 */
export function undeclaredChanges(routes: readonly CachedRoute[]): string[] {
  const cached = routes.flatMap(({ config, url }) => (config?.cached ? [url.replace(/\/(?::id)?$/, '')] : []));
  return routes
    .filter(({ config, method, url }) => {
      const reads = [method].flat().every((one) => isRead({ method: one }));
      return !reads && !config?.changes && cached.some((base) => url === base || url.startsWith(`${base}/`));
    })
    .map(({ method, url }) => `${[method].flat().join(', ')} ${url}`);
}
