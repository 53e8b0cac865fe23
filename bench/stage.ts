// What the benchmark runs on: a throwaway PostgreSQL, the service started as in production, and the floor beside it.
import { sql } from 'kysely';
import { randomBytes } from 'node:crypto';
import { chmod, mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { availableParallelism, cpus, loadavg, release, tmpdir, totalmem } from 'node:os';
import path from 'node:path';
import { createServer, type AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { createDatabase, type ConnectionSettings } from '../db/client.js';
import { bootstrapCluster, MAINTENANCE_DATABASE } from '../db/cluster.js';
import { scramVerifier } from '../db/scram.js';
import { createPasswords } from '../src/auth/passwords.js';
import { readSettings } from '../src/config.js';
import { startEmbeddedCluster, type EmbeddedCluster } from '../src/embedded/cluster.js';
import type { Cleanup } from './cleanup.js';
import type { Flags } from './flags.js';
import type { FloorJob, FloorReady } from './messages.js';
import { runProgram, startProgram, type Program } from './program.js';
import { progress, type Facts } from './report.js';
import {
  PRODUCTS_PER_TENANT,
  seed,
  signInOperator,
  TENANTS,
  USER_PASSWORD,
  USERS_PER_TENANT,
  type SeededTenant,
} from './seed.js';

interface Server {
  readonly url: string;
  readonly pid: number;
}

export interface Stage {
  readonly flags: Flags;
  readonly cleanup: Cleanup;
  readonly service: Server;
  readonly floor: Server;
  /** The process id of PostgreSQL's first process, whose children are the others. */
  readonly postmaster: number;
  readonly tenants: readonly SeededTenant[];
  readonly passwordHash: string;
  readonly operatorToken: string;
  readonly facts: Facts;
  /** The last warnings, errors and refusals in the service's log, for the message of a failure. */
  complaints(): Promise<string>;
}

const REGISTRY = 'tenantry_registry';
const PROVISIONER = 'tenantry_provisioner';
const OPERATOR = { email: 'operator@bench.example', password: randomBytes(15).toString('base64url') };

/** Connections to PostgreSQL besides the tenant pools of both sides. */
const OTHER_CONNECTIONS = 50;
const MIN_CONNECTIONS = 300;

/** Longest wait (ms) for a server to listen. */
const START_DEADLINE = 60_000;

/** Bytes at the end of the service's log that are looked at after a failure. */
const LOG_TAIL = 4 * 2 ** 20;

/** Starts and fills everything; what it starts is undone by `cleanup`. @throws Error */
export async function openStage(flags: Flags, cleanup: Cleanup): Promise<Stage> {
  const loadBefore = loadavg()[0] ?? 0;
  const folder = await makeFolder(cleanup);

  progress('starting PostgreSQL');
  const secrets = { superuser: secret(), registry: secret(), provisioner: secret(), jwt: secret() };
  const given = { ...(flags.poolMax !== undefined && { POOL_MAX: String(flags.poolMax) }), ...flags.env };
  const poolMax = readSettings(given).tenants.pool.max;
  const cluster = await startPostgres(folder, secrets.superuser, poolMax, flags, cleanup);
  const at = (user: string, password: string, database: string): ConnectionSettings => ({
    host: cluster.host,
    port: cluster.port,
    database,
    user,
    password,
    tls: false,
  });
  const superuser = at(cluster.superuser, secrets.superuser, MAINTENANCE_DATABASE);
  const registry = at(REGISTRY, secrets.registry, REGISTRY);
  const provisioner = at(PROVISIONER, secrets.provisioner, MAINTENANCE_DATABASE);
  const postgres = await bootstrap(superuser, registry.password, provisioner.password);

  progress('starting the service');
  const environment = {
    NODE_ENV: 'production',
    PORT: String(await freePort()),
    DATABASE_URL: urlOf(registry),
    TENANT_DATABASE_URL: urlOf(provisioner),
    DATABASE_TLS: 'off',
    JWT_SECRET: secrets.jwt,
    ENCRYPTION_KEYS: `bench:${randomBytes(32).toString('base64')}`,
    OPERATOR_EMAIL: OPERATOR.email,
    OPERATOR_PASSWORD: OPERATOR.password,
    // The limits count as always; they only never say no, because the whole load comes from one address.
    RATE_LIMIT_MAX: '1000000000',
    SIGN_IN_LIMIT: '1000000000',
    // A long run must not outlive its tokens.
    ACCESS_TOKEN_TTL: '86400',
    SHUTDOWN_DRAIN_MS: '0',
    ...given,
  };
  const { auth } = readSettings(environment);
  await runLogged('src/cli/migrate.js', environment, path.join(folder, 'migrate.log'), cleanup);
  const log = path.join(folder, 'service.log');
  const service = await startService(environment, log, flags, cleanup);

  progress(`making ${TENANTS} tenants`);
  const operatorToken = await signInOperator(service.url, OPERATOR);
  const passwordHash = await (await createPasswords(1)).hash(USER_PASSWORD);
  const tenants = await seed({ url: service.url, operatorToken, registry, provisioner, auth, passwordHash });
  // So that what the seeding wrote is not written out in the middle of the first round.
  await asSuperuser(superuser, (db) => sql`checkpoint`.execute(db));

  progress('starting the floor');
  const floor = await startFloor(
    {
      server: { host: cluster.host, port: cluster.port, user: PROVISIONER, password: secrets.provisioner },
      tenants: tenants.map(({ id, database }) => ({ id, database })),
      poolMax,
      cursorSecret: environment.JWT_SECRET,
    },
    cleanup,
  );

  const { pid: postmaster } = cluster;
  if (postmaster === undefined) throw new Error('PostgreSQL does not run');
  const facts = factsOf(postgres, poolMax, loadBefore);
  return {
    flags,
    cleanup,
    service,
    floor,
    postmaster,
    tenants,
    passwordHash,
    operatorToken,
    facts,
    complaints: () => complaintsIn(log),
  };
}

async function makeFolder(cleanup: Cleanup): Promise<string> {
  const folder = await cleanup.start(
    () => mkdtemp(path.join(tmpdir(), 'tenantry-bench-')),
    (made) => rm(made, { recursive: true, force: true }),
  );
  // mkdtemp makes 0700, and under root PostgreSQL runs as another user.
  await chmod(folder, 0o755);
  return folder;
}

function startPostgres(
  folder: string,
  superuserPassword: string,
  poolMax: number,
  { fsync }: Flags,
  cleanup: Cleanup,
): Promise<EmbeddedCluster> {
  return cleanup.start(
    () =>
      startEmbeddedCluster({
        home: path.join(folder, 'cluster'),
        superuserPassword,
        settings: {
          shared_buffers: '256MB',
          max_connections: String(Math.max(MIN_CONNECTIONS, 2 * TENANTS * poolMax + OTHER_CONNECTIONS)),
          fsync: fsync ? 'on' : 'off',
        },
        log: { info: () => undefined, warn: progress, error: progress },
      }),
    (cluster) => cluster.stop(),
  );
}

/** Makes the roles and the registry's database. Returns PostgreSQL's version. */
async function bootstrap(
  superuser: ConnectionSettings,
  registryPassword: string,
  provisionerPassword: string,
): Promise<string> {
  const iterations = 4_096;
  return asSuperuser(superuser, async (db) => {
    await bootstrapCluster(db, {
      registryOwner: { name: REGISTRY, verifier: await scramVerifier(registryPassword, iterations) },
      provisioner: { name: PROVISIONER, verifier: await scramVerifier(provisionerPassword, iterations) },
      registryDatabase: REGISTRY,
    });
    const { rows } = await sql<{ version: string }>`
      select current_setting('server_version') as version`.execute(db);
    return rows[0]?.version ?? 'unknown';
  });
}

async function asSuperuser<T>(
  superuser: ConnectionSettings,
  work: (db: ReturnType<typeof createDatabase<unknown>>['db']) => Promise<T>,
): Promise<T> {
  const limits = { max: 1, acquireTimeout: 10_000, timeout: 60_000, idleTimeoutMillis: 10_000 };
  const handle = createDatabase<unknown>(superuser, limits, {
    applicationName: 'tenantry bench',
    preparedStatements: false,
  });
  return work(handle.db).finally(() => handle.close(0));
}

async function runLogged(
  file: string,
  env: Readonly<Record<string, string>>,
  log: string,
  cleanup: Cleanup,
): Promise<void> {
  const output = await open(log, 'a');
  try {
    await runProgram(file, { cleanup, env, output: output.fd });
  } catch (error) {
    throw new Error(await readFile(log, 'utf8'), { cause: error });
  } finally {
    await output.close();
  }
}

async function startService(
  env: Readonly<Record<string, string>> & { readonly PORT: string },
  log: string,
  { profile }: Flags,
  cleanup: Cleanup,
): Promise<Server> {
  const node = profile === undefined ? [] : ['--cpu-prof', '--cpu-prof-dir', profile];
  const output = await open(log, 'a');
  const program = await startProgram('src/server.js', { cleanup, env, output: output.fd, node });
  await output.close();
  const url = `http://127.0.0.1:${env.PORT}`;
  // Asked and not read from its log: the log may be silenced to see what logging costs.
  const isReady = (): Promise<boolean> =>
    fetch(`${url}/health/ready`).then(
      ({ ok }) => ok,
      () => false,
    );
  await within(program, 'the service', async (over) => {
    while (!over.aborted && !(await isReady())) await sleep(50);
  }).catch(async (error: unknown) => {
    throw new Error(`the service did not start:\n${await readFile(log, 'utf8')}`, { cause: error });
  });
  return { url, pid: program.pid };
}

/** A port that nobody listens on at this moment. */
function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => {
        resolve(port);
      });
    });
  });
}

async function complaintsIn(log: string): Promise<string> {
  // The service collects its lines for half a second.
  await sleep(1_000);
  const file = await open(log);
  try {
    const { size } = await file.stat();
    const from = Math.max(0, size - LOG_TAIL);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(size - from), 0, size - from, from);
    const lines = buffer.toString('utf8', 0, bytesRead).split('\n');
    return lines
      .filter((line) => /"status":[45]\d\d|"level":"(?!info)/.test(line))
      .slice(-5)
      .join('\n');
  } finally {
    await file.close();
  }
}

async function startFloor(job: FloorJob, cleanup: Cleanup): Promise<Server> {
  const program = await startProgram('bench/floor.js', { cleanup, env: { NODE_ENV: 'production' }, ipc: true });
  const ready = new Promise<FloorReady>((resolve) => {
    program.child.once('message', resolve as (message: unknown) => void);
  });
  program.child.send(job);
  const { port } = await within(program, 'the floor', () => ready);
  return { url: `http://127.0.0.1:${port}`, pid: program.pid };
}

/** What `started` resolves to, unless the program ends or the time is up before; `started` is told when nobody waits any more. */
async function within<T>(program: Program, name: string, started: (over: AbortSignal) => Promise<T>): Promise<T> {
  const over = new AbortController();
  const late = sleep(START_DEADLINE, undefined, { signal: over.signal }).then(() => 'does not listen');
  try {
    return await Promise.race([
      started(over.signal),
      Promise.race([late, program.ended]).then((how) => {
        throw new Error(`${name}: ${how}`);
      }),
    ]);
  } finally {
    over.abort();
  }
}

function urlOf({ host, port, database, user, password }: ConnectionSettings): string {
  return `postgres://${user}:${password}@${host}:${port}/${database}`;
}

function secret(): string {
  return randomBytes(36).toString('base64url');
}

function factsOf(postgres: string, poolMax: number, loadBefore: number): Facts {
  return {
    at: new Date().toISOString(),
    cores: availableParallelism(),
    cpu: cpus()[0]?.model ?? 'unknown',
    memory: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
    loadBefore,
    node: process.version,
    postgres,
    poolMax,
    tenants: TENANTS,
    tokens: TENANTS * USERS_PER_TENANT,
    products: TENANTS * PRODUCTS_PER_TENANT,
  };
}
