// The PostgreSQL that starts by itself if none is configured, and runs until the service stops.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { initializeDataDir } from './initdb.js';
import { lockHome } from './lock.js';
import { settlePlace } from './place.js';
import { portOf, rememberedPort } from './port.js';
import { startPostmaster, stopOrphan, type Postmaster, type ServerSpec } from './postmaster.js';

export interface EmbeddedClusterOptions {
  /** The folder that holds everything of this cluster; it is made if missing. */
  home: string;
  /** Password of the superuser `postgres`, one line. It is used only at the first start, which makes the cluster. */
  superuserPassword: string;
  /** PostgreSQL settings, e.g. `{ max_connections: '200' }`. The caller cannot set the address, the port and the sockets. */
  settings?: Readonly<Record<string, string>>;
  /** A folder whose `node_modules` contains the binaries, instead of the service's own. */
  binariesFrom?: string | undefined;
  log: ClusterLog;
  /** Called before each part of the start that may take seconds, with what it does. */
  onStep?: ((step: string) => void) | undefined;
}

export interface ClusterLog {
  info(msg: string): void;
  warn(msg: string): void;
  error(msg: string): void;
}

export interface EmbeddedCluster {
  readonly host: '127.0.0.1';
  /** Chosen at the first start, and never changed. */
  readonly port: number;
  readonly superuser: 'postgres';
  /** The process id of the running postmaster; undefined between a crash and the restart. */
  readonly pid: number | undefined;
  readonly logFile: string;
  readonly dataDir: string;
  /** Ends all sessions, stops the server and frees the folder. Resolves when the process is gone. Safe to call again. */
  stop(): Promise<void>;
}

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;
/** A server that ran this long (ms) was healthy. So its end is a new fault, and the pause before the restart is short again. */
const STEADY_MS = 30_000;

/**
 * Starts the cluster in `home`, and makes it first if there is none. Restarts the cluster if it ends before `stop()`. Under root
 * it runs as the OS user `postgres`. If that user cannot reach `home`, it runs in /var/lib/tenantry.
 * @throws HomeInUse if another service uses `home`; Error if another program has its port, the binaries are missing, or PostgreSQL
 *   does not start (the message then contains the end of its log)
 */
export async function startEmbeddedCluster({
  home,
  superuserPassword,
  settings = {},
  binariesFrom,
  log,
  onStep = () => undefined,
}: EmbeddedClusterOptions): Promise<EmbeddedCluster> {
  const place = await settlePlace(home, log, binariesFrom);
  const lock = await lockHome(place.home);
  try {
    await stopOrphan(place, log);
    await initializeDataDir(place, superuserPassword, () => {
      onStep('making the files of the embedded PostgreSQL');
    });
    const logFile = join(place.home, 'postgres.log');
    await writeFile(logFile, '', { mode: 0o600 });
    const port = await portOf(join(place.home, 'postgres.port'));

    onStep(`starting the embedded PostgreSQL on port ${port}`);
    const server = await keepRunning({ ...place, port, logFile, settings, log }, log);
    let stopped: Promise<void> | undefined;
    return {
      host: '127.0.0.1',
      port,
      superuser: 'postgres',
      get pid() {
        return server.pid;
      },
      logFile,
      dataDir: place.dataDir,
      stop: () => (stopped ??= server.stop().finally(() => lock.release())),
    };
  } catch (error) {
    await lock.release();
    throw error;
  }
}

/**
 * The address of the cluster that another running service keeps in `home`.
 *
 * @throws if that service has not chosen its port yet
 */
export async function addressOfRunning(
  home: string,
  log: ClusterLog,
  binariesFrom?: string,
): Promise<Pick<EmbeddedCluster, 'host' | 'port'>> {
  const place = await settlePlace(home, log, binariesFrom);
  const port = await rememberedPort(join(place.home, 'postgres.port'));
  if (port === undefined)
    throw new Error(`The service that uses ${place.home} is still making its PostgreSQL: try again in a moment`);
  return { host: '127.0.0.1', port };
}

interface SupervisedServer {
  readonly pid: number | undefined;
  stop(): Promise<void>;
}

/**
 * Resolves when the server is up for the first time. After that a single loop owns the server, so that stop() and a restart
 * cannot overlap.
 */
async function keepRunning(spec: ServerSpec, log: ClusterLog): Promise<SupervisedServer> {
  const stopping = new AbortController();
  const { signal } = stopping;
  const isStopping = (): boolean => signal.aborted;
  const stopRequested = new Promise((resolve) => {
    signal.addEventListener('abort', resolve, { once: true });
  });

  let running: Postmaster | undefined = await startPostmaster(spec, signal);

  const supervise = async (): Promise<void> => {
    let pauseMs = FIRST_PAUSE_MS;
    let upSince = performance.now();
    while (!isStopping()) {
      await Promise.race([running?.ended, stopRequested]);
      if (isStopping()) break;
      if (running) {
        log.error(
          `The embedded PostgreSQL (pid ${String(running.pid)}) died: ${String(running.end)}; starting it again`,
        );
        running = undefined;
        if (performance.now() - upSince > STEADY_MS) pauseMs = FIRST_PAUSE_MS;
      }
      await sleep(pauseMs, undefined, { signal, ref: false }).catch(() => undefined);
      pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS);
      try {
        running = await startPostmaster(spec, signal);
        upSince = performance.now();
        log.info(`The embedded PostgreSQL runs again on port ${spec.port} (pid ${String(running.pid)})`);
      } catch (error) {
        if (!isStopping())
          log.error(`The embedded PostgreSQL did not start: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
    await running?.stop();
    running = undefined;
  };

  const supervision = supervise();
  return {
    get pid() {
      return running?.pid;
    },
    stop: () => {
      stopping.abort();
      return supervision;
    },
  };
}
