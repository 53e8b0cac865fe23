// The real servers that the tests run on: PostgreSQL from the embedded binaries, or from a container with
// TEST_SERVERS=containers, or of another version with TEST_POSTGRES (scripts/test-postgres.ts). One for a whole run, in a temporary folder of its own, on a free port.
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { GenericContainer, Wait } from 'testcontainers';
import { startEmbeddedCluster } from '../../src/embedded/embedded-cluster.js';

export interface TestServer {
  readonly host: string;
  readonly port: number;
  readonly superuser: string;
  readonly superuserPassword: string;
  /** Where PostgreSQL logs; undefined in a container. */
  readonly logFile: string | undefined;
  stop(): Promise<void>;
}

const SUPERUSER_PASSWORD = 'superuser-of-the-tests';

/** What speeds tests up and loses data in a crash; a test about crashes starts a server of its own without it. */
const SETTINGS = {
  fsync: 'off',
  synchronous_commit: 'off',
  full_page_writes: 'off',
  max_connections: '300',
  log_statement: 'none',
};

const IMAGE = 'postgres:18-alpine';

/** @param settings of PostgreSQL, beside the usual ones */
export async function startPostgres(settings: Readonly<Record<string, string>> = {}): Promise<TestServer> {
  const all = { ...SETTINGS, ...settings };
  return process.env['TEST_SERVERS'] === 'containers' ? startContainer(all) : startEmbedded(all);
}

async function startEmbedded(settings: Readonly<Record<string, string>>): Promise<TestServer> {
  const home = await mkdtemp(path.join(tmpdir(), 'tenantry-test-'));
  // mkdtemp makes 0700, and under root the server runs as another user.
  await chmod(home, 0o755);
  const quiet = (): void => undefined;
  const cluster = await startEmbeddedCluster({
    home,
    superuserPassword: SUPERUSER_PASSWORD,
    settings,
    binariesFrom: process.env['TEST_POSTGRES'],
    log: { info: quiet, warn: quiet, error: quiet },
  });
  return {
    host: cluster.host,
    port: cluster.port,
    superuser: cluster.superuser,
    superuserPassword: SUPERUSER_PASSWORD,
    logFile: cluster.logFile,
    stop: async () => {
      await cluster.stop();
      await rm(home, { recursive: true, force: true });
    },
  };
}

async function startContainer(settings: Readonly<Record<string, string>>): Promise<TestServer> {
  const container = await new GenericContainer(IMAGE)
    .withEnvironment({ POSTGRES_PASSWORD: SUPERUSER_PASSWORD })
    .withCommand(['postgres', ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])])
    .withExposedPorts(5432)
    // The image starts a server to initialise, stops it, and starts the one that counts.
    .withWaitStrategy(Wait.forLogMessage('database system is ready to accept connections', 2))
    .start();
  return {
    host: container.getHost(),
    port: container.getMappedPort(5432),
    superuser: 'postgres',
    superuserPassword: SUPERUSER_PASSWORD,
    logFile: undefined,
    stop: async () => {
      await container.stop();
    },
  };
}
