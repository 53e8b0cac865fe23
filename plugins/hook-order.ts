// Which plugin acts at which hook, in the order in which Fastify executes them. tests/integration/hook-order.test.ts compares.

/**
 * The plugins by the names that they register under. Before the first hook Fastify gives the request its id
 * (plugins/http/request-id.ts). Between preParsing and preValidation the body is read.
 */
export const hookOrder = {
  /** For every request, whoever sends it. */
  onRequest: [
    'cors',
    'security-headers',
    // Added to each route by itself, so that it comes after the hooks of the app.
    'rate-limit',
  ],
  preParsing: [
    'request-log',
    'json-body',
    // Token, tenant, session, limits, permission: plugins/caller/admission.ts has the list of its steps.
    'admission',
    // Answers an address that leads nowhere.
    'not-found',
  ],
  /** After the body: rights may have been revoked while it arrived. */
  preValidation: ['admission'],
  /** After validation. */
  preHandler: ['request-head', 'tenant-limits'],
  onSend: ['quotas', 'request-id'],
  onResponse: ['request-log'],
} as const;
