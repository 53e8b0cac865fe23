// `npm run topology`: runs the parts of docker-compose.yml as processes of this machine, until Ctrl-C.
import { once } from 'node:events';
import { defineCommand, runCommand, wholeNumber } from '../src/lib/command-line.js';
import { MissingProgram, startTopology } from '../tests/support/topology.js';
import { say } from './command.js';

/** Exit code if a program is missing: the command line is correct, but the caller must install something. */
const MISSING = 2;

const topologyCommand = defineCommand({
  start: 'npm run topology --',
  about: `
Starts what docker-compose.yml describes as processes of this machine: HAProxy in front of two replicas, a PostgreSQL for the
registry and one for tenants (Debian's when it is installed, otherwise the embedded one), and Redis. Prints the address and the
operator's sign-in, and stops everything on Ctrl-C. Data and secrets are new each time and removed at the end.`,
  flags: {
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
    1: 'something could not be started',
    [MISSING]: 'the command line is wrong or a program is missing',
  },
});

await runCommand(topologyCommand, async ({ flags: { port } }) => {
  const stopping = new AbortController();
  const stopped = once(stopping.signal, 'abort');
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(signal, () => {
      stopping.abort();
    });
  try {
    const topology = await startTopology(port === undefined ? {} : { port });
    const { url, operator, replicas, registry, tenants, redis, folder } = topology;
    say(
      [
        `HAProxy in front of ${replicas.map((replica) => replica.url).join(' and ')}`,
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
    await stopped;
    await topology.stop();
    return 0;
  } catch (error) {
    // Ctrl-C also reaches the commands of the start. Their failure is then expected.
    if (stopping.signal.aborted) return 0;
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    return error instanceof MissingProgram ? MISSING : 1;
  }
});
