// Finds tenants whose database does not agree with their row, and records an operation for each. Completes databases of a former
// build.
//
// An act records its own operation. This job is for what no act has recorded: a change by a former build or by hand, a restored
// registry, a database that was changed on its server. A run looks at each server, side by side:
//
//     at a page of its tenants    in order of name; the next run continues there
//     at what was changed         tenants that the feed of changes names since the last run
//     at what is watched          tenants that a run has reported, or could not settle
import type { Kysely } from 'kysely';
import { DatabaseFault } from '../../../db/driver/database-fault.js';
import { listChangedTenants, type FeedPosition } from '../../../db/registry/feed-rows.js';
import { isAbandoned, retryRefused } from '../../../db/registry/operations/operation-fences.js';
import { insertOperation } from '../../../db/registry/operations/operation-rows.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import { findTenant, listTenantPlaces, listTenantsAt, type TenantRecord } from '../../../db/registry/tenant-queries.js';
import { listDoorRows, listRestoringTenants, type DoorRow } from '../../../db/registry/tenant-worklists.js';
import { findDoorDrift, type ExpectedDoor, type FoundDoor } from '../../../db/server/access.js';
import { markText } from '../../../db/server/marks.js';
import type { Place, Provisioners } from '../../clusters/provisioners.js';
import { within } from '../../lib/deadline.js';
import { recentMap } from '../../lib/recent-map.js';
import type { TenantLocks } from '../../tenants/tenant-locks.js';
import { compare, markOf, whyLeft } from '../evidence.js';
import type { ReportLeft } from '../reports.js';
import { mayComplete, wantedDoor, type Door, type Doors } from './open-close.js';

export interface DoorDrift {
  /** The job. A server that fails is passed to `onError`; one that does not answer delays no other for long. */
  settleAll(signal: AbortSignal): Promise<void>;
}

/** Tenants of one server that a run looks at. */
const PAGE = 500;

/** Tenants of one server that each run looks at again: a report counts for a few minutes only, and a pass may take longer. */
const MAX_WATCHED = 500;

/** Changed tenants that one run looks at. The pass over all tenants finds the others. */
const MAX_CHANGED = 5_000;

/** Maximum databases of one server that a run completes: it must connect to each. */
const COMPLETED_PER_RUN = 100;

const MAX_INCOMPLETE = 10_000;

/** After this time (ms) a server's page stops before its next tenant; the next run begins it again. */
const STOPPED_AFTER = 10_000;

/** After this time (ms) a run no longer waits for a server. The next runs leave it out until its page has ended. */
const GIVEN_UP_AFTER = 15_000;

/** What is known of one server. */
interface Progress {
  /** The last name of the page before; '' at the beginning of a pass. */
  after: string;
  /** Ids of tenants that the next run looks at. */
  watched: ReadonlySet<string>;
  /** Ids of tenants that a run could not look at, because it failed or a page had not ended. */
  missed: ReadonlySet<string>;
  /** Whether a page has not ended. */
  isBusy: boolean;
}

/** @param page how many tenants of one server a run looks at */
export function createDoorDrift(
  deps: {
    readonly registry: Kysely<Registry>;
    readonly locks: TenantLocks;
    readonly provisioners: Provisioners;
    readonly installation: () => Promise<string>;
    readonly doors: Pick<Doors, 'follow'>;
    readonly report: ReportLeft;
    /** Called after operations were recorded for any worker. */
    readonly wake: () => void;
    readonly onError: (error: unknown, context: { tenantId?: string; cluster?: string; step: string }) => void;
  },
  page = PAGE,
): DoorDrift {
  const { registry, locks, provisioners } = deps;
  /** By address of a server. */
  const servers = new Map<string, Progress>();
  /** Tenants that this process has tried to complete. A database that cannot be completed must not delay the others in each run. */
  const incomplete = recentMap<string, true>(MAX_INCOMPLETE);
  /** Where the last reading of changes ended. */
  let position: FeedPosition | undefined;

  function progressOf(place: Place): Progress {
    const address = addressOf(place);
    const known = servers.get(address);
    if (known) return known;
    const begun: Progress = { after: '', watched: new Set(), missed: new Set(), isBusy: false };
    servers.set(address, begun);
    return begun;
  }

  /** Records nothing if that is recorded already, or if a person has abandoned it since the row was changed. */
  async function recordDrift({ id, clusterId }: Pick<TenantRecord, 'id' | 'clusterId'>, wanted: Door): Promise<void> {
    const kind = wanted === 'open' ? 'open' : 'close';
    if (await isAbandoned(registry, id, kind)) return;
    const begun = await insertOperation(registry, { kind, subject: id, tenantId: id, clusterId });
    // The evidence was just found, so an operation that was refused for want of it can go on.
    if (begun || (await retryRefused(registry, id, kind))) deps.wake();
  }

  /** @returns whether the row was applied, or cannot be; false if another worker has locked the tenant */
  async function complete(id: string): Promise<boolean> {
    try {
      return await locks.attempt(id, () => deps.doors.follow(id));
    } catch (error) {
      deps.onError(error, { tenantId: id, step: 'settle' });
      return true;
    }
  }

  /** @returns whether the next run looks at the tenant again */
  async function settle(
    tenant: TenantRecord,
    door: FoundDoor,
    installation: string,
    mayConnect: () => boolean,
  ): Promise<boolean> {
    const wanted = wantedDoor(tenant);
    if (!wanted) return false;
    const verdict = compare(tenant, door, installation);
    if (verdict === 'agrees' && door.open === (wanted === 'open') && !(door.busy && wanted === 'closed')) return false;
    const completes = verdict === 'former' || verdict === 'unmarked';
    if (verdict === 'newer' || verdict === 'foreign' || (completes && !mayComplete(tenant, verdict, door.open))) {
      deps.report(tenant, whyLeft(verdict, door));
      return true;
    }
    if (!completes) {
      await recordDrift(tenant, wanted);
      return false;
    }
    if (incomplete.has(tenant.id) || !mayConnect()) return false;
    if (!(await complete(tenant.id))) return true;
    incomplete.set(tenant.id, true);
    return false;
  }

  /**
   * @param changed rows of the server that the feed of changes names
   * @param due ids of tenants that earlier runs watch or missed
   */
  async function settlePage(
    place: Place,
    changed: readonly DoorRow[],
    due: readonly string[],
    signal: AbortSignal,
  ): Promise<void> {
    const progress = progressOf(place);
    const installation = await deps.installation();
    const rows = await listDoorRows(registry, { place, after: progress.after, limit: page });
    const watched = await listDoorRows(registry, { ids: due });
    const all = new Map([...rows, ...changed, ...watched.filter(isAt(place))].map((row) => [row.dbName, row]));
    const { cluster } = await provisioners.at(place);
    const found = await findDoorDrift(
      cluster,
      [...all.values()].map((row) => expectedDoor(row, installation)),
    );
    const doors = new Map(found.map((door) => [door.name, door]));
    // Again, and after the marks: otherwise an act that ended meanwhile would look as if the mark were newer than its row.
    const tenants = found.length === 0 ? [] : await listTenantsAt(registry, place, [...doors.keys()]);
    const again: string[] = [];
    let connected = 0;
    let stopped = false;
    for (const tenant of tenants) {
      const door = doors.get(tenant.dbName);
      stopped ||= signal.aborted;
      if (stopped || (door && (await settle(tenant, door, installation, () => (connected += 1) <= COMPLETED_PER_RUN))))
        again.push(tenant.id);
    }
    // A page that stopped has not looked at all of these.
    progress.watched = new Set(again.slice(0, stopped ? MAX_CHANGED : MAX_WATCHED));
    if (!stopped) progress.after = rows.length < page ? '' : (rows.at(-1)?.dbName ?? '');
  }

  /** As `settlePage`. What a page that fails should have looked at is looked at by the next one. */
  async function settleDue(place: Place, changed: readonly DoorRow[], signal: AbortSignal): Promise<void> {
    const progress = progressOf(place);
    const due = [...new Set([...progress.missed, ...progress.watched])];
    progress.missed = new Set();
    progress.watched = new Set();
    try {
      await settlePage(place, changed, due, signal);
    } catch (error) {
      miss(progress, due);
      throw error;
    } finally {
      progress.isBusy = false;
    }
  }

  function miss(progress: Progress, ids: readonly string[]): void {
    progress.missed = new Set([...ids, ...progress.missed].slice(0, MAX_CHANGED));
  }

  /** As `settleDue`, bounded in time. Never rejects. */
  async function settlePlace(place: Place, changed: readonly DoorRow[], signal: AbortSignal): Promise<void> {
    const progress = progressOf(place);
    try {
      if (progress.isBusy) throw new DatabaseFault('timeout', 'an earlier statement has not ended');
      progress.isBusy = true;
      const stopping = AbortSignal.any([signal, AbortSignal.timeout(STOPPED_AFTER)]);
      const work = settleDue(place, changed, stopping);
      await within(work, GIVEN_UP_AFTER, () => new DatabaseFault('timeout', 'no answer in time'));
    } catch (error) {
      miss(
        progress,
        changed.map(({ id }) => id),
      );
      deps.onError(error, { cluster: addressOf(place), step: 'settle' });
    }
  }

  return {
    async settleAll(signal) {
      for (const id of await listRestoringTenants(registry)) {
        if (signal.aborted) return;
        const tenant = await findTenant(registry, id);
        if (tenant) await recordDrift(tenant, 'open');
      }
      const reading = await listChangedTenants(registry, position, MAX_CHANGED);
      const changed = await listDoorRows(registry, { ids: reading.ids });
      const places = await listTenantPlaces(registry);
      if (signal.aborted) return;
      ({ position } = reading);
      await Promise.all(places.map((place) => settlePlace(place, changed.filter(isAt(place)), signal)));
    },
  };
}

function expectedDoor(row: DoorRow, installation: string): ExpectedDoor {
  const { dbName: name, claim } = row;
  return {
    name,
    open: wantedDoor(row) === 'open',
    // A row of a former build is always looked at: it gets its claim.
    text: claim === null ? '' : markText(markOf(row, installation)),
  };
}

function isAt({ host, port }: Place): (row: Pick<DoorRow, 'dbHost' | 'dbPort'>) => boolean {
  return ({ dbHost, dbPort }) => dbHost === host && dbPort === port;
}

function addressOf({ host, port }: Place): string {
  return `${host}:${port}`;
}
