// How the provisioner enters a cluster: a small pool for roles and databases, and a short-lived connection into any database that
// it owns.
import type { Kysely } from 'kysely';
import { createDatabase, type ConnectionSettings, type PoolLimits } from '../../db/driver/client.js';
import type { Destinations } from '../../db/driver/destinations.js';
import { inOneSession, type OneSession, type SessionBounds } from '../../db/driver/one-session.js';
import type { PoolOptions } from '../../db/driver/pool/pool-types.js';
import { provePrimary, proveSession, proveWritable } from '../../db/driver/proof.js';
import { MAINTENANCE_DATABASE, type ClusterDb } from '../../db/server/server-admin.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { Slots } from '../jobs/bounded-tasks.js';

/** Runs `work` in a database of the cluster as the provisioner, and closes the connection afterwards. */
export type InDatabase = <T>(database: string, work: (db: Kysely<TenantDatabase>) => Promise<T>) => Promise<T>;

/** A role other than the provisioner, in one database. */
export interface GuestSession extends SessionBounds {
  readonly database: string;
  readonly user: string;
  readonly password: string;
  /** Longest run (ms) of one statement, by the server's clock. */
  readonly timeout: number;
}

/** Runs `work` on one connection as another role, and closes the connection afterwards. */
export type AsGuest = <T>(guest: GuestSession, work: (session: OneSession) => Promise<T>) => Promise<T>;

export interface Provisioner {
  readonly cluster: ClusterDb;
  readonly inDatabase: InDatabase;
  readonly asGuest: AsGuest;
  close(): Promise<void>;
}

/** Longest wait (ms) for running work when the provisioner closes. */
const CLOSE_DEADLINE = 10_000;

/** Databases that may wait to be entered, for each database that is entered. */
const WAITING_PER_SLOT = 20;

/**
 * Opens a provisioner, without connecting to anything yet.
 *
 * @param limits the limits of the cluster's pool; the same number of single databases can be entered at once
 * @param shared what admits and names its connections, if they share a budget with others
 */
export function openProvisioner(
  connection: ConnectionSettings,
  limits: PoolLimits,
  shared: {
    readonly admit?: PoolOptions['admit'];
    readonly replicaId?: string;
    readonly destinations?: Destinations;
    /** If true, a standby or a read-only server is entered too, to look at it. */
    readonly anyServer?: boolean;
  } = {},
): Provisioner {
  const { admit, replicaId, destinations, anyServer = false } = shared;
  const applicationName = ['tenantry provisioner', replicaId ?? ''].join(' ').trim();
  const options = {
    applicationName,
    preparedStatements: false,
    destinations,
    prove: anyServer ? proveSession : proveWritable,
    ...(admit && { admit }),
  };
  // The database of the connection settings may be the registry, which is not part of the cluster.
  const cluster = createDatabase<unknown>({ ...connection, database: MAINTENANCE_DATABASE }, limits, options);
  const slots = new Slots(limits.max, limits.max * WAITING_PER_SLOT);
  return {
    cluster: cluster.db,
    inDatabase: (database, work) =>
      slots.run(async () => {
        const handle = createDatabase<TenantDatabase>({ ...connection, database }, { ...limits, max: 1 }, options);
        try {
          return await work(handle.db);
        } finally {
          await handle.close(0);
        }
      }),
    asGuest: ({ database, user, password, timeout, ...bounds }, work) =>
      slots.run(() =>
        inOneSession(
          { ...connection, database, user, password },
          { ...limits, timeout },
          { ...options, applicationName: ['tenantry each', replicaId ?? ''].join(' ').trim(), prove: provePrimary },
          bounds,
          work,
        ),
      ),
    close: () => cluster.close(CLOSE_DEADLINE),
  };
}
