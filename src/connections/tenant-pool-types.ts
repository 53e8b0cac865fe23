// What the tenant pools offer (src/connections/tenant-pools.ts).
import type { Kysely } from 'kysely';
import type { LazyTransaction } from '../../db/driver/lazy-transaction.js';
import type { PoolStats } from '../../db/driver/pool/pool-types.js';
import type { Watch } from '../../db/driver/watched.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import type { Requester } from '../lib/requester.js';

export interface TenantPools {
  /**
   * The tenant's database. Each query and transaction takes a connection from the tenant's current pool. So a database that is
   * held while the tenant's settings change uses the new settings.
   * Its queries throw DatabaseFault, and AppError `tenant-suspended`, `forbidden` if the tenant is gone, `tenant-upgrading` if this
   * build does not serve its schema, `unavailable` if its row or its database is not in order.
   *
   * @param watch for the database of one write
   */
  database(tenantId: string, watch?: Watch<TenantDatabase>): Kysely<TenantDatabase>;
  /**
   * One transaction in the tenant's database for a whole request. It throws what the queries of `database` throw.
   *
   * @param began as for `lazyTransaction` (db/driver/lazy-transaction.ts)
   */
  transaction(
    tenantId: string,
    watch: Watch<TenantDatabase>,
    began: (db: Kysely<TenantDatabase>) => Promise<void>,
  ): LazyTransaction<TenantDatabase>;
  /**
   * `database` for a tenant that was admitted just now. The pool is looked up here, and not again by each query. If there is no pool,
   * or it has been retired since, a query looks up the pool.
   *
   * @param requester of a request that only reads: its queries throw ClientLeft when it has left
   */
  databaseOf(tenant: TenantRecord, requester?: Requester): Kysely<TenantDatabase>;
  /** Takes a tenant's pool out of use; running queries finish. Resolves when the pool's connections are closed. */
  retire(tenantId: string): Promise<void>;
  /** Retires the tenant's pool if it no longer agrees with the tenant's row. */
  recheck(tenantId: string): Promise<void>;
  /** The number of pools that hold connections, and of those connections. */
  stats(): { pools: number; connections: number };
  /** The tenant's pool in this process; undefined if it has none. */
  inspect(tenantId: string): TenantPoolStats | undefined;
  /** Every pool in this process, the largest first. */
  inspectAll(): TenantPoolStats[];
  /** Enters the tenant's database and leaves it again. @throws DatabaseFault, or AppError as for `database` */
  probe(tenantId: string): Promise<void>;
  /** Retires all pools. Afterwards no connection can be opened. */
  close(): Promise<void>;
}

export interface TenantPoolStats extends PoolStats {
  readonly tenantId: string;
  /** `host:port` of the server that the pool connects to. */
  readonly cluster: string;
  /** The version of the tenant's row that the pool was built from. */
  readonly epoch: number;
  /** Milliseconds since a request last asked the pool for a connection. */
  readonly unusedFor: number;
  /** Whether the database was read-only when the newest connection was opened. */
  readonly readOnly: boolean;
  /** The name of the database's newest migration, if a connection has found it out. */
  readonly schemaVersion: string | undefined;
}
