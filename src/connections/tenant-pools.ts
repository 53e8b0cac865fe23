// The tenant pools. Each tenant has one Kysely that stays valid until the process ends, over a pg Pool that may be replaced.
//
// The first request for a connection builds the pool, and concurrent requests share that pool. The pool is replaced when the
// tenant's row changes, and closed when it is not used.
import type { Kysely } from 'kysely';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import { databaseOver, type ConnectionSettings } from '../../db/driver/client.js';
import type { ChangingPassword, PoolOptions } from '../../db/driver/pool/pool-types.js';
import type { ConnectionPool } from '../../db/driver/pool/pool.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { databaseFor } from '../../db/driver/for-requester.js';
import { watchedDatabase, watchedTransaction } from '../../db/driver/watched.js';
import { AppError } from '../errors.js';
import type { Breakers, BreakerTenant } from './breaker-types.js';
import type { TenantDirectory } from '../tenants/tenant-directory.js';
import type { Envelope } from '../secrets/envelope.js';
import { createSchemaRefusals, type OnSchemaChange } from './schema-refusals.js';
import { proofFor, type FoundState } from './tenant-proof.js';
import { createTenantCredentials } from './tenant-credentials.js';
import type { TenantPools, TenantPoolStats } from './tenant-pool-types.js';

export type { TenantPools, TenantPoolStats } from './tenant-pool-types.js';

export interface TenantPoolDeps {
  readonly directory: Pick<TenantDirectory, 'peek' | 'find' | 'reload'>;
  readonly envelope: Envelope;
  /** Makes the pool, without connecting to anything. */
  readonly openPool: (
    tenantId: string,
    connection: ConnectionSettings,
    tenant: TenantRecord,
    options: Pick<PoolOptions, 'prove' | 'onOutcome' | 'successes' | 'password'>,
  ) => ConnectionPool;
  /** Connects, asks for an answer, and disconnects. @throws DatabaseFault */
  readonly probe: (connection: ConnectionSettings, password: ChangingPassword) => Promise<void>;
  /** The breakers refuse at once what is known to fail. */
  readonly breakers: Pick<Breakers, 'admit' | 'successes' | 'succeeded' | 'failed' | 'forget'>;
  /** The TLS settings of the cluster at a place. */
  readonly tls: (place: Pick<ConnectionSettings, 'host' | 'port'>) => ConnectionSettings['tls'];
  /** A pool that was asked for no connection for this long (ms) is closed. */
  readonly closeAfter: number;
  readonly onError: (error: unknown, context: { tenantId: string; step: string }) => void;
  readonly onSchemaChange: OnSchemaChange;
}

/** Longest wait (ms) for the running queries of a retired pool. */
const RETIREMENT_DEADLINE = 30_000;

/**
 * After a connection reached a database that must not be served, no other connection is tried for this long (ms): each would reach
 * the same database.
 */
const REFUSED_FOR = 1_000;

/** In seconds. The wait is long because a person must act first. */
const RETRY_AFTER_MISCONFIGURATION = 30;

/**
 * Handles that are kept. A handle holds no connection. A forgotten handle is made again, and its users can continue to use it.
 */
const MAX_HANDLES = 20_000;

interface PoolEntry {
  /** The tenant, as its breakers know it. */
  readonly who: BreakerTenant;
  readonly epoch: number;
  readonly pool: ConnectionPool;
  readonly found: FoundState;
  /** The pool to use now: another one when this one has retired. */
  readonly current: () => ConnectionPool | Promise<ConnectionPool>;
  readonly db: Kysely<TenantDatabase>;
  isRetired: boolean;
  lastUsed: number;
  /** Set when a connection reached a database that must not be served: the error to throw instead of trying another, until when. */
  refusal?: { readonly error: AppError; readonly until: number };
}

export function createTenantPools(deps: TenantPoolDeps): TenantPools {
  const { directory } = deps;
  const credentials = createTenantCredentials({ ...deps, unusable });
  const schemas = createSchemaRefusals(deps.onSchemaChange);
  const entries = new Map<string, PoolEntry>();
  const handles = new Map<string, Kysely<TenantDatabase>>();
  const retiring = new Set<Promise<void>>();
  let closed = false;

  // The sweep runs twice in the idle time, so that a pool closes at most half that time late.
  const sweep = setInterval(closeIdlePools, Math.max(50, deps.closeAfter / 2)).unref();

  function closeIdlePools(): void {
    const before = performance.now() - deps.closeAfter;
    for (const [tenantId, { pool, lastUsed }] of entries) {
      const { total, idle, waiting } = pool.stats();
      if (lastUsed < before && idle === total && waiting === 0) void retire(tenantId);
    }
  }

  /** Does not wait if the tenant is known: the warm path must allocate no promise here. */
  function poolOf(tenantId: string): ConnectionPool | Promise<ConnectionPool> {
    const tenant = directory.peek(tenantId);
    return tenant ? poolFor(tenant) : directory.find(tenantId).then((found) => poolFor(admitted(found)));
  }

  function poolFor(tenant: TenantRecord): ConnectionPool {
    return use(entryFor(tenant));
  }

  function entryFor(tenant: TenantRecord): PoolEntry {
    if (closed) throw new AppError('unavailable', { retryAfter: 1 });
    admitted(tenant);
    const known = entries.get(tenant.id);
    // A record that was read before a change may arrive after a newer record. The newer pool serves both.
    if (known && known.epoch >= tenant.epoch) return known;
    if (known) {
      deps.breakers.forget(tenant.id);
      void retire(tenant.id);
    }
    const who = { id: tenant.id, cluster: `${tenant.dbHost}:${tenant.dbPort}` };
    const found: FoundState = { readOnly: false, schemaVersion: undefined };
    const current = (): ConnectionPool | Promise<ConnectionPool> => (entry.isRetired ? poolOf(tenant.id) : use(entry));
    const entry: PoolEntry = {
      who,
      epoch: tenant.epoch,
      pool: build(tenant, who, found),
      found,
      current,
      db: databaseOver<TenantDatabase>(current),
      isRetired: false,
      lastUsed: 0,
    };
    entries.set(tenant.id, entry);
    return entry;
  }

  /** @throws an error at once if the connection is known to fail */
  function use(entry: PoolEntry): ConnectionPool {
    entry.lastUsed = performance.now();
    if (entry.refusal && entry.lastUsed < entry.refusal.until) throw entry.refusal.error;
    deps.breakers.admit(entry.who);
    return entry.pool;
  }

  function build(tenant: TenantRecord, who: BreakerTenant, found: FoundState): ConnectionPool {
    const { id, epoch } = tenant;
    const refuse = (error: AppError): AppError => {
      const entry = entries.get(id);
      if (entry?.epoch === epoch) entry.refusal = { error, until: performance.now() + REFUSED_FOR };
      return error;
    };
    // A row that names the wrong database must never be served. So each new connection asks which tenant its database has.
    const prove = proofFor(id, found, {
      wrongDatabase: (cause) => refuse(unusable(id, 'marker', cause)),
      unservedSchema: (schema, wasServed) => {
        // A newer build has migrated the database: the open connections must not be used any longer either.
        if (wasServed && entries.get(id)?.epoch === epoch) void retire(id);
        return refuse(schemas.refused(id, schema));
      },
      served: () => {
        schemas.served(id);
      },
    });
    const onOutcome: PoolOptions['onOutcome'] = (fault, since, opening) => {
      // A suspended tenant's connections are ended after its pool has retired. Their faults say nothing about the server, and
      // must not block the tenant after it is resumed.
      if (fault && entries.get(id)?.epoch !== epoch) return;
      if (fault) deps.breakers.failed(who, fault, since, opening);
      else deps.breakers.succeeded(who);
    };
    const settings = credentials.settingsOf(tenant);
    const password = credentials.changingPassword(tenant, settings.password);
    const { successes } = deps.breakers;
    return deps.openPool(id, settings, tenant, { prove, onOutcome, successes, password });
  }

  /** For a fault that no retry mends. The fault is logged as an error; the client learns only that it must wait. */
  function unusable(tenantId: string, step: string, cause: unknown): AppError {
    deps.onError(cause, { tenantId, step });
    return new AppError('unavailable', { retryAfter: RETRY_AFTER_MISCONFIGURATION, cause });
  }

  function inspect(tenantId: string): TenantPoolStats | undefined {
    const entry = entries.get(tenantId);
    if (!entry) return undefined;
    const { who, epoch, pool, lastUsed, found } = entry;
    const unusedFor = Math.round(performance.now() - lastUsed);
    return { tenantId, cluster: who.cluster, epoch, unusedFor, ...found, ...pool.stats() };
  }

  function retire(tenantId: string): Promise<void> {
    const entry = entries.get(tenantId);
    if (!entry) return Promise.resolve();
    entries.delete(tenantId);
    entry.isRetired = true;
    const closing = entry.pool.close(RETIREMENT_DEADLINE);
    retiring.add(closing);
    return closing.finally(() => retiring.delete(closing));
  }

  function handleOf(tenantId: string): Kysely<TenantDatabase> {
    let handle = handles.get(tenantId);
    if (!handle) {
      if (handles.size >= MAX_HANDLES) handles.clear();
      handle = databaseOver<TenantDatabase>(() => poolOf(tenantId));
      handles.set(tenantId, handle);
    }
    return handle;
  }

  return {
    database: (tenantId, watch) => (watch ? watchedDatabase(() => poolOf(tenantId), watch) : handleOf(tenantId)),

    transaction: (tenantId, watch, began) => watchedTransaction(() => poolOf(tenantId), watch, began),

    databaseOf({ id, epoch }, requester) {
      const known = entries.get(id);
      // No pool is built from this record: the tenant may have been changed, or suspended, since it was admitted.
      const isCurrent = known && known.epoch >= epoch;
      if (requester) return databaseFor(isCurrent ? known.current : () => poolOf(id), requester);
      return isCurrent ? known.db : handleOf(id);
    },

    retire,

    async recheck(tenantId) {
      const entry = entries.get(tenantId);
      if (!entry) return;
      const tenant = await directory.find(tenantId);
      if (entries.get(tenantId) !== entry || (tenant?.active && entry.epoch >= tenant.epoch)) return;
      deps.breakers.forget(tenantId);
      void retire(tenantId);
    },

    async probe(tenantId) {
      const tenant = admitted(await directory.find(tenantId));
      const settings = credentials.settingsOf(tenant);
      await deps.probe(settings, credentials.changingPassword(tenant, settings.password));
    },

    inspect,

    inspectAll: () =>
      [...entries.keys()]
        .map(inspect)
        .filter((stats) => stats !== undefined)
        .sort((one, other) => other.total - one.total),

    stats() {
      const open = [...entries.values()].map(({ pool }) => pool.stats().total).filter((total) => total > 0);
      return { pools: open.length, connections: open.reduce((sum, total) => sum + total, 0) };
    },

    async close() {
      closed = true;
      clearInterval(sweep);
      for (const tenantId of entries.keys()) void retire(tenantId);
      await Promise.all(retiring);
    },
  };
}

/** @throws AppError `tenant-suspended`, or `forbidden` if the tenant does not exist any more */
export function admitted(tenant: TenantRecord | undefined): TenantRecord {
  if (tenant?.active) return tenant;
  if (tenant?.status === 'suspended') throw new AppError('tenant-suspended');
  throw new AppError('forbidden', { detail: 'The tenant of this access token no longer exists.' });
}
