// A throwaway PostgreSQL with the roles of the service in it.
import { sql, type Kysely } from 'kysely';
import { randomBytes } from 'node:crypto';
import { createDatabase, type ConnectionSettings } from '../../db/driver/client.js';
import { bootstrapCluster, MAINTENANCE_DATABASE } from '../../db/server/server-admin.js';
import { scramVerifier } from '../../db/server/scram.js';
import { startEmbeddedCluster } from '../../src/embedded/embedded-cluster.js';
import type { Cleanup } from '../cleanup.js';
import { progress } from '../report.js';

export interface Cluster {
  /** The process id of PostgreSQL's first process, the parent of all others. */
  readonly postmaster: number;
  readonly version: string;
  readonly logFile: string;
  readonly superuser: ConnectionSettings;
  readonly registry: ConnectionSettings;
  readonly registryOwner: ConnectionSettings;
  readonly provisioner: ConnectionSettings;
  /** Works as the superuser, on one connection that is closed after the work. @param database default: the maintenance database */
  asSuperuser<T>(work: (db: Kysely<unknown>) => Promise<T>, database?: string): Promise<T>;
}

const REGISTRY = 'tenantry_registry';
const REGISTRY_SERVICE = 'tenantry_service';
const PROVISIONER = 'tenantry_provisioner';

/** Iterations as for human passwords: as the service meets them in production. */
const SCRAM_ITERATIONS = 4_096;

/** Deadline (ms) for a superuser's statement or transaction. The longest is a lock that a scenario holds. */
const STATEMENT_DEADLINE = 300_000;

/**
 * @param home its folder, which other users must be able to enter
 * @param settings of PostgreSQL, besides the usual ones
 */
export async function startCluster(
  home: string,
  settings: Readonly<Record<string, string>> & { readonly max_connections: string },
  cleanup: Cleanup,
): Promise<Cluster> {
  const password = randomSecret();
  const server = await cleanup.start(
    () =>
      startEmbeddedCluster({
        home,
        superuserPassword: password,
        settings: { shared_buffers: '256MB', ...settings },
        log: { info: () => undefined, warn: progress, error: progress },
      }),
    (started) => started.stop(),
  );
  const { pid, logFile } = server;
  if (pid === undefined) throw new Error('PostgreSQL does not run');
  return { postmaster: pid, logFile, ...(await prepareServer({ ...server, password }, REGISTRY)) };
}

/** A server with the roles of the service in it. */
export type PreparedServer = Omit<Cluster, 'postmaster' | 'logFile'>;

/** Makes the roles of the service, with new passwords, and an empty registry. @param registryDatabase its name */
export async function prepareServer(
  server: { readonly host: string; readonly port: number; readonly superuser: string; readonly password: string },
  registryDatabase: string,
): Promise<PreparedServer> {
  const { host, port, password } = server;
  const at = (user: string, own: string, database: string): ConnectionSettings => ({
    host,
    port,
    database,
    user,
    password: own,
    tls: false,
  });
  const superuser = at(server.superuser, password, MAINTENANCE_DATABASE);
  const registry = at(REGISTRY_SERVICE, randomSecret(), registryDatabase);
  const registryOwner = at(REGISTRY, randomSecret(), registryDatabase);
  const provisioner = at(PROVISIONER, randomSecret(), MAINTENANCE_DATABASE);

  const asSuperuser: Cluster['asSuperuser'] = (work, database = MAINTENANCE_DATABASE) => {
    const limits = { max: 1, acquireTimeout: 10_000, timeout: STATEMENT_DEADLINE, idleTimeoutMillis: 10_000 };
    const handle = createDatabase<unknown>({ ...superuser, database }, limits, {
      applicationName: 'tenantry bench',
      preparedStatements: false,
    });
    return work(handle.db).finally(() => handle.close(0));
  };
  const version = await asSuperuser(async (db) => {
    await bootstrapCluster(db, {
      registryOwner: { name: REGISTRY, verifier: await scramVerifier(registryOwner.password, SCRAM_ITERATIONS) },
      registryService: {
        name: REGISTRY_SERVICE,
        verifier: await scramVerifier(registry.password, SCRAM_ITERATIONS),
      },
      provisioner: { name: PROVISIONER, verifier: await scramVerifier(provisioner.password, SCRAM_ITERATIONS) },
      registryDatabase,
    });
    const { rows } = await sql<{ version: string }>`
      select current_setting('server_version') as version`.execute(db);
    return rows[0]?.version ?? 'unknown';
  });
  return { version, superuser, registry, registryOwner, provisioner, asSuperuser };
}

/** 288 random bits. */
export function randomSecret(): string {
  return randomBytes(36).toString('base64url');
}
