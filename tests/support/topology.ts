// Runs docker-compose.yml as processes of this machine: HAProxy, two replicas, two PostgreSQL servers and Redis, with the same
// files and commands. For tests, and for `npm run topology`.
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants, existsSync, readdirSync } from 'node:fs';
import { chmod, chown, mkdir, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseEnv, promisify } from 'node:util';
import { startEmbeddedCluster } from '../../src/embedded/embedded-cluster.js';
import { portOf } from '../../src/embedded/port.js';
import { startPostmaster, type Postmaster } from '../../src/embedded/postmaster.js';
import { run, type Account } from '../../src/embedded/run.js';

export interface Topology {
  /** The balancer's URL, for clients. */
  readonly url: string;
  readonly operator: { readonly email: string; readonly password: string };
  readonly replicas: readonly [Replica, Replica];
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
  /** Resolves when the replica reports that it is ready. */
  start(): Promise<void>;
  /** Resolves with the exit code when the replica has ended; null if a signal ended it. */
  stop(signal: NodeJS.Signals): Promise<number | null>;
}

export interface DatabaseServer {
  readonly port: number;
  /** The major version. */
  readonly version: string;
  readonly superuser: 'postgres';
  readonly superuserPassword: string;
  start(): Promise<void>;
  stop(): Promise<void>;
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

/** Deadline (ms) for a process to become ready: an idle machine needs one second, a busy one some more. */
const READY_DEADLINE = 30_000;

/** The data need not survive a power cut: it is removed after the run. */
const SERVER_SETTINGS = { fsync: 'off', max_connections: '200', client_connection_check_interval: '5s' };

const root = path.resolve(import.meta.dirname, '../..');
const ignore = (): void => undefined;

/** The programs that startTopology() needs and that are missing; empty if there are none. */
export function missingPrograms(): readonly string[] {
  const packages = {
    haproxy: 'haproxy',
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
 * @param options.balancer variables of deploy/haproxy.cfg that differ from its own values
 * @throws MissingProgram with the command that helps
 */
export async function startTopology(
  options: {
    env?: Readonly<Record<string, string>>;
    balancer?: Readonly<Record<string, string>>;
    port?: number;
  } = {},
): Promise<Topology> {
  const missing = missingPrograms();
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
      ...options.env,
    };
    const asOwner = { ...env, MIGRATION_DATABASE_URL_FILE: fileOf('migration_database_url') };
    const bootstrap = path.join(root, 'deploy/bootstrap.sh');
    await command('bash', [bootstrap], { ...asOwner, POSTGRES_PASSWORD_FILE: fileOf('postgres_password') });
    await command(process.execPath, [path.join(root, 'dist/src/cli/migrate.js')], asOwner);

    const makeReplica = async (name: string): Promise<Replica> => {
      const port = await portOf(path.join(folder, `${name}.port`));
      // A container has its ports for itself; the replicas of one machine need one each.
      const metricsPort = await portOf(path.join(folder, `${name}-metrics.port`));
      const own = { ...env, PORT: String(port), METRICS_PORT: String(metricsPort) };
      const metricsUrl = `http://127.0.0.1:${metricsPort}/metrics`;
      const replica = createReplica(port, metricsUrl, own, path.join(folder, `${name}.log`));
      // Two signals mean "at once": no client sends requests any more, so there is nothing to drain. The signals differ, because
      // the same signal twice may arrive as one.
      undo.push(() => Promise.all([replica.stop('SIGTERM'), replica.stop('SIGINT')]));
      await replica.start();
      return replica;
    };
    const replicas = await both(makeReplica('replica-1'), makeReplica('replica-2'));

    const port = options.port ?? (await portOf(path.join(folder, 'balancer.port')));
    const balancer = startBalancer({
      port,
      replicas: [new URL(replicas[0].url).host, new URL(replicas[1].url).host],
      env: options.balancer,
      logFile: path.join(folder, 'balancer.log'),
    });
    undo.push(() => balancer.stop('SIGTERM'));
    const url = `http://127.0.0.1:${port}`;
    await untilReady(url, balancer);

    const operator = { email: env['OPERATOR_EMAIL'] ?? '', password: await secretOf('operator_password') };
    return { url, operator, replicas, registry, tenants, redis, folder, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/**
 * Starts HAProxy with deploy/haproxy.cfg.
 *
 * @param at.replicas as host:port
 * @param at.env variables of the file that differ from its own values
 */
export function startBalancer(at: {
  readonly port: number;
  readonly replicas: readonly [string, string];
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly logFile: string;
}): Program {
  const [one, other] = at.replicas;
  const env = { HAPROXY_BIND: `127.0.0.1:${at.port}`, REPLICA_1: one, REPLICA_2: other, ...at.env };
  return startProgram('haproxy', ['-db', '-f', path.join(root, 'deploy/haproxy.cfg')], { env, logFile: at.logFile });
}

function createReplica(
  port: number,
  metricsUrl: string,
  env: Readonly<Record<string, string>>,
  logFile: string,
): Replica {
  const url = `http://127.0.0.1:${port}`;
  let program: Program | undefined;
  return {
    url,
    metricsUrl,
    logFile,
    get pid() {
      return program?.pid;
    },
    async start() {
      program = startProgram(process.execPath, [path.join(root, 'dist/src/server.js')], { env, logFile });
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
    async start() {
      cluster = await startIt();
    },
  };
}

async function startDebianServer(home: string, superuserPassword: string, bin: string): Promise<DatabaseServer> {
  const account = await serverAccount();
  const dataDir = path.join(home, 'data');
  const passwordFile = path.join(home, 'password');
  await mkdir(home, { mode: 0o755 });
  await writeFile(passwordFile, superuserPassword, { mode: 0o600 });
  for (const file of [home, passwordFile]) await chown(file, account.uid ?? -1, account.gid ?? -1);
  await run(
    path.join(bin, 'initdb'),
    [
      `--pgdata=${dataDir}`,
      '--username=postgres',
      `--pwfile=${passwordFile}`,
      '--auth=scram-sha-256',
      '--encoding=UTF8',
      '--locale=C',
      '--no-sync',
    ],
    account,
  );
  await rm(passwordFile);

  const logFile = path.join(home, 'postgres.log');
  await writeFile(logFile, '', { mode: 0o600 });
  const binaries = {
    initdb: path.join(bin, 'initdb'),
    pgCtl: path.join(bin, 'pg_ctl'),
    postgres: path.join(bin, 'postgres'),
    native: path.dirname(bin),
    version: await versionIn(dataDir),
  };
  const port = await portOf(path.join(home, 'postgres.port'));
  const log = { info: ignore, warn: ignore };
  const spec = { home, dataDir, binaries, account, port, logFile, settings: SERVER_SETTINGS, log };
  const startIt = async (): Promise<Postmaster> => {
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

export interface Program {
  readonly pid: number | undefined;
  readonly logFile: string;
  /** Whether it has ended. */
  readonly ended: boolean;
  stop(signal: NodeJS.Signals): Promise<number | null>;
}

/** Processes that this process started. */
const running = new Set<{ readonly pid?: number | undefined }>();

// The last chance to end them, and it must be synchronous. SIGINT means "at once" to PostgreSQL and "soon" to the others.
process.on('exit', () => {
  for (const { pid } of running) if (pid !== undefined) process.kill(pid, 'SIGINT');
});

function startProgram(
  program: string,
  args: readonly string[],
  { env, logFile }: { env: Readonly<Record<string, string>>; logFile: string },
): Program {
  const child = spawn(findProgram(program) ?? program, args, {
    cwd: root,
    env: environment(env),
    // Its own process group: a terminal's Ctrl-C then reaches only this process, which ends the others in order.
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  running.add(child);
  const log = open(logFile, 'a', 0o600);
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => void log.then((file) => file.appendFile(chunk)).catch(ignore));
  let ended = false;
  const exit = new Promise<number | null>((resolve) => {
    child.once('error', () => {
      resolve(null);
    });
    child.once('close', resolve);
  }).then(async (code) => {
    ended = true;
    running.delete(child);
    await (await log).close();
    return code;
  });
  return {
    pid: child.pid,
    logFile,
    get ended() {
      return ended;
    },
    stop(signal) {
      if (!ended) child.kill(signal);
      return exit;
    },
  };
}

/** Waits for /health/ready. @throws Error with the end of the program's log if it ends first or takes too long */
async function untilReady(url: string, program: Program): Promise<void> {
  await untilTrue(url, program, () =>
    fetch(`${url}/health/ready`).then(
      ({ status }) => status === 200,
      () => false,
    ),
  );
}

/** Waits for a port of this machine to accept connections. @throws Error as untilReady() */
async function untilAccepting(port: number, program: Program): Promise<void> {
  await untilTrue(`port ${port}`, program, async () => {
    const socket = connect(port, '127.0.0.1');
    try {
      await once(socket, 'connect');
      return true;
    } catch {
      return false;
    } finally {
      socket.destroy();
    }
  });
}

async function untilTrue(what: string, program: Program, isReady: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + READY_DEADLINE;
  for (;;) {
    if (await isReady()) return;
    if (program.ended || performance.now() > deadline) {
      const log = await readFile(program.logFile, 'utf8');
      throw new Error(`${what} did not become ready:\n${log.split('\n').slice(-20).join('\n')}`);
    }
    await sleep(50);
  }
}

/** Runs a command to its end. @throws Error with its output on stderr */
async function command(program: string, args: readonly string[], env: Readonly<Record<string, string>>): Promise<void> {
  await promisify(execFile)(program, args, { cwd: root, env: environment(env), timeout: 60_000 });
}

/** The caller's own variables, PGHOST and NODE_OPTIONS among them, do not reach the started processes. */
function environment(env: Readonly<Record<string, string>>): NodeJS.ProcessEnv {
  return { PATH: process.env['PATH'], HOME: process.env['HOME'], LC_ALL: 'C', ...env };
}

function atLocalPort(url: string, port: number): string {
  const changed = new URL(url);
  changed.hostname = '127.0.0.1';
  changed.port = String(port);
  return changed.href;
}

/** Debian keeps haproxy in sbin, which is often not on PATH. */
function findProgram(name: string): string | undefined {
  if (path.isAbsolute(name)) return name;
  return [...(process.env['PATH'] ?? '').split(path.delimiter), '/usr/sbin', '/usr/local/sbin']
    .map((folder) => path.join(folder, name))
    .find((file) => {
      try {
        accessSync(file, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
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
