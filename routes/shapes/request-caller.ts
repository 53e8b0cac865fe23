// The caller of a request, for routes that need one.
import type { FastifyRequest } from 'fastify';
import type { Actor } from '../../src/auth/caller.js';
import type { Principal } from '../../src/auth/tokens.js';

/** The user and the session of a request to a tenant, and whether the user has proved its password recently. */
export function actorOf(request: FastifyRequest): Actor {
  const principal = principalOf(request);
  if (principal.kind !== 'user') throw new Error('this request belongs to no user');
  return { userId: principal.userId, sessionId: principal.sessionId, recent: request.isRecent };
}

/** The names of the caller's tenant, which no password may be made of. */
export function tenantNames({ tenant }: FastifyRequest): readonly string[] {
  return tenant ? [tenant.name, tenant.slug] : [];
}

/** @throws Error on a public route */
export function principalOf({ principal }: FastifyRequest): Principal {
  if (!principal) throw new Error('this request has no caller');
  return principal;
}
