// A real Redis in a temporary folder and on its own port: it can be killed, frozen, emptied and started again.
// TEST_REDIS=valkey-server uses that program instead; TEST_SERVERS=containers uses a container.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { GenericContainer, getContainerRuntimeClient } from 'testcontainers';
import { portOf } from '../../src/embedded/port.js';
import type { Certificate } from './certificate.js';
import { isMissing } from './programs.js';

export interface RedisServer {
  readonly host: string;
  readonly port: number;
  readonly password: string;
  /** For REDIS_URL. */
  readonly url: string;
  /** Runs one command on its own connection. */
  command(name: string, ...args: readonly (string | number)[]): Promise<unknown>;
  /** Ends it as a crash does. */
  kill(): Promise<void>;
  /** Starts it again on the same port, with the data of the last SAVE: empty if there was none. */
  start(): Promise<void>;
  /** Stops it at any point of its work: connections stay open and get no answer. */
  freeze(): Promise<void>;
  thaw(): Promise<void>;
  /** Ends it and removes its files. */
  close(): Promise<void>;
}

export interface RedisOptions {
  /** '' for none. */
  readonly password?: string;
  /** If set, the server accepts only TLS. */
  readonly tls?: Certificate;
  /** Lines of redis.conf, such as `{ maxmemory: '2mb' }`. */
  readonly settings?: Readonly<Record<string, string>>;
}

const IMAGE = 'redis:7.4-bookworm';
const PASSWORD = 'redis-password-of-the-tests';

/** Deadline (ms) for the answer to a server's first PING. */
const READY_DEADLINE = 10_000;

const inContainers = process.env['TEST_SERVERS'] === 'containers';
const program = process.env['TEST_REDIS'] ?? 'redis-server';

/** Why there is no Redis for tests; undefined if there is one. */
export const noRedis =
  inContainers || (program === 'redis-server' ? !isMissing(program) : spawnSync(program, ['--version']).status === 0)
    ? undefined
    : `not installed: ${program}`;

/** For the title of a test that is skipped without Redis. */
export const redisNote = noRedis === undefined ? '' : ` (skipped: ${noRedis})`;

/** Starts one. Close it. */
export async function startRedis({ password = PASSWORD, tls, settings = {} }: RedisOptions = {}): Promise<RedisServer> {
  const folder = await mkdtemp(path.join(tmpdir(), 'tenantry-redis-'));
  // In a container another user reads it.
  await chmod(folder, 0o755);
  const port = await portOf(path.join(folder, 'port'));
  const seenFrom = inContainers ? '/conf' : folder;
  await writeFile(path.join(folder, 'ca.pem'), tls?.certificate ?? '');
  await writeFile(path.join(folder, 'key.pem'), tls?.key ?? '');
  const lines = {
    save: '""',
    appendonly: 'no',
    daemonize: 'no',
    'protected-mode': 'no',
    bind: inContainers ? '0.0.0.0' : '127.0.0.1',
    dir: inContainers ? '/tmp' : folder,
    ...(tls
      ? { port: '0', 'tls-port': String(inContainers ? 6_379 : port) }
      : { port: String(inContainers ? 6_379 : port) }),
    ...(tls && {
      'tls-cert-file': `${seenFrom}/ca.pem`,
      'tls-key-file': `${seenFrom}/key.pem`,
      'tls-ca-cert-file': `${seenFrom}/ca.pem`,
      'tls-auth-clients': 'no',
    }),
    ...(password !== '' && { requirepass: password }),
    ...settings,
  };
  // A file and no arguments: every user can read the arguments of a running process.
  const text = Object.entries(lines).map(([name, value]) => `${name} ${value}\n`);
  await writeFile(path.join(folder, 'redis.conf'), text.join(''), { mode: inContainers ? 0o644 : 0o600 });

  const host = '127.0.0.1';
  const connect = (): Redis =>
    new Redis({
      host,
      port,
      password,
      ...(tls && { tls: { ca: tls.certificate } }),
      lazyConnect: true,
      retryStrategy: null,
    });
  const command: RedisServer['command'] = async (name, ...args) => {
    const client = connect().on('error', () => undefined);
    try {
      await client.connect();
      return await client.call(name, ...args);
    } finally {
      client.disconnect();
    }
  };
  const untilReady = async (): Promise<void> => {
    const deadline = performance.now() + READY_DEADLINE;
    while ((await command('PING').catch((error: unknown) => error)) !== 'PONG') {
      if (performance.now() > deadline) throw new Error('Redis did not become ready');
      await sleep(20);
    }
  };
  const machine = inContainers ? await container(folder, port) : localProcess(folder);
  const start = async (): Promise<void> => {
    await machine.start();
    await untilReady();
  };
  await start();
  return {
    host,
    port,
    password,
    url: `${tls ? 'rediss' : 'redis'}://${password === '' ? '' : `:${password}@`}${host}:${port}`,
    command,
    start,
    kill: () => machine.kill(),
    freeze: () => machine.freeze(),
    thaw: () => machine.thaw(),
    close: async () => {
      await machine.kill();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

interface Machine {
  start(): Promise<void>;
  /** Also works if it is frozen, or not running. */
  kill(): Promise<void>;
  freeze(): Promise<void>;
  thaw(): Promise<void>;
}

const running = new Set<ReturnType<typeof spawn>>();

// An aborted run leaves no server running.
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

function localProcess(folder: string): Machine {
  let child: ReturnType<typeof spawn> | undefined;
  return {
    start: async () => {
      child = spawn(program, [path.join(folder, 'redis.conf')], { cwd: folder, stdio: 'ignore' });
      running.add(child);
      await once(child, 'spawn');
    },
    kill: async () => {
      const ended = child?.exitCode === null && child.signalCode === null ? once(child, 'exit') : undefined;
      child?.kill('SIGKILL');
      await ended;
      if (child) running.delete(child);
    },
    freeze: async () => {
      child?.kill('SIGSTOP');
    },
    thaw: async () => {
      child?.kill('SIGCONT');
    },
  };
}

async function container(folder: string, port: number): Promise<Machine> {
  const runtime = await getContainerRuntimeClient();
  const id = new GenericContainer(IMAGE)
    .withExposedPorts({ container: 6_379, host: port })
    .withBindMounts([{ source: folder, target: '/conf', mode: 'ro' }])
    .withCommand(['redis-server', '/conf/redis.conf'])
    .start()
    .then((started) => runtime.container.getById(started.getId()));
  const isRunning = async (): Promise<boolean> => (await (await id).inspect()).State.Running;
  return {
    start: async () => {
      if (!(await isRunning())) await (await id).start();
    },
    kill: async () => {
      if (await isRunning()) await (await id).kill();
    },
    freeze: async () => {
      await (await id).pause();
    },
    thaw: async () => {
      await (await id).unpause();
    },
  };
}
