// The process: configuration → engine → app → listen → drain → close.
// The first import stops a Node that is too old, before the imports that such a Node cannot load. The second comes
// before the code that makes objects.
import './lib/node-version.js';
import './lib/young-objects.js';
import type { FastifyInstance } from 'fastify';
import { within } from './lib/deadline.js';
import { buildApp } from './app.js';
import { prepare } from './boot/index.js';
import { signInLines, welcome, writeSignIn, type OperatorSignIn } from './boot/operator-sign-in.js';
import { describeProblem } from './boot/start-problem.js';
import { startSteps } from './boot/start-steps.js';
import { processEnvironment, readSettings, type Settings } from './config/index.js';
import type { EmbeddedCluster } from './embedded/embedded-cluster.js';
import { createEngine, type Engine } from './engine/index.js';
import { addressError, checkAddress, type ListenAddress } from './http/listen-address.js';
import { openMetricsServer, type MetricsServer } from './http/metrics-server.js';
import { packageVersion } from './lib/package-version.js';
import { lowerPoolPriority } from './lib/thread-priority.js';
import { followSignals } from './observability/level-signal.js';
import { createLogger } from './observability/logger.js';

let settings: Settings | undefined;
let engine: Engine | undefined;
let app: FastifyInstance | undefined;
let embedded: EmbeddedCluster | undefined;
let metrics: MetricsServer | undefined;
let stopping: Promise<void> | undefined;
/** The sign-in that this start made up and that nobody has seen yet. */
let unseen: OperatorSignIn | undefined;

const terminal = process.stdout.isTTY ? (text: string): void => void process.stdout.write(text) : undefined;
// A terminal that was closed refuses every write. The service still stops in order.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);

try {
  settings = readSettings(processEnvironment());
  await start(settings);
} catch (error) {
  await fail(error);
}

async function start(given: Settings): Promise<void> {
  const { http, dataDir, production, registry, threadPoolSize } = given;
  const log = createLogger(given.log);
  followSignals(log, production);
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    process.on(signal, () => {
      // A second signal means: do not wait. A terminal that is closed sends SIGHUP more than once.
      if (stopping && signal !== 'SIGHUP') process.exit(1);
      if (stopping) return;
      log.info({ signal }, 'the service is stopping');
      stopping = stop(given).then(
        () => process.exit(0),
        (error: unknown) => {
          log.fatal({ err: error }, 'the service could not stop in order');
          process.exit(1);
        },
      );
    });
  }
  const data = registry.connection ? '' : `, with its data in ${dataDir}`;
  const steps = startSteps(
    terminal,
    log,
    `Tenantry ${packageVersion()} starts on Node ${process.versions.node}${data}`,
  );
  const address: ListenAddress = { host: http.host, port: http.port, prefix: '' };
  await checkAddress(address);
  if (given.metrics.port !== undefined)
    await checkAddress({ host: given.metrics.host, port: given.metrics.port, prefix: 'METRICS_' });
  const prepared = await prepare(
    given,
    log,
    (cluster) => {
      embedded = cluster;
    },
    (step) => {
      steps.begin(step);
    },
  );
  unseen = prepared.newOperator;
  if (unseen && !terminal) {
    const file = await writeSignIn(dataDir, unseen);
    unseen = undefined;
    log.info(`the sign-in of the first operator is in ${file}, which only this user can read`);
  }
  engine = await createEngine(prepared.config, log);
  metrics = await serveMetrics(engine);
  app = await buildApp(engine);
  await lowerPoolPriority(threadPoolSize);
  const url = await app
    .listen({
      host: http.host,
      port: http.port,
      listenTextResolver: (at) =>
        `Tenantry listens on ${at}; the documentation is at ${at}/docs; the process is ${process.pid}`,
    })
    .catch((error: unknown) => {
      throw addressError(error, address);
    });
  terminal?.(welcome({ url, api: url + http.apiPrefix, seconds: steps.seconds, signIn: unseen }));
  unseen = undefined;
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
}

async function serveMetrics({ config, metrics, log }: Engine): Promise<MetricsServer | undefined> {
  const { host, port } = config.metrics;
  if (port === undefined) return undefined;
  const server = await openMetricsServer(metrics, { host, port });
  log.info(`Metrics are served on ${server.address}/metrics`);
  return server;
}

async function fail(error: unknown): Promise<never> {
  // The operator exists, and no later start shows its sign-in.
  if (unseen)
    terminal?.(`\n  The operator's sign-in, shown this once:\n\n    ${signInLines(unseen).join('\n    ')}\n\n`);
  const debug = ['debug', 'trace'].includes(settings?.log.level ?? '');
  process.stderr.write(`${describeProblem(error, debug)}\n`);
  await app?.close();
  await engine?.close();
  await metrics?.close();
  await embedded?.stop();
  process.exit(1);
}
