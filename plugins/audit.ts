// The audit: who makes a request and from where, for the rows that acts write (db/audit.ts), and the trail of those that are
// written after the answer.
import fp from 'fastify-plugin';
import type { AuditActor, AuditOrigin } from '../db/audit.js';
import { createAuditTrail, type AuditTrail } from '../src/audit.js';
import type { Principal } from '../src/auth/tokens.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly audit: AuditTrail;
  }
  interface FastifyRequest {
    readonly auditOrigin: AuditOrigin & { readonly address: string };
  }
}

/** Characters of a User-Agent that are kept: clients send what they like. */
const MAX_USER_AGENT = 256;

export const audit = fp(
  async (app) => {
    const trail = createAuditTrail({
      registry: app.registry,
      tenantDb: (tenantId) => app.tenantPools.database(tenantId),
      findTenant: (slugOrId) => app.tenantDirectory.findBySlugOrId(slugOrId),
      onError: (err, context) => {
        app.log.error({ err, ...context }, 'could not write audit entries');
      },
    });
    app.decorate('audit', trail);
    app.addHook('onClose', () => trail.close());
    app.decorateRequest('auditOrigin', {
      getter() {
        return {
          actor: actorOf(this.principal),
          address: this.ip,
          userAgent: this.headers['user-agent']?.slice(0, MAX_USER_AGENT),
          requestId: this.id,
        };
      },
    });
  },
  { name: 'audit', fastify: '5.x', dependencies: ['registry', 'authentication', 'tenant-pool'] },
);

function actorOf(principal: Principal | null): AuditActor {
  if (!principal) return { kind: 'none' };
  return principal.kind === 'user'
    ? { kind: 'user', id: principal.userId }
    : { kind: 'operator', id: principal.operatorId, sessionId: principal.sessionId };
}
