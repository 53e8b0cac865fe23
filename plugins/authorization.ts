// Authorization: the principal is still active, and holds the role that the route declares.
import fp from 'fastify-plugin';
import { createStandings, type Standing } from '../src/auth/standing.js';
import type { RouteAccess } from '../src/auth/access.js';
import { AppError } from '../src/errors.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** Whether the request comes from a user who is an admin of its tenant. */
    isTenantAdmin: boolean;
  }
}

export const authorization = fp(
  async (app) => {
    const standings = createStandings(app.registry, app.events, (tenantId) => app.tenantPools.database(tenantId));
    app.decorateRequest('isTenantAdmin', false);

    app.addHook('preParsing', (request, _reply, _payload, done) => {
      const { principal } = request;
      if (!principal) {
        done();
        return;
      }
      const known = principal.kind === 'user' ? standings.peekUser(principal.tenantId, principal.userId) : undefined;
      const decide = (standing: Standing | undefined): void => {
        request.isTenantAdmin = principal.kind === 'user' && (standing?.roles.includes('admin') ?? false);
        done(refusal(standing, principal.kind === 'user' ? request.routeOptions.config.access : undefined));
      };
      if (known) {
        decide(known);
        return;
      }
      const asked =
        principal.kind === 'user'
          ? standings.user(principal.tenantId, principal.userId)
          : standings.operator(principal.operatorId);
      asked.then(decide, done);
    });
  },
  { name: 'authorization', fastify: '5.x', dependencies: ['authentication', 'tenant-pool'] },
);

function refusal(standing: Standing | undefined, access: RouteAccess | undefined): AppError | undefined {
  if (!standing?.active) return new AppError('unauthenticated', { detail: 'The account of this token is not active.' });
  if (access?.role && !standing.roles.includes(access.role)) {
    return new AppError('forbidden', { detail: `This needs the role "${access.role}".` });
  }
  return undefined;
}
