// A second PostgreSQL server, for tests with tenants on two servers. It is prepared as an external server: with a provisioner and
// without a template.
import { sql } from 'kysely';
import { createDatabase, type ConnectionSettings } from '../../db/driver/client.js';
import { bootstrapCluster } from '../../db/server/server-admin.js';
import { scramVerifier } from '../../db/server/scram.js';
import { ITERATIONS } from './cluster.js';
import { startPostgres } from './servers.js';
import { serveTls } from './tls-server.js';

export interface SecondCluster {
  readonly superuser: ConnectionSettings;
  readonly provisioner: ConnectionSettings;
  /** The body for POST /clusters. */
  readonly body: {
    name: string;
    host: string;
    port: number;
    provisionerUser: string;
    provisionerPassword: string;
    tls: 'off';
    connectionBudget: number;
    connectionReserve: number;
  };
  /** Runs work as its superuser. */
  asSuperuser<T>(database: string, work: (db: ReturnType<typeof open>['db']) => Promise<T>): Promise<T>;
  /**
   * Turns on TLS, with a certificate for `host`.
   *
   * @returns the certificate (PEM), which is its own CA
   */
  serveTls(host: string): Promise<string>;
  /** Names of its databases. */
  databases(): Promise<string[]>;
  /** Safe to call again. */
  stop(): Promise<void>;
}

const limits = { max: 2, acquireTimeout: 10_000, timeout: 60_000, idleTimeoutMillis: 1_000 };

/** Stop it, or its processes and its folder stay. */
export async function startSecondCluster(name = 'second'): Promise<SecondCluster> {
  const server = await startPostgres();
  const { host, port } = server;
  const at = (user: string, password: string): ConnectionSettings => ({
    host,
    port,
    database: 'postgres',
    user,
    password,
    tls: false,
  });
  const superuser = at(server.superuser, server.superuserPassword);
  const provisioner = at(`${name}_provisioner`, `canary-of-the-provisioner-of-${name}`);
  const asSuperuser: SecondCluster['asSuperuser'] = async (database, work) => {
    const handle = open({ ...superuser, database });
    try {
      return await work(handle.db);
    } finally {
      await handle.close(0);
    }
  };
  let stopped: Promise<void> | undefined;
  const stop = (): Promise<void> => (stopped ??= server.stop());
  try {
    await asSuperuser('postgres', async (db) => {
      const role = async (user: string, password: string): Promise<{ name: string; verifier: string }> => ({
        name: user,
        verifier: await scramVerifier(password, ITERATIONS),
      });
      await bootstrapCluster(db, {
        registryOwner: await role('unused_owner', 'unused-owner-password'),
        registryService: await role('unused_service', 'unused-service-password'),
        provisioner: await role(provisioner.user, provisioner.password),
        registryDatabase: 'unused_registry',
      });
    });
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    superuser,
    provisioner,
    body: {
      name,
      host,
      port,
      provisionerUser: provisioner.user,
      provisionerPassword: provisioner.password,
      tls: 'off',
      connectionBudget: 20,
      connectionReserve: 4,
    },
    asSuperuser,
    serveTls: (tlsHost) => serveTls(superuser, tlsHost),
    databases: () =>
      asSuperuser('postgres', async (db) => {
        const { rows } = await sql<{ name: string }>`select datname as name from pg_database order by 1`.execute(db);
        return rows.map((row) => row.name);
      }),
    stop,
  };
}

function open(connection: ConnectionSettings): ReturnType<typeof createDatabase<unknown>> {
  return createDatabase<unknown>(connection, limits, { applicationName: 'tests', preparedStatements: false });
}
