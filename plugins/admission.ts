// Admission: every step that a request passes before it is served, in one list. It runs before the body is read, and again
// after the body: the sender decides how long the body takes, and rights can be revoked meanwhile.
import fp from 'fastify-plugin';
import { runSteps, type AdmissionStep } from '../src/admission.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** When the admission in force began, in ms of performance.now(). */
    admittedAt: number;
  }
}

/** An admission younger than this (ms) is not repeated: a body that is sent at once arrives within it. */
const REUSED_FOR = 250;

export const admission = fp(
  async (app) => {
    /** What can change while the body arrives. */
    const rights: readonly AdmissionStep[] = [app.admitTenant, app.admitSession, app.admitPermission];
    const steps: readonly AdmissionStep[] = [
      app.admitHead,
      app.admitToken,
      app.admitTenant,
      app.admitSession,
      app.admitRate,
      app.admitPermission,
    ];

    app.decorateRequest('admittedAt', 0);
    // preParsing is the first hook after the rate limit, which adds its own to each route's onRequest.
    app.addHook('preParsing', (request, reply, _payload, done) => {
      request.admittedAt = performance.now();
      runSteps(steps, request, reply, done);
    });
    // By the time and not by the body: a chunked body can be held back and turn out to be empty. A GET reads no body.
    app.addHook('preValidation', (request, reply, done) => {
      if (request.method === 'GET' || !request.principal || performance.now() - request.admittedAt < REUSED_FOR) {
        done();
        return;
      }
      request.admittedAt = performance.now();
      runSteps(rights, request, reply, done);
    });
  },
  {
    name: 'admission',
    fastify: '5.x',
    dependencies: ['request-head', 'authentication', 'tenant-pool', 'sessions', 'tenant-limits', 'authorization'],
  },
);
