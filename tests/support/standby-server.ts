// Two PostgreSQL servers on one port at two loopback addresses, for tests of a failover. One follows the other by streaming
// replication, and they can swap roles.
import { appendFile, chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { sql } from 'kysely';
import { createDatabase, type DatabaseHandle } from '../../db/driver/client.js';
import { initializeDataDir } from '../../src/embedded/initdb.js';
import { settlePlace, type Place } from '../../src/embedded/place.js';
import { run } from '../../src/embedded/run.js';
import { eventually } from './service-process.js';

export const STANDBY_SUPERUSER = { user: 'postgres', password: 'superuser-of-the-pair' };

/** Fast, and still safe if a server is killed: data is lost only if the machine crashes. */
const SETTINGS = {
  fsync: 'off',
  full_page_writes: 'off',
  max_connections: '200',
  wal_keep_size: '512MB',
  wal_retrieve_retry_interval: '100ms',
  unix_socket_directories: '',
};

export interface ReplicatedServer {
  readonly host: string;
  readonly port: number;
  /** Starts it; resolves when it takes connections. */
  start(): Promise<void>;
  /** `fast` waits until a standby has everything; `immediate` is a crash. */
  stop(mode: 'fast' | 'immediate'): Promise<void>;
  /** Makes it a standby of the other server at its next start. */
  follow(other: ReplicatedServer): Promise<void>;
  /** Resolves when it takes writes. */
  promote(): Promise<void>;
  /** Makes COMMIT wait for a standby, or no longer. Resolves when that is in force. */
  waitForStandby(on: boolean): Promise<void>;
  /** Resolves when a standby has received everything. */
  caughtUp(): Promise<void>;
  /** Works as the superuser. */
  asSuperuser<T>(database: string, work: (db: DatabaseHandle<unknown>['db']) => Promise<T>): Promise<T>;
}

export interface ServerPair {
  readonly one: ReplicatedServer;
  readonly other: ReplicatedServer;
  /** Makes the second server a copy of the first. Both then take writes: neither follows. */
  copyToOther(): Promise<void>;
  /** Stops both and removes their folders. */
  stop(): Promise<void>;
}

/**
 * Starts a server, runs `prepare`, stops the server, and starts it again with a copy of its folder as its standby.
 *
 * @param prepare gets the first server
 */
export async function startServerPair(prepare: (one: ReplicatedServer) => Promise<void>): Promise<ServerPair> {
  const home = await mkdtemp(path.join(tmpdir(), 'tenantry-pair-'));
  // mkdtemp creates it with mode 0700, and under root the servers run as another user.
  await chmod(home, 0o755);
  const place = await settlePlace(home, { info: () => undefined });
  const started: Server[] = [];
  const stop = async (): Promise<void> => {
    for (const server of started) await server.stop('immediate').catch(() => undefined);
    await rm(home, { recursive: true, force: true });
  };
  try {
    await initializeDataDir(place, STANDBY_SUPERUSER.password);
    const local = ['all', 'replication'].map((database) => `host ${database} all 127.0.0.0/8 scram-sha-256\n`).join('');
    await appendFile(path.join(place.dataDir, 'pg_hba.conf'), local);
    const port = await freePort(['127.0.0.1', '127.0.0.2']);
    const one = new Server(place, place.dataDir, '127.0.0.1', port);
    const other = new Server(place, `${place.dataDir}-other`, '127.0.0.2', port);
    started.push(one, other);
    await one.start();
    await prepare(one);
    await one.stop('fast');
    await run('cp', ['-a', one.dataDir, other.dataDir]);
    await other.follow(one);
    await one.start();
    await other.start();
    await one.caughtUp();
    const copyToOther = async (): Promise<void> => {
      await other.stop('immediate').catch(() => undefined);
      await one.stop('fast');
      await run('rm', ['-rf', other.dataDir]);
      await run('cp', ['-a', one.dataDir, other.dataDir]);
      await Promise.all([one.start(), other.start()]);
    };
    return { one, other, copyToOther, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

class Server implements ReplicatedServer {
  constructor(
    private readonly place: Place,
    readonly dataDir: string,
    readonly host: string,
    readonly port: number,
  ) {}

  async start(): Promise<void> {
    const settings = { ...SETTINGS, listen_addresses: this.host, port: String(this.port) };
    const options = Object.entries(settings).map(([name, value]) => `-c ${name}='${value}'`);
    await this.#control('start', '-w', '-l', path.join(this.dataDir, 'server.log'), '-o', options.join(' '));
  }

  async stop(mode: 'fast' | 'immediate'): Promise<void> {
    await this.#control('stop', '-w', '-m', mode);
  }

  async follow({ host, port }: ReplicatedServer): Promise<void> {
    const { user, password } = STANDBY_SUPERUSER;
    const source = `host=${host} port=${port} user=${user} password=${password}`;
    await appendFile(path.join(this.dataDir, 'postgresql.auto.conf'), `primary_conninfo = '${source}'\n`);
    const signal = path.join(this.dataDir, 'standby.signal');
    await writeFile(signal, '');
    await chmod(signal, 0o666);
  }

  async promote(): Promise<void> {
    await this.asSuperuser('postgres', (db) => sql`select pg_promote(true, 30)`.execute(db));
  }

  async waitForStandby(on: boolean): Promise<void> {
    await this.asSuperuser('postgres', async (db) => {
      await sql`alter system set synchronous_standby_names to ${sql.lit(on ? '*' : '')}`.execute(db);
      await sql`select pg_reload_conf()`.execute(db);
      await eventually('a standby is synchronous, or none', async () => {
        const { rows } = await sql`select from pg_stat_replication where sync_state = 'sync'`.execute(db);
        return rows.length > 0 === on;
      });
    });
  }

  async caughtUp(): Promise<void> {
    await this.asSuperuser('postgres', (db) =>
      eventually('the standby has received everything', async () => {
        const { rows } = await sql`
          select from pg_stat_replication where state = 'streaming' and replay_lsn >= pg_current_wal_lsn()`.execute(db);
        return rows.length > 0;
      }),
    );
  }

  async asSuperuser<T>(database: string, work: (db: DatabaseHandle<unknown>['db']) => Promise<T>): Promise<T> {
    const limits = { max: 1, acquireTimeout: 10_000, timeout: 60_000, idleTimeoutMillis: 1_000 };
    const { host, port } = this;
    const handle = createDatabase<unknown>({ host, port, database, ...STANDBY_SUPERUSER, tls: false }, limits, {
      applicationName: 'tests',
      preparedStatements: false,
    });
    return work(handle.db).finally(() => handle.close(0));
  }

  async #control(command: string, ...args: string[]): Promise<void> {
    const { binaries, account } = this.place;
    await run(binaries.pgCtl, [command, '-D', this.dataDir, ...args], account);
  }
}

/** A port that is free on each of these addresses. */
async function freePort(hosts: readonly string[]): Promise<number> {
  for (;;) {
    let port = 0;
    try {
      for (const host of hosts) {
        const server = createServer().listen(port, host);
        await once(server, 'listening');
        ({ port } = server.address() as { port: number });
        server.close();
        await once(server, 'close');
      }
      return port;
    } catch {
      // The port is taken on the second address: try another one.
    }
  }
}
