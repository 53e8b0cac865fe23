// An installation of the service as in production: a migrated registry, its secrets, and any number of processes.
import { randomBytes } from 'node:crypto';
import { chmod, mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ConnectionSettings } from '../../db/driver/client.js';
import { makeTokenKey } from '../../src/auth/keyring.js';
import { readSettings, type Config } from '../../src/config/index.js';
import type { Cleanup } from '../cleanup.js';
import type { Flags } from '../flags.js';
import { freePort, runProgram, startProgram, within } from '../measuring/program.js';
import type { Cluster } from './cluster.js';
import { signInOperator } from './seed.js';

export interface Service {
  readonly url: string;
  readonly pid: number;
  /** Safe to call again. */
  readonly stop: () => Promise<void>;
}

export type Environment = Readonly<Record<string, string>>;

export interface Installation {
  /** For a command that migrates. `--env` overrides it. */
  readonly environment: Environment;
  readonly auth: Config['auth'];
  /** Signs its cursors, in base64. */
  readonly cursorSecret: string;
  /** Brings registry and template up to date. @param env over the installation's own */
  migrate(env?: Environment): Promise<void>;
  /** Starts a process of the service, ready to answer. @param env over the installation's own; `--env` overrides both */
  startService(env?: Environment): Promise<Service>;
  signInOperator(service: Service): Promise<string>;
  /** The last warnings, errors and refusals in the log of its services, for the message of a failure. */
  complaints(): Promise<string>;
}

/** Bytes at the end of the log that are read after a failure. */
const LOG_TAIL = 4 * 2 ** 20;

/** @param folder for the logs */
export async function install(
  folder: string,
  cluster: Pick<Cluster, 'registry' | 'registryOwner' | 'provisioner'>,
  flags: Flags,
  cleanup: Cleanup,
): Promise<Installation> {
  const operator = { email: 'operator@bench.example', password: randomBytes(15).toString('base64url') };
  const own = {
    NODE_ENV: 'production',
    DATABASE_URL: urlOf(cluster.registry),
    TENANT_DATABASE_URL: urlOf(cluster.provisioner),
    DATABASE_TLS: 'off',
    JWT_KEYS: makeTokenKey('bench'),
    ENCRYPTION_KEYS: `bench:${randomBytes(32).toString('base64')}`,
    OPERATOR_EMAIL: operator.email,
    OPERATOR_PASSWORD: operator.password,
    // The limits count as always but never refuse, because the whole load comes from one address.
    RATE_LIMIT_MAX: '1000000000',
    SIGN_IN_LIMIT: '1000000000',
    SIGN_IN_FAILURES_ACCOUNT: '1000000000',
    SIGN_IN_FAILURES_ADDRESS: '1000000000',
    SIGN_IN_FAILURES_TENANT: '1000000000',
    PASSWORD_BUDGET_ACCOUNT: '1000000000',
    PASSWORD_BUDGET_TENANT: '1000000000',
    // A long run must not outlive its tokens.
    ACCESS_TOKEN_TTL: '86400',
    SHUTDOWN_DRAIN_MS: '0',
  };
  const environment = (env: Environment = {}): Environment => ({ ...own, ...env, ...givenBy(flags) });
  const migrationLog = path.join(folder, 'migrate.log');
  const serviceLog = path.join(folder, 'service.log');

  const { auth, encryptionKeys = [] } = readSettings(environment());
  const asOwner = { MIGRATION_DATABASE_URL: urlOf(cluster.registryOwner) };
  const installation: Installation = {
    environment: environment(asOwner),
    auth: { ...auth, keys: auth.keys ?? [] },
    cursorSecret: encryptionKeys[0]?.key.toString('base64') ?? '',
    migrate: (env) => runLogged('src/cli/migrate.js', environment({ ...asOwner, ...env }), migrationLog, cleanup),
    startService: (env) => startService(environment(env), serviceLog, flags, cleanup),
    signInOperator: ({ url }) => signInOperator(url, operator),
    complaints: () => complaintsIn(serviceLog),
  };
  await installation.migrate();
  return installation;
}

/** The settings from the command line. */
export function givenBy({ poolMax, env }: Flags): Environment {
  return { ...(poolMax !== undefined && { POOL_MAX: String(poolMax) }), ...env };
}

/** A folder for everything that a stage writes; removed when the stage closes. */
export async function makeFolder(cleanup: Cleanup): Promise<string> {
  const folder = await cleanup.start(
    () => mkdtemp(path.join(tmpdir(), 'tenantry-bench-')),
    (made) => rm(made, { recursive: true, force: true }),
  );
  // mkdtemp creates it with mode 0700, and under root PostgreSQL runs as another user.
  await chmod(folder, 0o755);
  return folder;
}

export function urlOf({ host, port, database, user, password }: ConnectionSettings): string {
  return `postgres://${user}:${password}@${host}:${port}/${database}`;
}

async function runLogged(file: string, env: Environment, log: string, cleanup: Cleanup): Promise<void> {
  const output = await open(log, 'a');
  try {
    await runProgram(file, { cleanup, env, output: output.fd });
  } catch (error) {
    throw new Error(await readFile(log, 'utf8'), { cause: error });
  } finally {
    await output.close();
  }
}

async function startService(env: Environment, log: string, { profile }: Flags, cleanup: Cleanup): Promise<Service> {
  const node = profile === undefined ? [] : ['--cpu-prof', '--cpu-prof-dir', profile];
  const port = env['PORT'] ?? String(await freePort());
  const output = await open(log, 'a');
  const program = await startProgram('src/server.js', {
    cleanup,
    env: { ...env, PORT: port },
    output: output.fd,
    node,
  }).finally(() => output.close());
  const url = `http://127.0.0.1:${port}`;
  // Asked by a request and not read from the log: the log may be silenced to see the cost of logging.
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
  return { url, pid: program.pid, stop: program.stop };
}

async function complaintsIn(log: string): Promise<string> {
  // The service buffers its log lines for half a second.
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
