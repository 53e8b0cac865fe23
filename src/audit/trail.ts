// Audits events after the answer, such as refused sign-ins. They wait in a bounded queue, so that they neither delay an answer
// nor make it fail. Writes have their row in their own transaction instead (db/shared/audit-rows.ts explains this).
import type { Kysely } from 'kysely';
import { insertAudit, type AuditEntry } from '../../db/shared/audit-rows.js';
import { insertAudit as insertCentralAudit, type CentralAuditEntry } from '../../db/registry/registry-audit.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { within } from '../lib/deadline.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';

export interface AuditTrail {
  /** Writes a row into the tenant's database, shortly after the answer. */
  laterInTenant(tenantId: string, entry: AuditEntry): void;
  /**
   * Writes a row about a sign-in to this tenant, shortly after the answer. The tenant is looked up when the row is written.
   *
   * @param tenant slug or id, as the client sent it
   */
  laterAtTenant(tenant: string, entry: AuditEntry): void;
  /** Writes a row into the registry, shortly after the answer. */
  laterInRegistry(entry: CentralAuditEntry): void;
  /** Writes the waiting rows, within a time limit, and then stops. Never rejects. */
  close(): Promise<void>;
}

/** Time (ms) from the first waiting row until all rows are written: well after the answer, and soon for a reader. */
const WRITE_AFTER = 200;

/** Rows that may wait for one database. Further rows are only counted, and one row states their number. */
export const MAX_WAITING = 100;

/** Rows of about 500 bytes that may wait for all databases together. */
const MAX_WAITING_IN_ALL = 5_000;

/** Databases for which rows, or counts of dropped rows, may wait. */
const MAX_PLACES = 1_000;

/** Databases that are written at once. A database that hangs blocks its writer until the statement times out. */
const WRITERS = 4;

/** Longest wait (ms) for the writes when the process stops. */
const CLOSE_DEADLINE = 2_000;

/**
 * The waiting rows of one database. The key is the tenant's id, or REGISTRY, or AS_SENT followed by the slug or id that the
 * client sent.
 */
interface Waiting {
  /** Each entry has the time of performance.now() at which it happened. */
  readonly entries: { readonly entry: CentralAuditEntry; readonly happenedAt: number }[];
  dropped: number;
}

/** The tenant of the rows, and whether its database is open. If it is not open, the registry stores the rows. */
interface Destination {
  readonly tenantId: string | undefined;
  readonly open: boolean;
}

const REGISTRY = 'registry';
const AS_SENT = 'as sent: ';

/** @param deps.onError called for rows that could not be written; these rows are lost */
export function createAuditTrail(deps: {
  readonly registry: Kysely<Registry>;
  readonly tenantDb: (tenantId: string) => Kysely<TenantDatabase>;
  readonly findTenant: (slugOrId: string) => Promise<{ readonly id: string; readonly active: boolean } | undefined>;
  readonly onError: (error: unknown, context: { tenantId: string | undefined; rows: number }) => void;
}): AuditTrail {
  let places = new Map<string, Waiting>();
  let waiting = 0;
  let timer: NodeJS.Timeout | undefined;
  let writing: Promise<void> | undefined;

  function later(place: string, entry: CentralAuditEntry): void {
    const known = places.get(place) ?? (places.size < MAX_PLACES ? { entries: [], dropped: 0 } : undefined);
    const at = known ? place : REGISTRY;
    const here = known ?? places.get(at) ?? { entries: [], dropped: 0 };
    places.set(at, here);
    if (!known || here.entries.length >= MAX_WAITING || waiting >= MAX_WAITING_IN_ALL) here.dropped += 1;
    else {
      here.entries.push({ entry, happenedAt: performance.now() });
      waiting += 1;
    }
    schedule();
  }

  function schedule(): void {
    if (writing || timer || places.size === 0) return;
    timer = setTimeout(() => {
      writing = writeAll().finally(() => {
        writing = undefined;
        schedule();
      });
    }, WRITE_AFTER);
    timer.unref();
  }

  async function writeAll(): Promise<void> {
    clearTimeout(timer);
    timer = undefined;
    const batch = [...places];
    places = new Map();
    waiting = 0;
    const write = async (): Promise<void> => {
      for (let next = batch.pop(); next; next = batch.pop()) await writeTo(...next);
    };
    await Promise.all(Array.from({ length: WRITERS }, write));
  }

  async function destinationOf(place: string): Promise<Destination> {
    if (place === REGISTRY) return { tenantId: undefined, open: false };
    if (!place.startsWith(AS_SENT)) return { tenantId: place, open: true };
    const tenant = await deps.findTenant(place.slice(AS_SENT.length));
    return { tenantId: tenant?.id, open: tenant?.active ?? false };
  }

  async function writeTo(place: string, { entries, dropped }: Waiting): Promise<void> {
    const notice: AuditEntry = { actor: { kind: 'none' }, action: 'audit.dropped', details: { rows: dropped } };
    let to: Destination | undefined;
    try {
      to = await destinationOf(place);
      const { tenantId, open } = to;
      const rows: CentralAuditEntry[] = entries.map(({ entry, happenedAt }) => ({
        ...entry,
        age: performance.now() - happenedAt,
      }));
      if (dropped > 0) rows.push(notice);
      if (tenantId !== undefined && open) await insertAudit(deps.tenantDb(tenantId), ...rows);
      else await insertCentralAudit(deps.registry, ...rows.map((row) => ({ tenantId, ...row })));
    } catch (error) {
      deps.onError(error, { tenantId: to?.tenantId, rows: entries.length + dropped });
    }
  }

  return {
    laterInTenant: (tenantId, entry) => {
      later(tenantId, entry);
    },
    laterAtTenant: (tenant, entry) => {
      later(AS_SENT + tenant, entry);
    },
    laterInRegistry: (entry) => {
      later(REGISTRY, entry);
    },
    async close() {
      const written = (writing ?? Promise.resolve()).then(writeAll);
      await within(written, CLOSE_DEADLINE, () => new Error('the audit was not written in time')).catch(
        () => undefined,
      );
    },
  };
}

/** Names of the given fields, as the API calls them; never their values. */
export function changedFields({ passwordHash, ...changes }: Readonly<Record<string, unknown>>): string[] {
  const names = Object.keys(changes).filter((name) => changes[name] !== undefined);
  return passwordHash === undefined ? names : [...names, 'password'];
}
