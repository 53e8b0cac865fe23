// Leads tenants from one state to another: first the registry's row, which decides, then all replicas, then PostgreSQL, which
// follows the row. Where a tenant is to be served again it is the other way round, so that nobody is sent to a closed door.
import type { Kysely } from 'kysely';
import type { AuditOrigin } from '../../db/audit.js';
import { insertAudit } from '../../db/central/audit.js';
import type { Registry } from '../../db/central/schema.js';
import {
  findTenant,
  listTenantDatabases,
  listTenantPlaces,
  listTenantsToPurge,
  markTenantDeleted,
  unmarkTenantDeleted,
  type TenantRecord,
} from '../../db/central/tenants.js';
import { closeTenantDatabase, openTenantDatabase, readDoors } from '../../db/cluster.js';
import { within } from '../../db/deadline.js';
import { DatabaseFault } from '../../db/errors.js';
import { AppError } from '../errors.js';
import { changeTenant, type TenantChanges } from './changes.js';
import { DATABASE_PREFIX } from './ids.js';
import { databaseIs, ensurePossible, statusesWhere } from './lifecycle.js';
import type { TenantLocks } from './locks.js';
import type { Place, Provisioners } from './provisioners.js';
import type { Removal } from './removal.js';

/**
 * Each is audited, and effective on every replica and in PostgreSQL before it resolves. They throw AppError `not-found` and
 * `tenant-state` (src/tenancy/lifecycle.ts); `unavailable` where the tenant is closed as wanted, but its PostgreSQL server
 * does not answer: its database is closed when it does; and DatabaseFault where nothing is done, because the registry, or a
 * server that is needed first, does not answer.
 */
export interface Transitions {
  /** @param changes made with it, or not at all @throws AppError `slug-taken` as well */
  suspend(id: string, origin: AuditOrigin, changes?: TenantChanges): Promise<TenantRecord>;
  /** As `suspend`. */
  resume(id: string, origin: AuditOrigin, changes?: TenantChanges): Promise<TenantRecord>;
  /** Softly: it can be restored until it is purged. Takes up again what a removal left. */
  delete(id: string, origin: AuditOrigin): Promise<void>;
  /** Brings a deleted tenant back as what it was. */
  restore(id: string, origin: AuditOrigin): Promise<TenantRecord>;
  /** Removes a deleted tenant for good. @throws AppError `unavailable` where not all of it could be removed */
  purge(id: string, origin: AuditOrigin): Promise<void>;
  /** Brings every database that does not agree with its tenant's row after it. */
  settleAll(signal: AbortSignal): Promise<void>;
  /** Purges what has been deleted for longer than its grace. What comes to a halt the reconciler finishes. */
  purgeDue(signal: AbortSignal): Promise<void>;
  /** Waits for what goes on behind an answer. */
  close(): Promise<void>;
}

/** Longest (ms) that an answer waits for PostgreSQL to follow. */
const SETTLE_DEADLINE = 3_000;

/** Longest (ms) that an answer waits for a database that must be open first. */
const OPEN_DEADLINE = 10_000;

/** Tenants purged in one run. */
const PURGE_BATCH = 100;

/** The service itself. */
const NOBODY: AuditOrigin = { actor: { kind: 'none' } };

export function createTransitions(deps: {
  readonly registry: Kysely<Registry>;
  readonly locks: TenantLocks;
  readonly provisioners: Provisioners;
  readonly removal: Removal;
  readonly publish: (tenantId: string) => Promise<void>;
  /** ms from a tenant's deletion until it is purged. */
  readonly grace: number;
  readonly onError: (error: unknown, context: { tenantId?: string; place?: Place; step: string }) => void;
}): Transitions {
  const { registry, locks, provisioners, removal, publish, onError } = deps;
  const running = new Set<Promise<unknown>>();

  /** The answer is bounded; the work goes on, and is waited for when the process stops. */
  function bounded<T>(work: Promise<T>, ms: number): Promise<T> {
    const tracked: Promise<unknown> = work.then(undefined, () => undefined).finally(() => running.delete(tracked));
    running.add(tracked);
    return within(work, ms, () => new DatabaseFault('unavailable', 'no answer in time'));
  }

  async function existing(id: string): Promise<TenantRecord> {
    const tenant = await findTenant(registry, id);
    if (!tenant) throw new AppError('not-found');
    return tenant;
  }

  async function open({ dbHost: host, dbPort: port, dbName: name, dbUser: runtimeRole }: TenantRecord): Promise<void> {
    const { cluster } = await provisioners.at({ host, port });
    await openTenantDatabase(cluster, { name, runtimeRole });
  }

  /** Within the tenant's lock. */
  async function follow(id: string): Promise<void> {
    const tenant = await findTenant(registry, id);
    const wanted = tenant && databaseIs[tenant.status];
    if (!wanted) return;
    if (wanted === 'open') return open(tenant);
    const { dbHost: host, dbPort: port, dbName: name, dbUser: runtimeRole } = tenant;
    const { cluster } = await provisioners.at({ host, port });
    await closeTenantDatabase(cluster, { name, runtimeRole });
  }

  async function settled({ id, status }: TenantRecord): Promise<void> {
    try {
      await bounded(
        locks.hold(id, () => follow(id)),
        SETTLE_DEADLINE,
      );
    } catch (error) {
      onError(error, { tenantId: id, step: 'close' });
      throw new AppError('unavailable', {
        detail: `The tenant is ${status} and not served any more. Its database is not closed yet, because its PostgreSQL server does not answer or somebody is at work on it: that is done by itself.`,
        retryAfter: 5,
        cause: error,
      });
    }
  }

  /** Opens the database and turns the row, or leaves both as the row says. */
  function turnOpen(
    tenant: TenantRecord,
    turn: (now: TenantRecord) => Promise<TenantRecord>,
    opens: (now: TenantRecord) => boolean,
  ): Promise<TenantRecord> {
    const { id } = tenant;
    const work = locks
      .hold(id, async () => {
        const now = await existing(id);
        if (opens(now)) await open(now);
        try {
          return await turn(now);
        } catch (error) {
          // Another act was faster, or the change is not possible: an open door that no row wants is closed again.
          await follow(id).catch((cause: unknown) => {
            onError(cause, { tenantId: id, step: 'close' });
          });
          throw error;
        }
      })
      .then(async (turned) => {
        await publish(id);
        return turned;
      });
    return bounded(work, OPEN_DEADLINE);
  }

  async function removed(id: string, origin: AuditOrigin, act: 'abandon' | 'purge'): Promise<void> {
    if (await removal.remove(id, origin, act)) return;
    ensurePossible(act, (await existing(id)).status);
    throw new AppError('tenant-state', { detail: 'The tenant changed meanwhile.' });
  }

  async function settlePlace(place: Place, signal: AbortSignal): Promise<void> {
    const closedOnes = await listTenantDatabases(registry, place, { statuses: statusesWhere('closed') });
    const names = new Map(closedOnes.map(({ id, dbName }) => [dbName, id]));
    const { cluster } = await provisioners.at(place);
    const doors = await readDoors(cluster, [...names.keys()], DATABASE_PREFIX);
    const stillOpen = doors.flatMap(({ name, open, busy }) => (open || busy ? (names.get(name) ?? []) : []));
    const stray = doors.filter(({ name, open }) => !open && !names.has(name)).map(({ name }) => name);
    const closedYet =
      stray.length === 0
        ? []
        : (await listTenantDatabases(registry, place, { names: stray }))
            .filter(({ status }) => databaseIs[status] === 'open')
            .map(({ id }) => id);
    for (const id of [...stillOpen, ...closedYet]) {
      if (signal.aborted) return;
      // One that somebody is at work on agrees with its row when that is done, or is found by the next run.
      await locks
        .attempt(id, () => follow(id))
        .catch((error: unknown) => {
          onError(error, { tenantId: id, step: 'settle' });
        });
    }
  }

  return {
    async suspend(id, origin, changes = {}) {
      const known = await existing(id);
      ensurePossible('suspend', known.status);
      const tenant =
        known.status === 'suspended' && isEmpty(changes)
          ? known
          : await changeTenant(registry, id, { ...changes, status: 'suspended' }, origin);
      await publish(id);
      await settled(tenant);
      return tenant;
    },

    async resume(id, origin, changes = {}) {
      const known = await existing(id);
      ensurePossible('resume', known.status);
      return turnOpen(
        known,
        async (now) =>
          now.status === 'active' && isEmpty(changes)
            ? now
            : changeTenant(registry, id, { ...changes, status: 'active' }, origin),
        ({ status }) => status === 'active' || status === 'suspended',
      );
    },

    async delete(id, origin) {
      const known = await existing(id);
      ensurePossible('delete', known.status);
      if (known.status === 'deleting') {
        await removed(id, origin, 'abandon');
        return;
      }
      const marked = await registry.transaction().execute(async (trx) => {
        const tenant = await markTenantDeleted(trx, id);
        if (tenant) await insertAudit(trx, { ...origin, action: 'tenant.deleted', ...concerning(id) });
        return tenant;
      });
      const tenant = marked ?? (await existing(id));
      ensurePossible('delete', tenant.status);
      await publish(id);
      await settled(tenant);
    },

    async restore(id, origin) {
      const known = await existing(id);
      ensurePossible('restore', known.status);
      return turnOpen(
        known,
        async ({ status, statusBeforeDeletion: to }) => {
          ensurePossible('restore', status);
          const restored =
            to &&
            (await registry.transaction().execute(async (trx) => {
              const tenant = await unmarkTenantDeleted(trx, id, to);
              if (tenant)
                await insertAudit(trx, {
                  ...origin,
                  action: 'tenant.restored',
                  ...concerning(id),
                  details: { status: to },
                });
              return tenant;
            }));
          if (!restored) throw new AppError('tenant-state', { detail: 'The tenant changed meanwhile.' });
          return restored;
        },
        ({ status, statusBeforeDeletion }) => status === 'deleted' && statusBeforeDeletion === 'active',
      );
    },

    async purge(id, origin) {
      ensurePossible('purge', (await existing(id)).status);
      await removed(id, origin, 'purge');
    },

    async settleAll(signal) {
      for (const place of await listTenantPlaces(registry)) {
        if (signal.aborted) return;
        // One cluster that does not answer holds up no other.
        await settlePlace(place, signal).catch((error: unknown) => {
          onError(error, { place, step: 'settle' });
        });
      }
    },

    async purgeDue(signal) {
      for (const id of await listTenantsToPurge(registry, deps.grace, PURGE_BATCH)) {
        if (signal.aborted) return;
        // Told by the removal itself, and taken up by the next run or the reconciler. One that was restored meanwhile stays.
        await removal.remove(id, NOBODY, 'purge').catch(() => undefined);
      }
    },

    async close() {
      await Promise.all(running);
    },
  };
}

function concerning(id: string): {
  readonly target: { readonly kind: 'tenant'; readonly id: string };
  tenantId: string;
} {
  return { target: { kind: 'tenant', id }, tenantId: id };
}

function isEmpty(changes: TenantChanges): boolean {
  return Object.values(changes).every((value) => value === undefined);
}
