// The whole house at a glance: plugins in the order in which a request meets them, then the routes.
import fastify, { LogController, type FastifyBaseLogger, type FastifyInstance } from 'fastify';
import type { DestinationStream } from 'pino';
import type { Resolver } from '../db/destinations.js';
import { admission } from '../plugins/admission.js';
import { audit } from '../plugins/audit.js';
import { authentication } from '../plugins/authentication.js';
import { authorization } from '../plugins/authorization.js';
import { clusters } from '../plugins/clusters.js';
import { connectionLimits } from '../plugins/connection-limits.js';
import { cors } from '../plugins/cors.js';
import { counts } from '../plugins/counts.js';
import { credentials } from '../plugins/credentials.js';
import { cursors } from '../plugins/cursors.js';
import { destinations } from '../plugins/destinations.js';
import { answerClientError, answerFrameworkError, errors } from '../plugins/errors.js';
import { events } from '../plugins/events.js';
import { feedSweep } from '../plugins/feed-sweep.js';
import { housekeeping } from '../plugins/housekeeping.js';
import { jsonBody } from '../plugins/json-body.js';
import { lifecycle } from '../plugins/lifecycle.js';
import { notFound } from '../plugins/not-found.js';
import { openapi } from '../plugins/openapi.js';
import { provisioning } from '../plugins/provisioning.js';
import { quotas } from '../plugins/quotas.js';
import { rateLimit } from '../plugins/rate-limit.js';
import { readiness } from '../plugins/readiness.js';
import { redis } from '../plugins/redis.js';
import { registry } from '../plugins/registry.js';
import { requestHead } from '../plugins/request-head.js';
import { generateRequestId, requestId } from '../plugins/request-id.js';
import { requestLog } from '../plugins/request-log.js';
import { schemas } from '../plugins/schemas.js';
import { securityHeaders } from '../plugins/security-headers.js';
import { sessions } from '../plugins/sessions.js';
import { signIn } from '../plugins/sign-in.js';
import { notifyRelief } from '../plugins/notify-relief.js';
import { serverRoom } from '../plugins/server-room.js';
import { storageRelief } from '../plugins/storage-relief.js';
import { tenantLimits } from '../plugins/tenant-limits.js';
import { tenantPool } from '../plugins/tenant-pool.js';
import { userRate } from '../plugins/user-rate.js';
import { routes } from '../routes/index.js';
import type { Config } from './config/index.js';
import { createLogger } from './logging.js';
import { createEnvelope } from './tenancy/envelope.js';
import type { ProvisioningDeps } from './tenancy/provisioning.js';
import type { RotationDeps } from './tenancy/rotation.js';

export interface AppOverrides {
  /** Where log lines go, instead of standard output. */
  readonly logStream?: DestinationStream;
  /** Called after each provisioning step; an error it throws counts as the step's. */
  readonly afterProvisioningStep?: ProvisioningDeps['afterStep'];
  /** The same for each step of changing a tenant's database password. */
  readonly afterRotationStep?: RotationDeps['afterStep'];
  /** Resolves the names of PostgreSQL servers, instead of the system. */
  readonly resolve?: Resolver;
}

/** Bytes of a request's headers, at most. */
const MAX_HEADER_SIZE = 16 * 1024;

/** How often (ms) Node looks for requests that are over their time. */
const TIMEOUT_CHECK_INTERVAL = 1_000;

/** The service, ready to listen or to be injected into. Closing it closes every connection it opened. */
export async function buildApp(config: Config, overrides: AppOverrides = {}): Promise<FastifyInstance> {
  const { http } = config;
  const logger: FastifyBaseLogger = createLogger(config.log, overrides.logStream);
  const app = fastify({
    loggerInstance: logger,
    // One line a request is written by plugins/request-log.ts; Fastify's own are two.
    logController: new LogController({ disableRequestLogging: true }),
    genReqId: generateRequestId,
    requestIdHeader: false,
    trustProxy: http.trustProxy.length > 0 ? [...http.trustProxy] : false,
    bodyLimit: http.bodyLimit,
    requestTimeout: http.requestTimeout,
    keepAliveTimeout: http.keepAliveTimeout,
    http: {
      headersTimeout: http.requestTimeout,
      connectionsCheckingInterval: TIMEOUT_CHECK_INTERVAL,
      maxHeaderSize: MAX_HEADER_SIZE,
      // Seen and refused by plugins/request-head.ts. Node would drop the second of two headers, and answer a missing Host
      // in words of its own.
      joinDuplicateHeaders: true,
      requireHostHeader: false,
    },
    // While the server closes, what still arrives on open connections is served: the balancer was told before.
    return503OnClosing: false,
    frameworkErrors: answerFrameworkError,
    clientErrorHandler: answerClientError,
  });

  // Before anything else: a plugin's own routes must already fail and speak in our words.
  await app.register(errors);
  await app.register(schemas);

  await app.register(cors, { origins: http.corsOrigins });
  await app.register(securityHeaders);
  await app.register(counts);
  await app.register(quotas);
  await app.register(rateLimit, { max: http.rateLimitMax });
  await app.register(requestId);
  await app.register(requestLog);
  await app.register(requestHead);
  await app.register(jsonBody);

  const envelope = createEnvelope(config.encryptionKeys);
  await app.register(destinations, { config, resolve: overrides.resolve });
  await app.register(registry, { config });
  await app.register(events, { config: config.registry });
  await app.register(redis, { config: config.redis });
  await app.register(clusters, { config });
  await app.register(housekeeping, { config });
  await app.register(feedSweep);
  await app.register(authentication, { config: config.auth });
  await app.register(tenantPool, { config, envelope });
  await app.register(sessions, { config });
  await app.register(userRate, { max: http.userRateLimitMax });
  await app.register(tenantLimits, { config });
  await app.register(authorization);
  await app.register(admission);
  await app.register(notFound);
  await app.register(audit);

  await app.register(signIn, { config });
  await app.register(provisioning, {
    config,
    envelope,
    ...(overrides.afterProvisioningStep && { afterStep: overrides.afterProvisioningStep }),
  });
  await app.register(lifecycle, { config });
  await app.register(credentials, {
    config,
    envelope,
    ...(overrides.afterRotationStep && { afterRotationStep: overrides.afterRotationStep }),
  });
  await app.register(connectionLimits, { config });
  await app.register(storageRelief, { config });
  await app.register(notifyRelief, { config });
  await app.register(serverRoom);
  await app.register(cursors, { secrets: config.encryptionKeys.map(({ key }) => key) });
  await app.register(readiness);

  await app.register(openapi);
  await app.register(routes, { config });

  await app.ready();
  return app;
}
