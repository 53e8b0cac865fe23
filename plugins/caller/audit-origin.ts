// The origin of a request for the audit rows of its acts (db/shared/audit-rows.ts): the caller, the client's address, the
// request id, and the claim of an Idempotency-Key (plugins/caller/idempotent-acts.ts).
import fp from 'fastify-plugin';
import type { AuditActor, AuditOrigin } from '../../db/shared/audit-rows.js';
import type { Principal } from '../../src/auth/tokens.js';
import { traceIdOf } from '../../src/http/trace-context.js';

declare module 'fastify' {
  interface FastifyRequest {
    readonly auditOrigin: AuditOrigin & { readonly address: string };
  }
}

/** Maximum characters of a User-Agent that are kept: clients can send any length. */
const MAX_USER_AGENT = 256;

export const audit = fp(
  async (app) => {
    app.decorateRequest('auditOrigin', {
      getter() {
        return {
          actor: actorOf(this.principal),
          address: this.ip,
          userAgent: this.headers['user-agent']?.slice(0, MAX_USER_AGENT),
          requestId: this.id,
          traceId: traceIdOf(this.raw),
          claim: this.keyedAct?.claim,
        };
      },
    });
  },
  { name: 'audit', fastify: '5.x', dependencies: ['authentication'] },
);

function actorOf(principal: Principal | null): AuditActor {
  if (!principal) return { kind: 'none' };
  return principal.kind === 'user'
    ? { kind: 'user', id: principal.userId }
    : { kind: 'operator', id: principal.operatorId, sessionId: principal.sessionId };
}
