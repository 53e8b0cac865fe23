// The service and the floor side by side, on the same databases.
import { sql } from 'kysely';
import path from 'node:path';
import { createPasswords, OPERATORS } from '../../src/auth/passwords.js';
import { readSettings } from '../../src/config/index.js';
import type { Cleanup } from '../cleanup.js';
import type { Flags } from '../flags.js';
import { progress } from '../report.js';
import { startCluster, type Cluster } from './cluster.js';
import { startFloor, type Floor } from './floor.js';
import { givenBy, install, makeFolder, type Environment, type Service } from './installation.js';
import { seed, USER_PASSWORD, type SeededTenant } from './seed.js';

export interface Pair {
  readonly flags: Flags;
  readonly cleanup: Cleanup;
  readonly cluster: Cluster;
  readonly service: Service;
  readonly floor: Floor;
  /** Connections of one tenant pool, on both sides. */
  readonly poolMax: number;
  readonly tenants: readonly SeededTenant[];
  readonly passwordHash: string;
  readonly operatorToken: string;
  /** Signs the operator in again: to remove a tenant needs a recent sign-in. */
  readonly signInOperator: () => Promise<string>;
  /** Starts one of at most five further processes of the service. @param env over the usual */
  startAnother(env: Environment): Promise<Service>;
  complaints(): Promise<string>;
}

export const TENANTS = 20;
export const SIZE = { users: 60, products: 60 };

/** Connections to PostgreSQL besides the tenant pools of both sides. */
const OTHER_CONNECTIONS = 50;
/** Enough for the processes of `replicas`. */
const MIN_CONNECTIONS = 700;

/** Starts and fills everything; `cleanup` undoes it. @throws Error */
export async function openPair(flags: Flags, cleanup: Cleanup): Promise<Pair> {
  const folder = await makeFolder(cleanup);
  progress('starting PostgreSQL');
  const poolMax = readSettings({ ...givenBy(flags) }).tenants.pool.max;
  const cluster = await startCluster(
    path.join(folder, 'cluster'),
    {
      max_connections: String(Math.max(MIN_CONNECTIONS, 2 * TENANTS * poolMax + OTHER_CONNECTIONS)),
      fsync: flags.fsync ? 'on' : 'off',
    },
    cleanup,
  );

  progress('starting the service');
  const installation = await install(folder, cluster, flags, cleanup);
  const { auth, cursorSecret } = installation;
  // As many connections as the floor has: the scenarios of the fleet show the cost of a budget.
  const service = await installation.startService({ CLUSTER_CONNECTION_BUDGET: String(TENANTS * poolMax) });
  // All processes share the budget: with the first process's budget, most of them would have no connection.
  const startAnother: Pair['startAnother'] = (env) =>
    installation.startService({ CLUSTER_CONNECTION_BUDGET: String(6 * TENANTS * poolMax), ...env });

  progress(`making ${TENANTS} tenants`);
  const operatorToken = await installation.signInOperator(service);
  const passwordHash = await createPasswords(1).hash(USER_PASSWORD, OPERATORS);
  const { registry, provisioner } = cluster;
  const filling = { url: service.url, operatorToken, registry, provisioner, auth, passwordHash };
  const tenants = await seed({ ...filling, count: TENANTS, size: SIZE, atOnce: 1 });
  // Otherwise PostgreSQL would write the seeded data to disk in the middle of the first round.
  await cluster.asSuperuser((db) => sql`checkpoint`.execute(db));

  progress('starting the floor');
  const { host, port, user, password } = provisioner;
  const floor = await startFloor(
    {
      server: { host, port, user, password },
      tenants: tenants.map(({ id, database }) => ({ id, database })),
      poolMax,
      cursorSecret,
    },
    cleanup,
  );
  const complaints = (): Promise<string> => installation.complaints();
  const signInOperator = (): Promise<string> => installation.signInOperator(service);
  const filled = { tenants, passwordHash, operatorToken, signInOperator };
  return { flags, cleanup, cluster, service, floor, poolMax, ...filled, startAnother, complaints };
}
