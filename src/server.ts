// The process: configuration → engine → app → listen → drain → close.
import type { FastifyInstance } from 'fastify';
import { within } from './lib/deadline.js';
import { buildApp } from './app.js';
import { prepare } from './boot/index.js';
import { ConfigError, processEnvironment, readSettings, type Settings } from './config/index.js';
import type { EmbeddedCluster } from './embedded/embedded-cluster.js';
import { createEngine, type Engine } from './engine/index.js';
import { MetricsAddressError, openMetricsServer, type MetricsServer } from './http/metrics-server.js';
import { followSignals } from './observability/level-signal.js';
import { createLogger } from './observability/logger.js';
import { lowerPoolPriority } from './lib/thread-priority.js';

let engine: Engine | undefined;
let app: FastifyInstance | undefined;
let embedded: EmbeddedCluster | undefined;
let metrics: MetricsServer | undefined;
let stopping: Promise<void> | undefined;

// The last chance, and synchronous: however this process ends, the embedded server ends too.
process.on('exit', () => {
  if (embedded?.pid !== undefined) process.kill(embedded.pid, 'SIGINT');
});

try {
  const settings = readSettings(processEnvironment());
  const log = createLogger(settings.log);
  followSignals(log, settings.production);
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      // A second signal means: do not wait.
      if (stopping) process.exit(1);
      log.info({ signal }, 'the service is stopping');
      stopping = stop(settings).then(
        () => process.exit(0),
        (error: unknown) => {
          log.fatal({ err: error }, 'the service could not stop in order');
          process.exit(1);
        },
      );
    });
  }
  const prepared = await prepare(settings, log, (cluster) => {
    embedded = cluster;
  });
  if (prepared.newOperator) announce(prepared.newOperator);
  engine = await createEngine(prepared.config, log);
  metrics = await serveMetrics(engine);
  app = await buildApp(engine);
  await lowerPoolPriority(settings.threadPoolSize);
  const { host, port } = prepared.config.http;
  await app.listen({
    host,
    port,
    listenTextResolver: (address) =>
      `Tenantry listens on ${address}; the documentation is at ${address}/docs; the process is ${process.pid}`,
  });
} catch (error) {
  await fail(error);
}

/**
 * First turns readiness off, so that the load balancer sends no new work. Then finishes running requests, closes the pools and
 * stops the embedded server.
 */
async function stop({ shutdown }: Settings): Promise<void> {
  if (app) {
    app.readiness.draining = true;
    await new Promise((resolve) => setTimeout(resolve, shutdown.drain));
    const late = (): Error => new Error('requests were still running when the time was up');
    await within(app.close(), shutdown.timeout, late);
  }
  // Does nothing if the app has closed it. A signal can come before the app is built.
  await engine?.close();
  // Last, because somebody may watch how the service stops.
  await metrics?.close();
  await embedded?.stop();
  embedded = undefined;
}

/** Shown only in the terminal, and not written to the log, which other people read. */
function announce({ email, password }: { email: string; password: string }): void {
  process.stdout.write(
    `\n  The operator's sign-in, shown this once:\n\n    OPERATOR_EMAIL=${email}\n    OPERATOR_PASSWORD=${password}\n\n`,
  );
}

async function serveMetrics({ config, metrics, log }: Engine): Promise<MetricsServer | undefined> {
  const { host, port } = config.metrics;
  if (port === undefined) return undefined;
  const server = await openMetricsServer(metrics, { host, port });
  log.info(`Metrics are served on ${server.address}/metrics`);
  return server;
}

async function fail(error: unknown): Promise<never> {
  const expected =
    error instanceof ConfigError ||
    error instanceof MetricsAddressError ||
    (error instanceof Error && 'code' in error && error.code === 'EADDRINUSE');
  const { message, stack = message } = error instanceof Error ? error : new Error(String(error));
  process.stderr.write(`${expected ? message : stack}\n`);
  await app?.close();
  await engine?.close();
  await metrics?.close();
  await embedded?.stop();
  embedded = undefined;
  process.exit(1);
}
