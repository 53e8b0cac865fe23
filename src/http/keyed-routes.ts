// The routes whose writes honour an Idempotency-Key, by their access.
import type { RouteOptions } from 'fastify';
import { isRead } from './admission-steps.js';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The route only looks at something: it takes no Idempotency-Key, although it is a POST. */
    changesNothing?: true;
    /**
     * Answers a repeated request whose act is committed, and whose first answer was not stored: with what the route changed, as it
     * is now. Without it the answer is 204.
     *
     * @param targetId the id of what the act changed
     */
    answerAgain?: (request: FastifyRequest, reply: FastifyReply, targetId: string) => Promise<unknown>;
  }
}

/**
 * Where a route stores the answers of requests with a key: where it writes. Undefined if it takes no key.
 *
 * - `tenant`: the database of the tenant (plugins/caller/idempotency.ts)
 * - `registry`: acts of operators, and changes of a tenant's row by its users (plugins/caller/idempotent-acts.ts)
 */
export function keyedIn({
  config,
  method,
}: Pick<RouteOptions, 'config' | 'method'>): 'tenant' | 'registry' | undefined {
  if ([method].flat().every((one) => isRead({ method: one })) || config?.changesNothing) return undefined;
  const { scope, permission } = config?.access ?? {};
  if (scope === 'tenant') return 'tenant';
  if (scope === 'operator') return 'registry';
  // About the caller's own account: sign-out, sessions, passwords. The answers can contain tokens, which are never stored.
  return scope === 'platform' && permission !== 'self' ? 'registry' : undefined;
}
