// Records refused requests that are security events: forged tokens, ended sessions, missing permissions, rate limits.
import fp from 'fastify-plugin';
import { refusalEvent } from '../../src/observability/security-events.js';

export const refusals = fp(
  async (app) => {
    const { record } = app.engine.security;
    app.refusalListeners.push((refusal, request) => {
      const event = refusalEvent(refusal);
      if (!event) return;
      const { principal, method, routeOptions } = request;
      const tenantId = principal?.kind === 'user' ? principal.tenantId : undefined;
      const where = { method, route: routeOptions.url ?? 'none', tenantId };
      record(event, { reason: refusal.event?.reason, ...where }, request.auditOrigin);
    });
  },
  { name: 'refusals', fastify: '5.x', dependencies: ['engine', 'errors', 'audit'] },
);
