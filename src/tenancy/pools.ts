// The tenant pools: one Kysely over one pg Pool for one tenant in this process. Built on first use, built once however
// many ask together, proved to reach the right database, closed when nobody uses it.
import type { Kysely } from 'kysely';
import type { StoredPoolOptions } from '../../db/central/schema.js';
import type { TenantRecord } from '../../db/central/tenants.js';
import type { ConnectionSettings, DatabaseHandle } from '../../db/client.js';
import { DatabaseFault } from '../../db/errors.js';
import { readMarker } from '../../db/tenant/marker.js';
import type { TenantDatabase } from '../../db/tenant/schema.js';
import { AppError } from '../errors.js';
import type { Envelope } from './envelope.js';

export interface TenantPools {
  /** The tenant's Kysely where its pool is built and of the record's epoch, without waiting. */
  peek(tenant: TenantRecord): Kysely<TenantDatabase> | undefined;
  /**
   * The tenant's Kysely, built where there is none. A failed build is not remembered.
   *
   * @throws AppError `unavailable` where the row's password does not open, or the database behind it is not the tenant's
   * @throws DatabaseFault where the database does not answer
   */
  acquire(tenant: TenantRecord): Promise<Kysely<TenantDatabase>>;
  /** Whether the tenant has a pool. */
  has(tenantId: string): boolean;
  /** Retires the tenant's pool unless it is of this epoch, or of a newer one; undefined retires any. */
  keepOnly(tenantId: string, epoch: number | undefined): void;
  /** Takes a tenant's pool out of use; running queries finish. Resolves when its connections are closed. */
  retire(tenantId: string): Promise<void>;
  /** Pools, and connections open in them. */
  stats(): { pools: number; connections: number };
  /** Retires all pools; nothing can be acquired afterwards. */
  close(): Promise<void>;
}

export interface TenantPoolDeps {
  readonly envelope: Envelope;
  /** Makes the pool; connects to nothing. */
  readonly createDatabase: (connection: ConnectionSettings, own: StoredPoolOptions) => DatabaseHandle<TenantDatabase>;
  readonly tls: ConnectionSettings['tls'];
  /** A pool that nobody acquired for this long (ms) is closed. */
  readonly closeAfter: number;
  readonly onError: (error: unknown, context: { tenantId: string; step: string }) => void;
}

/**
 * A request may hold a tenant's Kysely without having asked it for a connection yet: a retired pool lives on for this long
 * (ms) before it closes.
 */
const RETIREMENT_GRACE = 1_000;

/** Longest wait (ms) for the running queries of a retired pool. */
const RETIREMENT_DEADLINE = 30_000;

/** Seconds: a person must act first. */
const RETRY_AFTER_MISCONFIGURATION = 30;

interface PoolEntry {
  readonly epoch: number;
  readonly handle: DatabaseHandle<TenantDatabase>;
  /** Settles when the database has proved to be the tenant's. */
  readonly built: Promise<void>;
  ready: boolean;
  lastUsed: number;
}

export function createTenantPools(deps: TenantPoolDeps): TenantPools {
  const entries = new Map<string, PoolEntry>();
  const retiring = new Set<Promise<void>>();
  let closed = false;

  // Twice within the idle time, so that a pool closes at most half that time late.
  const sweep = setInterval(closeIdlePools, Math.max(50, deps.closeAfter / 2));
  sweep.unref();

  function closeIdlePools(): void {
    const before = performance.now() - deps.closeAfter;
    for (const [tenantId, { handle, lastUsed }] of entries) {
      const { total, idle, waiting } = handle.stats();
      if (lastUsed < before && idle === total && waiting === 0) void retire(tenantId);
    }
  }

  function build(tenant: TenantRecord): PoolEntry {
    const { id, dbHost: host, dbPort: port, dbUser: user } = tenant;
    const connection = { host, port, database: tenant.dbName, user, password: openPassword(tenant), tls: deps.tls };
    const handle = deps.createDatabase(connection, tenant.poolOptions);
    const entry: PoolEntry = {
      epoch: tenant.epoch,
      handle,
      built: prove(tenant, handle),
      ready: false,
      lastUsed: performance.now(),
    };
    entry.built.then(
      () => {
        entry.ready = true;
      },
      () => {
        if (entries.get(id) === entry) entries.delete(id);
        void handle.close(0);
      },
    );
    return entry;
  }

  function openPassword(tenant: TenantRecord): string {
    const { id, dbHost: host, dbPort: port, dbUser: user } = tenant;
    try {
      return deps.envelope.open(tenant.dbPassword, { tenantId: id, host, port, user });
    } catch (error) {
      throw unusable(tenant, 'password', error);
    }
  }

  /** A row that names the wrong database must never be served, whoever wrote it. */
  async function prove(tenant: TenantRecord, handle: DatabaseHandle<TenantDatabase>): Promise<void> {
    const marker = await readMarker(handle.db).catch((error: unknown) => {
      throw error instanceof DatabaseFault ? error : unusable(tenant, 'marker', error);
    });
    if (marker !== tenant.id) {
      throw unusable(
        tenant,
        'marker',
        new Error(`the database behind this tenant's row is marked as ${marker ?? 'nobody'}'s`),
      );
    }
  }

  /** For what no retry mends: it is logged as an error here, and the client learns only that it must wait. */
  function unusable(tenant: TenantRecord, step: string, cause: unknown): AppError {
    deps.onError(cause, { tenantId: tenant.id, step });
    return new AppError('unavailable', { retryAfter: RETRY_AFTER_MISCONFIGURATION, cause });
  }

  function retire(tenantId: string, grace = RETIREMENT_GRACE): Promise<void> {
    const entry = entries.get(tenantId);
    if (!entry) return Promise.resolve();
    entries.delete(tenantId);
    const closing = (async () => {
      await new Promise((resolve) => setTimeout(resolve, grace));
      await entry.handle.close(RETIREMENT_DEADLINE);
    })();
    retiring.add(closing);
    return closing.finally(() => retiring.delete(closing));
  }

  return {
    peek(tenant) {
      const entry = entries.get(tenant.id);
      if (!entry?.ready || entry.epoch < tenant.epoch) return undefined;
      entry.lastUsed = performance.now();
      return entry.handle.db;
    },

    async acquire(tenant) {
      if (closed) throw new AppError('unavailable', { retryAfter: 1 });
      let entry = entries.get(tenant.id);
      // A record read before a change may arrive after one read behind it: the newer pool serves both.
      if (entry && entry.epoch < tenant.epoch) {
        void retire(tenant.id);
        entry = undefined;
      }
      if (!entry) {
        entry = build(tenant);
        entries.set(tenant.id, entry);
      }
      entry.lastUsed = performance.now();
      await entry.built;
      return entry.handle.db;
    },

    has: (tenantId) => entries.has(tenantId),

    keepOnly(tenantId, epoch) {
      const entry = entries.get(tenantId);
      if (entry && (epoch === undefined || entry.epoch < epoch)) void retire(tenantId);
    },

    retire,

    stats() {
      let connections = 0;
      for (const { handle } of entries.values()) connections += handle.stats().total;
      return { pools: entries.size, connections };
    },

    async close() {
      closed = true;
      clearInterval(sweep);
      // The server has finished its requests before it closes its plugins: no grace is needed.
      for (const tenantId of entries.keys()) void retire(tenantId, 0);
      await Promise.all(retiring);
    },
  };
}
