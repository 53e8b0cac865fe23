// A host that vanishes silently: its network is cut while its connections hold locks. No packet says that they are gone.
import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { sql } from 'kysely';
import { describe, expect, it, onTestFinished } from 'vitest';
import { createDatabase } from '../../db/driver/client.js';
import { startEmbeddedCluster } from '../../src/embedded/embedded-cluster.js';
import { settlePlace } from '../../src/embedded/place.js';
import { CHILD_ENV } from '../../src/embedded/run.js';
import { isMissing, mayMakeNamespaces, skipNote } from '../support/programs.js';
import { eventually, isRunning } from '../support/service-process.js';

const PASSWORD = 'superuser-of-the-vanished-host';

/** "Within 30 s", plus a margin for the machine. */
const PROMISE = { timeout: 35_000, interval: 250 };

const possible = !isMissing('ip') && mayMakeNamespaces();
const note = skipNote('ip') || (possible ? '' : ' (skipped: this process may not make network namespaces)');

describe.skipIf(!possible)(`a host that vanishes, cut off by ip netns${note}`, () => {
  it('loses its locks and sessions within 30 s, and closes its own connections to the server', async () => {
    const network = makeNetwork();
    const server = await startServer();
    const handle = createDatabase<unknown>(
      { host: '127.0.0.1', port: server.port, user: 'postgres', password: PASSWORD, database: 'postgres', tls: false },
      { max: 1, acquireTimeout: 10_000, timeout: 10_000, idleTimeoutMillis: 60_000 },
      { applicationName: 'tests', preparedStatements: false },
    );
    onTestFinished(() => handle.close(0));
    const left = async (): Promise<unknown> => {
      const { rows } = await sql`
        select (select count(*)::int from pg_stat_activity where application_name like 'vanished %') as sessions,
          (select count(*)::int from pg_locks where locktype = 'advisory') as locks`.execute(handle.db);
      return rows[0];
    };

    const client = spawn(
      'ip',
      [
        'netns',
        'exec',
        network.namespace,
        process.execPath,
        '--import',
        'tsx',
        'tests/support/vanishing-client.ts',
      ].concat([network.outside, String(server.port), PASSWORD]),
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    onTestFinished(() => void client.kill('SIGKILL'));
    const said: string[] = [];
    createInterface({ input: client.stdout }).on('line', (line) => said.push(line));
    await expect.poll(() => said, { timeout: 30_000 }).toEqual(['held']);
    expect(await left()).toEqual({ sessions: 3, locks: 3 });

    network.cut();
    await expect.poll(left, PROMISE).toEqual({ sessions: 0, locks: 0 });
    // The client's side: keepalives end the idle connections. A statement in flight has a deadline of its pool.
    await expect
      .poll(() => [...new Set(said)].sort(), PROMISE)
      .toEqual(['held', 'lost idle', 'lost running', 'lost transaction']);
  }, 120_000);
});

/** Runs `ip`. @throws Error with its output */
function ip(...words: string[]): void {
  const { status, stderr } = spawnSync('ip', words, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`ip ${words.join(' ')}: ${stderr}`);
}

/** Makes a namespace with a cable to this one; both are removed after the test. */
function makeNetwork(): { readonly namespace: string; readonly outside: string; cut(): void } {
  const id = randomBytes(3).toString('hex');
  const namespace = `vanish-${id}`;
  const [here, there] = [`vh-${id}`, `vn-${id}`];
  // One of 64 small networks of 198.18.0.0/15, which is reserved for network tests.
  const net = `198.18.213.${(Number.parseInt(id, 16) % 64) * 4}`.split('.').map(Number);
  const address = (host: number): string => [...net.slice(0, 3), (net[3] ?? 0) + host].join('.');
  const inside = (...words: string[]): void => {
    ip('netns', 'exec', namespace, 'ip', ...words);
  };
  ip('netns', 'add', namespace);
  onTestFinished(() => {
    spawnSync('ip', ['netns', 'del', namespace]);
    spawnSync('ip', ['link', 'del', here]);
  });
  ip('link', 'add', here, 'type', 'veth', 'peer', 'name', there);
  ip('link', 'set', there, 'netns', namespace);
  ip('addr', 'add', `${address(1)}/30`, 'dev', here);
  ip('link', 'set', here, 'up');
  inside('addr', 'add', `${address(2)}/30`, 'dev', there);
  inside('link', 'set', there, 'up');
  return {
    namespace,
    outside: address(1),
    cut: () => {
      inside('link', 'set', there, 'down');
    },
  };
}

/** Starts a server that other hosts can reach, which the embedded server does not allow. */
async function startServer(): Promise<{ readonly port: number }> {
  const home = await mkdtemp(path.join(tmpdir(), 'tenantry-vanish-'));
  onTestFinished(() => rm(home, { recursive: true, force: true }));
  // mkdtemp creates it with mode 0700, and under root the server runs as another user.
  await chmod(home, 0o755);
  const log = { info: () => undefined, warn: () => undefined, error: () => undefined };
  const cluster = await startEmbeddedCluster({ home, superuserPassword: PASSWORD, log });
  await cluster.stop();
  const { port } = cluster;
  const { binaries, dataDir, account } = await settlePlace(home, log);
  const hba = path.join(home, 'hba.conf');
  await writeFile(hba, 'host all all all scram-sha-256\n', { mode: 0o644 });
  const settings = {
    listen_addresses: '*',
    unix_socket_directories: '',
    port: String(port),
    hba_file: hba,
    fsync: 'off',
  };
  const postgres = spawn(
    binaries.postgres,
    ['-D', dataDir, ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])],
    { stdio: 'ignore', cwd: '/', env: CHILD_ENV, ...account },
  );
  const ended = new Promise((resolve) => postgres.once('exit', resolve));
  onTestFinished(async () => {
    postgres.kill('SIGQUIT');
    await ended;
  });
  const { pid } = postgres;
  await eventually('the server answers', async () => {
    if (pid === undefined || !isRunning(pid)) throw new Error('the server did not start');
    const handle = createDatabase<unknown>(
      { host: '127.0.0.1', port, user: 'postgres', password: PASSWORD, database: 'postgres', tls: false },
      { max: 1, acquireTimeout: 1_000, timeout: 1_000, idleTimeoutMillis: 1_000 },
      { applicationName: 'tests', preparedStatements: false },
    );
    return sql`select 1`
      .execute(handle.db)
      .then(
        () => true,
        () => false,
      )
      .finally(() => handle.close(0));
  });
  return { port };
}
