// The real servers of the tests: PostgreSQL from the embedded binaries. TEST_SERVERS=containers uses a container instead, and
// TEST_POSTGRES another version (scripts/test-postgres.ts). One server for a whole run, in its own temporary folder, on a free
// port.
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
  /** PostgreSQL's log file; undefined in a container. */
  readonly logFile: string | undefined;
  stop(): Promise<void>;
}

const SUPERUSER_PASSWORD = 'superuser-of-the-tests';

/** Speeds tests up and loses data in a crash. A test about crashes starts its own server without these settings. */
const SETTINGS = {
  fsync: 'off',
  synchronous_commit: 'off',
  full_page_writes: 'off',
  // With hundreds of databases its workers would come several times a second.
  autovacuum: 'off',
  max_connections: '300',
  log_statement: 'none',
};

const IMAGE = 'postgres:18-alpine';

/** @param settings of PostgreSQL, besides the usual ones */
export async function startPostgres(settings: Readonly<Record<string, string>> = {}): Promise<TestServer> {
  const all = { ...SETTINGS, ...settings };
  return process.env['TEST_SERVERS'] === 'containers' ? startContainer(all) : startEmbedded(all);
}

async function startEmbedded(settings: Readonly<Record<string, string>>): Promise<TestServer> {
  const home = await mkdtemp(path.join(tmpdir(), 'tenantry-test-'));
  // mkdtemp creates it with mode 0700, and under root the server runs as another user.
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
    // The image starts a server to initialise, stops it, and starts the final one.
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
