// Many tenants with small databases, on their own server, for effects that appear only with many tenants.
import { sql } from 'kysely';
import path from 'node:path';
import { createPasswords, OPERATORS } from '../../src/auth/passwords.js';
import { readSettings } from '../../src/config/index.js';
import type { Cleanup } from '../cleanup.js';
import type { Flags } from '../flags.js';
import { progress } from '../report.js';
import { startCluster, type Cluster } from './cluster.js';
import { startFloor, type Floor } from './floor.js';
import { givenBy, install, makeFolder, urlOf, type Environment, type Service } from './installation.js';
import { seed, USER_PASSWORD, type SeededTenant } from './seed.js';

export interface Fleet {
  readonly flags: Flags;
  readonly cleanup: Cleanup;
  readonly cluster: Cluster;
  readonly poolMax: number;
  /** Of a command that migrates the fleet. */
  readonly environment: Environment;
  /** At least `count` tenants; makes those that are missing. */
  tenants(count: number): Promise<readonly SeededTenant[]>;
  /** Runs `work` with its own service, in which all tenants are cold. @param env over the usual */
  withService<T>(env: Environment, work: (service: Service) => Promise<T>): Promise<T>;
  /** Runs `work` with a floor for these tenants, with `poolMax` connections each. */
  withFloor<T>(tenants: readonly SeededTenant[], poolMax: number, work: (floor: Floor) => Promise<T>): Promise<T>;
  /** One more tenant, not among the others, alone on its own PostgreSQL server. */
  loner(): Promise<{ readonly tenant: SeededTenant; readonly cluster: Cluster }>;
  complaints(): Promise<string>;
}

export const MOST_TENANTS = 300;

/** Connections that the service may have open on the server, over all tenants. */
export const BUDGET = 100;

const SIZE = { users: 4, products: 20 };

/** As many as the service hashes passwords for at once, and a few more that wait for their database. */
const MADE_AT_ONCE = 6;

/** Tenants between two lines of progress. */
const STEP = 50;

const OTHER_CONNECTIONS = 100;

/** Starts the server; makes tenants on demand. `cleanup` undoes everything. @throws Error */
export function openFleet(flags: Flags, cleanup: Cleanup): Promise<Fleet> {
  // The fleet is only read from: only making it would wait for the disk.
  return open(flags, cleanup, { fsync: 'off' });
}

/** A fleet to be written to: PostgreSQL waits for the disk, except while tenants are made. @throws Error */
export function openWholeFleet(flags: Flags, cleanup: Cleanup): Promise<Fleet> {
  return open(flags, cleanup, flags.fsync ? {} : { fsync: 'off' });
}

async function open(flags: Flags, cleanup: Cleanup, durability: Readonly<Record<string, string>>): Promise<Fleet> {
  const folder = await makeFolder(cleanup);
  const poolMax = readSettings({ ...givenBy(flags) }).tenants.pool.max;
  const settings = {
    // As many as the service could open without a budget: the service itself must keep to its budget.
    max_connections: String(MOST_TENANTS * poolMax + OTHER_CONNECTIONS),
    log_connections: 'on',
    ...durability,
  };
  progress('starting PostgreSQL for a fleet of tenants');
  const cluster = await startCluster(path.join(folder, 'fleet'), settings, cleanup);
  const installation = await install(folder, cluster, flags, cleanup);
  const passwordHash = await createPasswords(1).hash(USER_PASSWORD, OPERATORS);
  const made: SeededTenant[] = [];

  const withService: Fleet['withService'] = async (env, work) => {
    const service = await installation.startService({ CLUSTER_CONNECTION_BUDGET: String(BUDGET), ...env });
    return work(service).finally(service.stop);
  };

  /** @param on the server that gets the databases */
  function make(count: number, on: Cluster, env: Environment): Promise<SeededTenant[]> {
    return withService(env, async (service) => {
      const operatorToken = await installation.signInOperator(service);
      const { registry } = cluster;
      const { auth } = installation;
      const filling = { url: service.url, operatorToken, registry, provisioner: on.provisioner, auth, passwordHash };
      return seed({ ...filling, count, size: SIZE, atOnce: MADE_AT_ONCE });
    });
  }

  return {
    flags,
    cleanup,
    cluster,
    poolMax,
    environment: installation.environment,
    withService,

    async withFloor(tenants, max, work) {
      const { host, port, user, password } = cluster.provisioner;
      const floor = await startFloor(
        {
          server: { host, port, user, password },
          tenants: tenants.map(({ id, database }) => ({ id, database })),
          poolMax: max,
          cursorSecret: installation.cursorSecret,
        },
        cleanup,
      );
      return work(floor).finally(floor.stop);
    },

    async tenants(count) {
      await setFsync(cluster, 'off');
      while (made.length < count) {
        progress(`making tenants: ${made.length} of ${count}`);
        made.push(...(await make(Math.min(STEP, count - made.length), cluster, {})));
      }
      await setFsync(cluster, 'on');
      await cluster.asSuperuser((db) => sql`checkpoint`.execute(db));
      return made.slice(0, count);
    },

    async loner() {
      progress('starting PostgreSQL for one tenant alone');
      const own = await startCluster(path.join(folder, 'loner'), { max_connections: '100', fsync: 'off' }, cleanup);
      // A service on the same registry that provisions there makes the tenant: its row then names that server.
      const there = { TENANT_DATABASE_URL: urlOf(own.provisioner) };
      await installation.migrate(there);
      const [tenant] = await make(1, own, there);
      if (!tenant) throw new Error('no tenant was made');
      return { tenant, cluster: own };
    },

    complaints: () => installation.complaints(),
  };
}

/** Changes nothing on a server that was started with a setting of its own. */
function setFsync(cluster: Cluster, value: 'on' | 'off'): Promise<void> {
  return cluster.asSuperuser(async (db) => {
    await sql`alter system set fsync = ${sql.raw(value)}`.execute(db);
    await sql`select pg_reload_conf()`.execute(db);
  });
}
