// Runs docker-compose.yml as processes of this machine: HAProxy, two replicas, two PostgreSQL servers and Redis, with the same
// files and commands. For tests, and for `npm run topology`.
import { existsSync, readdirSync } from 'node:fs';
import { chmod, chown, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseEnv } from 'node:util';
import { startEmbeddedCluster } from '../../src/embedded/embedded-cluster.js';
import { portOf } from '../../src/embedded/port.js';
import { initializeDataDir } from '../../src/embedded/initdb.js';
import { startPostmaster, type Postmaster } from '../../src/embedded/postmaster.js';
import { run, type Account } from '../../src/embedded/run.js';
import { startBalancer, startNginx } from './balancers.js';
import {
  command,
  findProgram,
  running,
  startProgram,
  untilAccepting,
  untilReady,
  type Program,
} from './topology-programs.js';

export interface Topology {
  /** The balancer's URL, for clients. */
  readonly url: string;
  readonly operator: { readonly email: string; readonly password: string };
  /** Two, or as many as were asked for. */
  readonly replicas: readonly [Replica, Replica, ...Replica[]];
  /** Brings every database to the schema of the build in a folder. */
  migrate(build: string): Promise<void>;
  /** Runs deploy/bootstrap.sh. */
  bootstrap(): Promise<void>;
  readonly registry: DatabaseServer;
  readonly tenants: DatabaseServer;
  readonly redis: RedisServer;
  /** Holds everything that the topology wrote, logs included; stop() removes it. */
  readonly folder: string;
  /** Ends every started process and removes the folder. Safe to call again. */
  stop(): Promise<void>;
}

export interface Replica {
  /** Directly, without the balancer. */
  readonly url: string;
  readonly metricsUrl: string;
  readonly pid: number | undefined;
  readonly logFile: string;
  /** Resolves when the replica reports that it is ready. `build` is the folder of another build, which is used from now on. */
  start(build?: string): Promise<void>;
  /** Resolves with the exit code when the replica has ended; null if a signal ended it. */
  stop(signal: NodeJS.Signals): Promise<number | null>;
}

export interface DatabaseServer {
  readonly port: number;
  /** The major version. */
  readonly version: string;
  readonly superuser: 'postgres';
  readonly superuserPassword: string;
  /** Starts it as it was, or with nothing in it if its data is lost. */
  start(): Promise<void>;
  stop(): Promise<void>;
  /** Stops it and removes its data. */
  lose(): Promise<void>;
}

export interface RedisServer {
  readonly port: number;
  readonly pid: number | undefined;
  /** Resolves when the server accepts connections; it is empty then. */
  start(): Promise<void>;
  stop(signal: NodeJS.Signals): Promise<number | null>;
}

/** A required program is not installed, and npm does not install it. */
export class MissingProgram extends Error {}

/** The data need not survive a power cut: it is removed after the run. */
const SERVER_SETTINGS = { fsync: 'off', max_connections: '200', client_connection_check_interval: '5s' };

const root = path.resolve(import.meta.dirname, '../..');
const ignore = (): void => undefined;

/** The programs that startTopology() needs and that are missing; empty if there are none. */
export function missingPrograms({ nginx = false } = {}): readonly string[] {
  const packages = {
    ...(nginx ? { nginx: 'nginx-light' } : { haproxy: 'haproxy' }),
    'redis-server': 'redis-server',
    psql: 'postgresql-client',
    openssl: 'openssl',
    setsid: 'util-linux',
  };
  return Object.entries(packages)
    .filter(([program]) => findProgram(program) === undefined)
    .map(([program, debianPackage]) => `${program} is missing: apt-get install ${debianPackage}`);
}

/**
 * Starts everything, in the order of docker-compose.yml.
 *
 * @param options.env variables of the service that differ from deploy/example.env, none of them a secret
 * @param options.replicas 2 or 3
 * @param options.build the folder of the build that migrates and serves, instead of this one
 * @param options.nginx nginx, without bounds of a source, instead of HAProxy
 * @param options.balancer variables of deploy/haproxy.cfg that differ from its own values
 * @throws MissingProgram with the command that helps
 */
export async function startTopology(
  options: {
    env?: Readonly<Record<string, string>>;
    balancer?: Readonly<Record<string, string>>;
    port?: number;
    replicas?: 2 | 3;
    build?: string;
    nginx?: boolean;
  } = {},
): Promise<Topology> {
  const missing = missingPrograms(options);
  if (missing.length > 0) throw new MissingProgram(missing.join('\n'));

  const folder = await mkdtemp(path.join(tmpdir(), 'tenantry-topology-'));
  // mkdtemp creates it with mode 0700, and under root the database servers run as another user.
  await chmod(folder, 0o755);
  const undo: (() => Promise<unknown>)[] = [() => rm(folder, { recursive: true, force: true })];
  let stopped: Promise<void> | undefined;
  const stop = (): Promise<void> => (stopped ??= inTurn(undo.splice(0).reverse()));

  try {
    await command('bash', [path.join(root, 'deploy/make-env.sh'), folder], {});
    const settings = parseEnv(await readFile(path.join(folder, 'tenantry.env'), 'utf8')) as Record<string, string>;
    const fileOf = (secret: string): string => path.join(folder, 'secrets', secret);
    const secretOf = async (secret: string): Promise<string> => (await readFile(fileOf(secret), 'utf8')).trim();
    /** Replaces the address in the file's URL by that of the server here. */
    const placeHere = async (secret: string, port: number): Promise<void> => {
      await writeFile(fileOf(secret), `${atLocalPort(await secretOf(secret), port)}\n`);
    };
    const superuserPassword = await secretOf('postgres_password');

    const startServer = async (name: string): Promise<DatabaseServer> => {
      const server = await startDatabaseServer(path.join(folder, name), superuserPassword);
      undo.push(() => server.stop());
      return server;
    };
    const [registry, tenants] = await both(startServer('registry'), startServer('tenants'));

    const redisPort = await portOf(path.join(folder, 'redis.port'));
    const redis = createRedis(redisPort, fileOf('redis_auth'), folder);
    undo.push(() => redis.stop('SIGTERM'));
    await redis.start();

    await placeHere('database_url', registry.port);
    await placeHere('migration_database_url', registry.port);
    await placeHere('tenant_database_url', tenants.port);
    await placeHere('redis_url', redis.port);
    const env: Record<string, string> = {
      ...settings,
      DATABASE_URL_FILE: fileOf('database_url'),
      TENANT_DATABASE_URL_FILE: fileOf('tenant_database_url'),
      REDIS_URL_FILE: fileOf('redis_url'),
      JWT_KEYS_FILE: fileOf('jwt_keys'),
      ENCRYPTION_KEYS_FILE: fileOf('encryption_keys'),
      OPERATOR_PASSWORD_FILE: fileOf('operator_password'),
      TRUST_PROXY: '127.0.0.1',
      NODE_ENV: 'production',
      // Below the max_connections of the servers here.
      CLUSTER_CONNECTION_BUDGET: '150',
      // The replicas share the processor with everything else here.
      MAX_EVENT_LOOP_DELAY_MS: '0',
      ...options.env,
    };
    const asOwner = { ...env, MIGRATION_DATABASE_URL_FILE: fileOf('migration_database_url') };
    const bootstrap = (): Promise<void> =>
      command('bash', [path.join(root, 'deploy/bootstrap.sh')], {
        ...asOwner,
        POSTGRES_PASSWORD_FILE: fileOf('postgres_password'),
      });
    await bootstrap();
    const migrate = (build: string): Promise<void> =>
      command(process.execPath, [path.join(build, 'dist/src/cli/migrate.js')], asOwner);
    const firstBuild = options.build ?? root;
    await migrate(firstBuild);

    const makeReplica = async (name: string): Promise<Replica> => {
      const port = await portOf(path.join(folder, `${name}.port`));
      // A container has its ports for itself; the replicas of one machine need one each.
      const metricsPort = await portOf(path.join(folder, `${name}-metrics.port`));
      const own = { ...env, PORT: String(port), METRICS_PORT: String(metricsPort) };
      const metricsUrl = `http://127.0.0.1:${metricsPort}/metrics`;
      const replica = createReplica({
        port,
        metricsUrl,
        env: own,
        logFile: path.join(folder, `${name}.log`),
        build: firstBuild,
      });
      // Two signals mean "at once": no client sends requests any more, so there is nothing to drain. The signals differ, because
      // the same signal twice may arrive as one.
      undo.push(() => Promise.all([replica.stop('SIGTERM'), replica.stop('SIGINT')]));
      await replica.start();
      return replica;
    };
    const pair = await both(makeReplica('replica-1'), makeReplica('replica-2'));
    const replicas = [...pair, ...(options.replicas === 3 ? [await makeReplica('replica-3')] : [])] as const;

    const port = options.port ?? (await portOf(path.join(folder, 'balancer.port')));
    const at = {
      port,
      replicas: replicas.map((replica) => new URL(replica.url).host),
      logFile: path.join(folder, 'balancer.log'),
    };
    const balancer = options.nginx
      ? await startNginx({ ...at, folder, bounded: false })
      : startBalancer({ ...at, env: options.balancer });
    undo.push(() => balancer.stop('SIGTERM'));
    const url = `http://127.0.0.1:${port}`;
    await untilReady(url, balancer);

    const operator = { email: env['OPERATOR_EMAIL'] ?? '', password: await secretOf('operator_password') };
    return { url, operator, replicas, migrate, bootstrap, registry, tenants, redis, folder, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

function createReplica(of: {
  readonly port: number;
  readonly metricsUrl: string;
  readonly env: Readonly<Record<string, string>>;
  readonly logFile: string;
  readonly build: string;
}): Replica {
  const { metricsUrl, env, logFile } = of;
  const url = `http://127.0.0.1:${of.port}`;
  let { build } = of;
  let program: Program | undefined;
  return {
    url,
    metricsUrl,
    logFile,
    get pid() {
      return program?.pid;
    },
    async start(otherBuild) {
      build = otherBuild ?? build;
      program = startProgram(process.execPath, [path.join(build, 'dist/src/server.js')], { env, logFile });
      await untilReady(url, program);
    },
    stop: async (signal) => program?.stop(signal) ?? null,
  };
}

function createRedis(port: number, authFile: string, folder: string): RedisServer {
  let program: Program | undefined;
  return {
    port,
    get pid() {
      return program?.pid;
    },
    async start() {
      const here = ['--bind', '127.0.0.1', '--port', String(port), '--dir', folder];
      program = startProgram('redis-server', [path.join(root, 'deploy/redis.conf'), '--include', authFile, ...here], {
        env: {},
        logFile: path.join(folder, 'redis.log'),
      });
      await untilAccepting(port, program);
    },
    stop: async (signal) => program?.stop(signal) ?? null,
  };
}

/** One server in its own folder: Debian's if it is installed, otherwise the embedded one. */
async function startDatabaseServer(home: string, superuserPassword: string): Promise<DatabaseServer> {
  const bin = debianPostgres();
  return bin === undefined
    ? startEmbeddedServer(home, superuserPassword)
    : startDebianServer(home, superuserPassword, bin);
}

async function startEmbeddedServer(home: string, superuserPassword: string): Promise<DatabaseServer> {
  const startIt = (): ReturnType<typeof startEmbeddedCluster> =>
    startEmbeddedCluster({
      home,
      superuserPassword,
      settings: SERVER_SETTINGS,
      log: { info: ignore, warn: ignore, error: ignore },
    });
  let cluster = await startIt();
  return {
    port: cluster.port,
    version: await versionIn(cluster.dataDir),
    superuser: 'postgres',
    superuserPassword,
    stop: () => cluster.stop(),
    async lose() {
      await cluster.stop();
      await rm(cluster.dataDir, { recursive: true });
    },
    async start() {
      cluster = await startIt();
    },
  };
}

async function startDebianServer(home: string, superuserPassword: string, bin: string): Promise<DatabaseServer> {
  const account = await serverAccount();
  const dataDir = path.join(home, 'data');
  await mkdir(home, { mode: 0o755 });
  await chown(home, account.uid ?? -1, account.gid ?? -1);

  const logFile = path.join(home, 'postgres.log');
  await writeFile(logFile, '', { mode: 0o600 });
  const binaries = {
    initdb: path.join(bin, 'initdb'),
    pgCtl: path.join(bin, 'pg_ctl'),
    postgres: path.join(bin, 'postgres'),
    native: path.dirname(bin),
    // The folder is /usr/lib/postgresql/<version>/bin.
    version: path.basename(path.dirname(bin)),
  };
  const port = await portOf(path.join(home, 'postgres.port'));
  const log = { info: ignore, warn: ignore };
  const spec = { home, dataDir, binaries, account, port, logFile, settings: SERVER_SETTINGS, log };
  const startIt = async (): Promise<Postmaster> => {
    await initializeDataDir(spec, superuserPassword);
    const started = await startPostmaster(spec, new AbortController().signal);
    running.add(started);
    void started.ended.then(() => running.delete(started));
    return started;
  };
  let postmaster = await startIt();
  return {
    port,
    version: binaries.version,
    superuser: 'postgres',
    superuserPassword,
    stop: () => postmaster.stop(),
    async lose() {
      await postmaster.stop();
      await rm(dataDir, { recursive: true });
    },
    async start() {
      postmaster = await startIt();
    },
  };
}

async function versionIn(dataDir: string): Promise<string> {
  return (await readFile(path.join(dataDir, 'PG_VERSION'), 'utf8')).trim();
}

/** The folder with the newest of Debian's PostgreSQL servers. */
function debianPostgres(): string | undefined {
  const base = '/usr/lib/postgresql';
  if (!existsSync(base)) return undefined;
  return readdirSync(base)
    .sort((a, b) => Number(b) - Number(a))
    .map((version) => path.join(base, version, 'bin'))
    .find((bin) => existsSync(path.join(bin, 'postgres')));
}

/** PostgreSQL refuses to run as root; Debian's package made this user for it. */
async function serverAccount(): Promise<Account> {
  if (process.getuid?.() !== 0) return {};
  return { uid: Number(await run('id', ['-u', 'postgres'])), gid: Number(await run('id', ['-g', 'postgres'])) };
}

function atLocalPort(url: string, port: number): string {
  const changed = new URL(url);
  changed.hostname = '127.0.0.1';
  changed.port = String(port);
  return changed.href;
}

/** Waits for both, even if one fails: otherwise the other could not be stopped while it starts. */
async function both<T>(one: Promise<T>, other: Promise<T>): Promise<[T, T]> {
  await Promise.allSettled([one, other]);
  return Promise.all([one, other]);
}

/** Runs every step, even after a failure; throws the first failure at the end. */
async function inTurn(steps: readonly (() => Promise<unknown>)[]): Promise<void> {
  const failures: unknown[] = [];
  for (const step of steps) await step().catch((error: unknown) => failures.push(error));
  if (failures.length > 0) throw failures[0];
}
