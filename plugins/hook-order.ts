// The plugins that act at each hook, in the order in which Fastify runs them. tests/integration/hook-order.test.ts compares.

/**
 * The plugins by the names that they register with. Before the first hook Fastify gives the request its id
 * (plugins/http/request-id.ts). Between preParsing and preValidation the body is read.
 */
export const hookOrder = {
  /** For every request of every client. */
  onRequest: [
    'request-metrics',
    'cors',
    'security-headers',
    // The plugin adds its hook to each route, so that the hook runs after the hooks of the app.
    'rate-limit',
  ],
  preParsing: [
    'request-log',
    'json-body',
    // Token, tenant, session, limits, permission: plugins/caller/admission.ts lists the steps.
    'admission',
    // Answers an unknown address.
    'not-found',
  ],
  /** After the body, because rights may have been revoked while the body arrived. */
  preValidation: ['admission'],
  /** After validation. */
  preHandler: ['request-head', 'tenant-limits'],
  preSerialization: ['etags'],
  /**
   * Idempotency is on the writes of tenants' users only. On acts on the registry, idempotent-acts is in its place. Cached answers are
   * on the writes that change what is cached.
   */
  onSend: ['quotas', 'etags', 'request-id', 'idempotency', 'cached-answers'],
  onResponse: ['request-metrics', 'request-log', 'idempotency'],
} as const;
