// Authorization: checks that the principal is still active, and holds the permission that the route declares.
import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { Kysely } from 'kysely';
import { findOperator } from '../../db/registry/operator-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { findStanding } from '../../db/tenant/user-queries.js';
import type { Held } from '../../src/http/admission-steps.js';
import type { Standing } from '../../src/auth/standing.js';
import type { Principal } from '../../src/auth/tokens.js';
import { AppError } from '../../src/errors.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** The principal's standing; null on a public route. */
    standing: Standing | null;
    /** The caller's permissions, as `resource:action`; empty for an operator. Throws if there is no caller. */
    readonly permissions: readonly string[];
  }
}

export const authorization = fp(
  async (app) => {
    const { standings, instruments } = app.engine;
    app.decorateRequest('standing', null);
    app.decorateRequest('permissions', { getter: permissionsOf });

    app.steps.permission = (request, _reply, held) => {
      const { principal } = request;
      if (!principal) return undefined;
      const known = principal.kind === 'user' ? standings.peekUser(principal.tenantId, principal.userId) : undefined;
      const decide = (standing: Standing | undefined): void => {
        // Also set if there is none: a user may have been deleted since the first admission, which had set a standing.
        request.standing = standing ?? null;
        if (!standing?.active) instruments.accessTokensRefused.inc({ reason: 'inactive-account' });
        const refused = refusal(request);
        if (refused) throw refused;
      };
      if (!known && held) return standingIn(held, principal).then(decide);
      if (!known)
        return principal.kind === 'user'
          ? standings.user(principal.tenantId, principal.userId).then(decide)
          : standings.operator(principal.operatorId).then(decide);
      decide(known);
      return undefined;
    };
  },
  { name: 'authorization', fastify: '5.x', dependencies: ['engine', 'authentication', 'tenant-pool'] },
);

function refusal(request: FastifyRequest): AppError | undefined {
  const { principal, standing } = request;
  if (!standing?.active)
    return new AppError('unauthenticated', {
      detail: 'The account of this access token is not active.',
      event: { name: 'inactive-account-used' },
    });
  if (principal?.kind !== 'user') return undefined;
  const { permission, orSelf } = request.routeOptions.config.access ?? {};
  if (permission === 'self') return undefined;
  if (permission !== undefined && standing.permissions.includes(permission)) return undefined;
  if (orSelf && (request.params as { readonly id?: string }).id === principal.userId) return undefined;
  return new AppError('forbidden', { detail: `You need the permission "${permission ?? ''}".` });
}

/** Read on a connection that the request holds, and not cached. */
async function standingIn(held: Held, principal: Principal): Promise<Standing | undefined> {
  if (principal.kind === 'user') return findStanding(held() as Kysely<TenantDatabase>, principal.userId);
  const operator = await findOperator(held() as Kysely<Registry>, principal.operatorId);
  return operator && { active: operator.active, permissions: [] };
}

function permissionsOf(this: FastifyRequest): readonly string[] {
  if (!this.standing) throw new Error('this request has no caller');
  return this.standing.permissions;
}
