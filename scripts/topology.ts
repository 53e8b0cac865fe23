// `npm run topology`: runs the parts of docker-compose.yml as processes of this machine, until Ctrl-C or for a number of restarts.
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { defineCommand, runCommand, text, toggle, UsageError, wholeNumber } from '../src/lib/command-line.js';
import { ROOT } from '../tests/support/docs.js';
import { MissingProgram, startTopology } from '../tests/support/topology.js';
import { say } from './command.js';
import { roll } from './rolling.js';

/** Exit code if a program is missing: the command line is correct, but the caller must install something. */
const MISSING = 2;

const topologyCommand = defineCommand({
  start: 'npm run topology --',
  about: `
Starts what docker-compose.yml describes as processes of this machine: HAProxy in front of two replicas, a PostgreSQL for the
registry and one for tenants (Debian's when it is installed, otherwise the embedded one), and Redis. Prints the address and the
operator's sign-in, and stops everything on Ctrl-C. Data and secrets are new each time and removed at the end.

With --rolling it starts three replicas, and restarts one after the other while eight clients send requests, a quarter of them POSTs
with an Idempotency-Key. It then stops everything, and says which requests failed.`,
  flags: {
    rolling: wholeNumber({
      what: 'how many restarts; about 8 s each',
      min: 1,
      max: 999_999,
      defaultText: 'none, and two replicas',
      example: 20,
    }),
    from: text({
      what: 'with --rolling: a folder with another build of this service, which serves first. The replicas are then moved to this build, and back, again and again',
      placeholder: 'FOLDER',
      example: '../former',
    }),
    nginx: toggle({ what: 'nginx with deploy/nginx.conf in the place of HAProxy' }),
    port: wholeNumber({
      what: 'where HAProxy listens, on 127.0.0.1',
      min: 1,
      max: 65_535,
      defaultText: 'a free port',
      example: 8080,
    }),
  },
  notes: 'The programs that npm does not bring: apt-get install haproxy postgresql-client redis-server',
  exits: {
    0: 'stopped by Ctrl-C',
    1: 'something could not be started, or --rolling found a failed request',
    [MISSING]: 'the command line is wrong or a program is missing',
  },
});

/** What --rolling changes: its clients are one source, and one user. */
const UNBOUNDED = {
  env: { RATE_LIMIT_MAX: '1000000', USER_RATE_LIMIT_MAX: '1000000' },
  limits: { SOURCE_REQUEST_RATE: '1000000', SOURCE_CONNECTION_RATE: '1000000' },
};

await runCommand(topologyCommand, async ({ flags: { port, rolling, from, nginx } }) => {
  if (from !== undefined && rolling === undefined) throw new UsageError('--from needs --rolling');
  const former = from === undefined ? ROOT : path.resolve(from);
  if (!existsSync(path.join(former, 'dist/src/server.js')))
    throw new UsageError(`there is no build in ${former}: run npm ci && npm run build there`);
  const stopping = new AbortController();
  const stopped = once(stopping.signal, 'abort');
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(signal, () => {
      stopping.abort();
    });
  try {
    const topology = await startTopology({
      ...(port !== undefined && { port }),
      ...(rolling !== undefined && { replicas: 3, build: former, env: UNBOUNDED.env, balancer: UNBOUNDED.limits }),
      nginx,
    });
    const { url, operator, replicas, registry, tenants, redis, folder } = topology;
    say(
      [
        `${nginx ? 'nginx' : 'HAProxy'} in front of ${replicas.map((replica) => replica.url).join(' and ')}`,
        `PostgreSQL ${registry.version} for the registry on port ${registry.port}, ${tenants.version} for tenants on port ${tenants.port}`,
        `Redis on port ${redis.port}`,
        `Metrics at ${replicas.map((replica) => replica.metricsUrl).join(' and ')}`,
        `Logs in ${folder}. Ctrl-C stops and removes everything.`,
        '',
        `URL=${url}`,
        `OPERATOR_EMAIL=${operator.email}`,
        `OPERATOR_PASSWORD=${operator.password}`,
      ].join('\n'),
    );
    const code =
      rolling === undefined
        ? await stopped.then(() => 0)
        : await roll(topology, { restarts: rolling, former, build: ROOT, signal: stopping.signal });
    await topology.stop();
    return code;
  } catch (error) {
    // Ctrl-C also reaches the commands of the start. Their failure is then expected.
    if (stopping.signal.aborted) return 0;
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    return error instanceof MissingProgram ? MISSING : 1;
  }
});
