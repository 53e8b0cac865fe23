// Admission: every step that a request passes before it is served, in one list. It runs before the body is read, again after the
// body, and again if a write waited long for a connection: rights can be revoked while a request waits.
import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { Registry } from '../../db/registry/registry-schema.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import type { Watch } from '../../db/driver/watched.js';
import {
  isRead,
  runSteps,
  type AdmissionStep,
  type AdmissionSteps,
  type Held,
} from '../../src/http/admission-steps.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly steps: AdmissionSteps;
    /** Checks the caller of a write again if the write waited long for its connection. */
    readonly watchOf: (request: FastifyRequest) => Watch<TenantDatabase> & Watch<Registry>;
    /**
     * Admits a request again if its admission is older than 250 ms. Call it before an act in a database that does not hold the
     * caller's rights.
     */
    readonly admitAgain: (request: FastifyRequest) => Promise<void>;
  }
  interface FastifyRequest {
    /** When the admission in force began, in ms of performance.now(). */
    admittedAt: number;
  }
}

/** An admission younger than this (ms) is not repeated: a body that is sent at once arrives within this time. */
const REUSED_FOR = 250;

/**
 * If the admission of a write is older than this (ms) when the write gets its connection, the caller is checked again. The write
 * has waited for the connection, or for a hash.
 */
const LOOKS_AGAIN_AFTER = 500;

export const admission = fp(
  async (app) => {
    const { steps } = app;
    const all: readonly AdmissionStep[] = [
      steps.head,
      steps.token,
      steps.tenant,
      steps.session,
      steps.userRate,
      steps.tenantRate,
      steps.permission,
      steps.recent,
    ];
    /** The steps whose result can change while a request waits. */
    const rights: readonly AdmissionStep[] = [steps.tenant, steps.session, steps.permission, steps.recent];

    app.decorateRequest('admittedAt', 0);
    // preParsing is the first hook after the rate limit, which adds its own hook to each route's onRequest.
    app.addHook('preParsing', (request, reply, _payload, done) => {
      request.admittedAt = performance.now();
      runSteps(all, request, { reply }, done);
    });
    // Decided by the time and not by the body: a chunked body can be held back and then be empty. A GET and a HEAD read no body.
    app.addHook('preValidation', (request, reply, done) => {
      if (isRead(request) || !request.principal || isYounger(request, REUSED_FOR)) {
        done();
        return;
      }
      request.admittedAt = performance.now();
      runSteps(rights, request, { reply }, done);
    });

    const again = (request: FastifyRequest, held?: Held): Promise<void> =>
      new Promise((resolve, reject) => {
        request.admittedAt = performance.now();
        runSteps(rights, request, { held }, (error) => {
          if (error) reject(error);
          else resolve();
        });
      });
    app.decorate('watchOf', (request) => ({
      got: (held: Held) => (isYounger(request, LOOKS_AGAIN_AFTER) ? undefined : again(request, held)),
      // The connections of a suspended tenant are ended. Its requests must be refused for the suspension, not as an unavailable
      // database.
      missed: () => steps.tenant(request, undefined, undefined),
      requester: request.requester,
    }));
    app.decorate('admitAgain', async (request) => {
      if (!isYounger(request, REUSED_FOR)) await again(request);
    });
  },
  {
    name: 'admission',
    fastify: '5.x',
    dependencies: [
      'request-head',
      'authentication',
      'tenant-pool',
      'sessions',
      'user-rate',
      'tenant-limits',
      'authorization',
      'recent-sign-in',
    ],
  },
);

/** @param ms maximum age of the admission */
function isYounger({ admittedAt }: FastifyRequest, ms: number): boolean {
  return performance.now() - admittedAt < ms;
}
