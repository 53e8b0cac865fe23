// Builds the app: the plugins in the order in which a request passes them, then the routes.
import fastify, { LogController, type FastifyBaseLogger, type FastifyInstance } from 'fastify';
import { admission } from '../plugins/caller/admission.js';
import { audit } from '../plugins/caller/audit-origin.js';
import { authentication } from '../plugins/caller/authentication.js';
import { authorization } from '../plugins/caller/authorization.js';
import { cachedAnswers } from '../plugins/caller/cached-answers.js';
import { idempotency } from '../plugins/caller/idempotency.js';
import { idempotentActs } from '../plugins/caller/idempotent-acts.js';
import { recentSignIn } from '../plugins/caller/confirmation.js';
import { refusals } from '../plugins/caller/refusals.js';
import { cors } from '../plugins/http/cors.js';
import { earlyAnswers } from '../plugins/http/early-answers.js';
import { engine as enginePlugin } from '../plugins/http/engine.js';
import { etags } from '../plugins/http/etags.js';
import { answerClientError, answerFrameworkError, errors } from '../plugins/http/error-answers.js';
import { jsonBody } from '../plugins/http/json-body.js';
import { notFound } from '../plugins/http/not-found.js';
import { overload } from '../plugins/http/overload.js';
import { openapi } from '../plugins/http/openapi.js';
import { quotas } from '../plugins/http/quotas.js';
import { rateLimit } from '../plugins/http/rate-limit.js';
import { readiness } from '../plugins/http/readiness.js';
import { redis } from '../plugins/http/redis.js';
import { requestHead } from '../plugins/http/request-head.js';
import { requestId } from '../plugins/http/request-id.js';
import { requestLog } from '../plugins/http/request-log.js';
import { requestMetrics } from '../plugins/http/request-metrics.js';
import { schemas } from '../plugins/http/validation.js';
import { securityHeaders } from '../plugins/http/security-headers.js';
import { sessions } from '../plugins/caller/session.js';
import { tenantLimits } from '../plugins/caller/limits-of-tenant.js';
import { tenantPool } from '../plugins/caller/tenant-pool.js';
import { userRate } from '../plugins/caller/user-rate.js';
import { routes } from '../routes/index.js';
import { generateRequestId } from './http/request-ids.js';
import type { AdmissionSteps } from './http/admission-steps.js';
import type { Engine } from './engine/index.js';

/** Maximum bytes of a request's headers. */
const MAX_HEADER_SIZE = 16 * 1024;

/** How often (ms) Node checks for requests that have exceeded their time. */
const TIMEOUT_CHECK_INTERVAL = 1_000;

/**
 * The service on top of an engine, ready to listen or to receive injected requests. Closing the app closes the engine.
 *
 * @param engine an engine that does not serve yet
 */
export async function buildApp(engine: Engine): Promise<FastifyInstance> {
  const { config } = engine;
  const { http } = config;
  const logger: FastifyBaseLogger = engine.log;
  const app = fastify({
    loggerInstance: logger,
    // plugins/http/request-log.ts writes one line for each request; Fastify would write two.
    logController: new LogController({ disableRequestLogging: true }),
    genReqId: generateRequestId,
    requestIdHeader: false,
    trustProxy: http.trustProxy.length > 0 ? [...http.trustProxy] : false,
    bodyLimit: http.bodyLimit,
    // A slash at the end makes no difference, on any route.
    routerOptions: { ignoreTrailingSlash: true },
    requestTimeout: http.requestTimeout,
    keepAliveTimeout: http.keepAliveTimeout,
    http: {
      headersTimeout: http.requestTimeout,
      connectionsCheckingInterval: TIMEOUT_CHECK_INTERVAL,
      maxHeaderSize: MAX_HEADER_SIZE,
      // plugins/http/request-head.ts sees and refuses these. Node would drop the second of two headers, and answer a missing Host
      // with its own text.
      joinDuplicateHeaders: true,
      requireHostHeader: false,
    },
    // While the server closes, requests on open connections are still served: readiness has already turned the load balancer
    // away.
    return503OnClosing: false,
    frameworkErrors: answerFrameworkError,
    clientErrorHandler: answerClientError,
  });

  await app.register(enginePlugin, { engine });
  await app.register(readiness);
  app.decorate('steps', {} as AdmissionSteps);
  await app.register(requestMetrics);
  await app.register(overload, { limit: http.maxEventLoopDelay });
  await app.register(earlyAnswers, { bodyLimit: http.bodyLimit });

  // Before anything else: the errors of a plugin's own routes must already be problem documents.
  await app.register(errors);
  await app.register(schemas);

  await app.register(cors, { origins: http.corsOrigins });
  await app.register(securityHeaders);
  await app.register(quotas);
  await app.register(etags);
  await app.register(rateLimit, { max: http.rateLimitMax });
  await app.register(requestId);
  await app.register(requestLog);
  await app.register(requestHead);
  await app.register(jsonBody);
  await app.register(redis);

  await app.register(authentication, { config: config.auth, clock: engine.replicaClock.now });
  await app.register(tenantPool);
  await app.register(sessions);
  await app.register(userRate, { max: http.userRateLimitMax });
  await app.register(tenantLimits);
  await app.register(authorization);
  await app.register(recentSignIn);
  await app.register(admission);
  await app.register(notFound);
  await app.register(audit);
  await app.register(refusals);
  await app.register(idempotency);
  await app.register(idempotentActs);
  // After idempotency: it marks before the key is looked at, and releases after the commit.
  await app.register(cachedAnswers);

  await app.register(openapi);
  await app.register(routes, { config });

  await app.ready();
  return app;
}
