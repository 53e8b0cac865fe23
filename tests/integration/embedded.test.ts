// The embedded PostgreSQL on real servers: what it keeps, which passwords it refuses, and how it recovers from kill -9.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, realpath, rm, stat, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { startEmbeddedCluster, type EmbeddedCluster } from '../../src/embedded/embedded-cluster.js';

const PASSWORD = "pass'word with spaces";
const isRoot = process.getuid?.() === 0;

let home: string;
let cluster: EmbeddedCluster | undefined;
let messages: string[] = [];

// One home for all tests, in order: each later start finds the data of the tests before.
beforeAll(async () => {
  home = await makeHome();
});

afterEach(async () => {
  await cluster?.stop();
  cluster = undefined;
  messages = [];
});

afterAll(async () => {
  await rm(home, { recursive: true, force: true });
});

describe('the first start of the embedded PostgreSQL', () => {
  it('makes a server that accepts its password and no other', async () => {
    cluster = await start({ settings: { max_connections: '37' } });
    expect(cluster.port).toBeGreaterThanOrEqual(20_000);
    expect(cluster.port).toBeLessThanOrEqual(29_999);

    const { rows } = await query(
      `select current_setting('max_connections') as max_connections, current_setting('listen_addresses') as listen_addresses,
              current_setting('unix_socket_directories') as sockets, current_setting('data_checksums') as checksums,
              current_setting('server_encoding') as encoding, current_setting('TimeZone') as zone,
              (select datlocale from pg_database where datname = current_database()) as locale`,
    );
    expect(rows).toEqual([
      {
        max_connections: '37',
        listen_addresses: '127.0.0.1',
        sockets: '',
        checksums: 'on',
        encoding: 'UTF8',
        zone: 'UTC',
        locale: 'C.UTF-8',
      },
    ]);
    await expect(query('select 1', 'wrong')).rejects.toMatchObject({ code: '28P01' });

    await query('create table kept (n int)');
    await query('insert into kept values (1)');
  });

  it('leaves no password and no temporary file, and other users cannot list its folders', async () => {
    expect((await readdir(home)).sort()).toEqual(['postgres', 'postgres.log', 'postgres.port']);
    const modes = await Promise.all(
      ['', 'postgres', 'postgres.log'].map(async (name) => (await stat(join(home, name))).mode & 0o777),
    );
    expect(modes).toEqual([isRoot ? 0o711 : 0o700, 0o700, 0o600]);
  });
});

describe('a later start of the embedded PostgreSQL', () => {
  it('keeps data and port, and removes the remains of an initdb that was killed', async () => {
    const draft = join(home, 'postgres.init-killed', 'data');
    await mkdir(draft, { recursive: true });
    cluster = await start();
    const { port } = cluster;
    expect(await keptRows()).toEqual([1]);
    expect(existsSync(draft)).toBe(false);

    await cluster.stop();
    cluster = await start();
    expect(cluster.port).toBe(port);
  });

  it('is refused while the home is in use', async () => {
    cluster = await start();
    await expect(start()).rejects.toThrow(`${home} is in use by another running service`);
    expect(await keptRows()).toEqual([1]);
  });

  it('is refused by name if another program uses its port', async () => {
    cluster = await start();
    const { port } = cluster;
    await cluster.stop();

    const squatter = await listenOn(port);
    try {
      await expect(start()).rejects.toThrow(
        new RegExp(`Port ${port}, .*${home}/postgres\\.port.* is taken by another program`),
      );
    } finally {
      squatter.close();
    }
    cluster = await start(); // The refusal left no lock.
    expect(cluster.port).toBe(port);
  });

  it('ignores a stale postmaster.pid that names a live process', async () => {
    const statusFile = join(home, 'postgres', 'postmaster.pid');
    await writeFile(
      statusFile,
      `${process.ppid}\n${home}/postgres\n1\n1\n\n127.0.0.1\n        1         1\nready   \n`,
    );
    await chmod(statusFile, 0o644); // Other users may read it.
    cluster = await start();
    expect(messages).toEqual([]);
    expect(isAlive(process.ppid)).toBe(true);
  });

  it('fails with the end of the log if PostgreSQL refuses to start', async () => {
    await expect(start({ settings: { max_connections: 'many' } })).rejects.toThrow(
      /exit code 1.*\n.*invalid value for parameter "max_connections"/s,
    );
    expect(existsSync(join(home, 'postgres', 'postmaster.pid'))).toBe(false);
  });
});

describe('after kill -9', () => {
  it('of the postmaster, PostgreSQL starts again on the same port with every acknowledged row', async () => {
    cluster = await start();
    const { pid, port } = cluster;
    await query('insert into kept values (2)');
    process.kill(pid ?? NaN, 'SIGKILL');

    await until(async () => (await keptRows().catch(() => [])).length === 2);
    // PostgreSQL may answer before the supervisor has noticed.
    await until(() => Promise.resolve(messages.length > 1));
    expect(cluster).toMatchObject({ port, pid: expect.not.toSatisfy((now) => now === pid) as unknown });
    expect(messages[0]).toBe(
      `error: The embedded PostgreSQL (pid ${String(pid)}) died: signal SIGKILL; starting it again`,
    );
    expect(messages.at(-1)).toBe(
      `info: The embedded PostgreSQL runs again on port ${port} (pid ${String(cluster.pid)})`,
    );
  });

  it('of the service, the next start stops the orphaned PostgreSQL and has its data', async () => {
    const service = spawn(process.execPath, ['--import', 'tsx', 'tests/support/embedded-child.ts', home, PASSWORD], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [line] = (await once(createInterface(service.stdout), 'line')) as [string];
    const orphan = JSON.parse(line) as { pid: number; port: number };
    await query('insert into kept values (3)', PASSWORD, orphan.port);
    service.kill('SIGKILL');
    await once(service, 'exit');
    expect(isAlive(orphan.pid)).toBe(true);
    expect(existsSync(join(home, 'postgres.lock'))).toBe(true);

    cluster = await start();
    expect(isAlive(orphan.pid)).toBe(false);
    expect(messages[0]).toContain(`left running (pid ${orphan.pid})`);
    expect(cluster.port).toBe(orphan.port);
    expect(await keptRows()).toEqual([1, 2, 3]);
  });
});

describe('stopping the embedded PostgreSQL', () => {
  it('leaves no process and no lock, however often it is called', async () => {
    cluster = await start();
    const { pid } = cluster;
    const client = await connect(); // An open session must not delay the stop.
    client.on('error', () => undefined);
    await Promise.all([cluster.stop(), cluster.stop()]);
    expect(isAlive(pid ?? NaN)).toBe(false);
    expect(cluster.pid).toBeUndefined();
    expect((await readdir(home)).sort()).toEqual(['postgres', 'postgres.log', 'postgres.port']);
    expect(messages).toEqual([]);
  });

  it('also ends a supervised restart', async () => {
    for (const restartMs of [0, 110, 160]) {
      cluster = await start();
      process.kill(cluster.pid ?? NaN, 'SIGKILL');
      await sleep(restartMs); // 0: in the pause before the restart; then: while the new server starts.
      await cluster.stop();
      expect(cluster.pid).toBeUndefined();
      const { port } = cluster;
      // In the first moment after the stop a connection can be reset instead of refused.
      await vi.waitFor(() => expect(connect(PASSWORD, port)).rejects.toMatchObject({ code: 'ECONNREFUSED' }));
      expect(existsSync(join(home, 'postgres.lock'))).toBe(false);
    }
  });
});

it.runIf(isRoot)('the embedded PostgreSQL moves to /var/lib/tenantry if its user cannot reach the home', async () => {
  const closed = await mkdtemp(join(tmpdir(), 'tenantry-closed-')); // mkdtemp makes it 0700, root's
  try {
    cluster = await start({ home: join(closed, 'home') });
    expect(cluster.dataDir).toMatch(/^\/var\/lib\/tenantry\/[0-9a-f]{16}\/postgres$/);
    expect(messages).toEqual([expect.stringContaining(`its files are in ${dirname(cluster.dataDir)}`)]);
    await query('select 1');
  } finally {
    await cluster?.stop();
    await rm(closed, { recursive: true, force: true });
    if (cluster?.dataDir.startsWith('/var/lib/tenantry/'))
      await rm(dirname(cluster.dataDir), { recursive: true, force: true });
  }
});

async function makeHome(): Promise<string> {
  const folder = await realpath(await mkdtemp(join(tmpdir(), 'tenantry-embedded-')));
  await chmod(folder, 0o755);
  return folder;
}

async function start(options: { home?: string; settings?: Record<string, string> } = {}): Promise<EmbeddedCluster> {
  const log = (level: string) => (message: string) => {
    messages.push(`${level}: ${message}`);
  };
  return startEmbeddedCluster({
    home,
    superuserPassword: PASSWORD,
    log: { info: log('info'), warn: log('warn'), error: log('error') },
    ...options,
  });
}

async function connect(password = PASSWORD, port = cluster?.port): Promise<pg.Client> {
  const client = new pg.Client({
    host: '127.0.0.1',
    port,
    user: 'postgres',
    password,
    database: 'postgres',
    connectionTimeoutMillis: 5_000,
  });
  await client.connect();
  return client;
}

async function query(sql: string, password?: string, port?: number): Promise<pg.QueryResult> {
  const client = await connect(password, port);
  try {
    return await client.query(sql);
  } finally {
    await client.end();
  }
}

async function keptRows(): Promise<number[]> {
  const { rows } = (await query('select n from kept order by n')) as pg.QueryResult<{ n: number }>;
  return rows.map(({ n }) => n);
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error('Not within 10 s');
    await sleep(20);
  }
}

async function listenOn(port: number): Promise<Server> {
  const server = createServer().listen(port, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

/** A zombie is dead: only its parent, a slow init, has not collected it yet. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return process.platform !== 'linux' || !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ');
  } catch {
    return false;
  }
}
