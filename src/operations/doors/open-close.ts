// Applies a tenant's row to its database: open or closed, and marked. It acts only if the mark agrees with the row or is of an
// earlier change. If the row is of an earlier change than the mark, nothing is opened, closed or marked.
// src/operations/doors/door-operations.ts has the operations that call it, and door-drift.ts the job that finds what differs.
import type { Kysely } from 'kysely';
import type { Registry } from '../../../db/registry/registry-schema.js';
import {
  claimRow,
  findSettledTenant,
  finishRestoration,
  raiseGeneration,
} from '../../../db/registry/tenant-status-queries.js';
import type { TenantRecord } from '../../../db/registry/tenant-queries.js';
import { closeTenantDatabase, openTenantDatabase } from '../../../db/server/access.js';
import { markText, parseMark } from '../../../db/server/marks.js';
import { AppError } from '../../errors.js';
import { complete, look, markOf, whyLeft, type Verdict } from '../evidence.js';
import { databaseIs } from '../../tenants/tenant-states.js';
import type { PlacedProvisioner, Provisioners } from '../../clusters/provisioners.js';
import type { ReportLeft } from '../reports.js';

export interface Doors {
  /**
   * Opens or closes a tenant's database as its row requires, marks it, and finishes a restoration. The caller holds the tenant's
   * lock.
   *
   * @param asked whether a person asks for it: then a row that is older than its mark gets a higher number, and the work
   *   continues
   */
  follow(tenantId: string, asked?: boolean): Promise<Followed>;
  /**
   * Opens the database of an active or suspended tenant before its row becomes active; the mark then follows the row. A person
   * asks for it, and the caller holds the tenant's lock.
   *
   * @returns the row; undefined if there is none
   * @throws AppError `tenant-state` if the database is not this tenant's
   */
  openFirst(tenantId: string): Promise<TenantRecord | undefined>;
  /** Checks, for a person, whether the row may act on the tenant's database. @throws as `openFirst` */
  confirm(tenantId: string): Promise<TenantRecord | undefined>;
}

/** A tenant whose row was applied to its database. */
export interface Followed {
  /** The row as it is now; undefined if there is none. */
  readonly tenant: TenantRecord | undefined;
  /** Why the database was left as it is, and reported. AppError `tenant-state`, for a person who asks. */
  readonly left?: AppError;
}

interface Trusted {
  /** Undefined if there is no row. */
  readonly tenant: TenantRecord | undefined;
  /** Undefined if there is no database, or it was left as it is. */
  readonly database?: {
    readonly provisioner: PlacedProvisioner;
    readonly text: string | null;
    readonly installation: string;
  };
  /** As in `Followed`. */
  readonly left?: AppError;
}

/** Attempts, because the mark can change between reading and writing it. */
const LOOKS = 3;

export function createDoors(deps: {
  readonly registry: Kysely<Registry>;
  readonly provisioners: Provisioners;
  readonly installation: () => Promise<string>;
  readonly publish: (tenantId: string) => Promise<void>;
  readonly report: ReportLeft;
}): Doors {
  const { registry, provisioners, report } = deps;

  /** The row, and its database if the row may act on it. If necessary, the row's number is raised, or the database is completed. */
  async function trusted(id: string, asked: boolean): Promise<Trusted> {
    for (let looks = 0; looks < LOOKS; looks += 1) {
      const tenant = await findSettledTenant(registry, id);
      if (!tenant || !wantedDoor(tenant)) return { tenant };
      const provisioner = await provisioners.at({ host: tenant.dbHost, port: tenant.dbPort });
      const installation = await deps.installation();
      const seen = await look(provisioner, tenant, installation);
      if (!seen) return { tenant };
      const verdict = await trust(provisioner, tenant, seen, installation, asked);
      if (verdict === 'again') continue;
      if (verdict) return { tenant, database: { provisioner, text: seen.found.text, installation } };
      const why = whyLeft(seen.verdict, seen.found);
      report(tenant, why);
      return { tenant, left: notIts(why) };
    }
    throw new AppError('unavailable', {
      detail: "Another operation works on the tenant's database. Try again in a moment.",
      retryAfter: 5,
    });
  }

  async function follow(id: string, asked = false): Promise<Followed> {
    for (let looks = 0; looks < LOOKS; looks += 1) {
      const { tenant, database, left } = await trusted(id, asked);
      const wanted = tenant && wantedDoor(tenant);
      if (left) return { tenant, left };
      if (!wanted) return { tenant };
      if (!database) {
        if (wanted === 'closed') return { tenant };
        report(tenant, 'there is none on its server');
        return { tenant, left: noDatabase() };
      }
      const { provisioner, text, installation } = database;
      const mark = { from: [text], to: markText(markOf(tenant, installation)) };
      const door = { name: tenant.dbName, runtimeRole: tenant.dbUser, mark };
      const act = wanted === 'open' ? openTenantDatabase : closeTenantDatabase;
      if (!(await act(provisioner.cluster, door))) continue;
      return { tenant: tenant.restoring ? await restored(tenant) : tenant };
    }
    throw new AppError('unavailable', {
      detail: "Another operation works on the tenant's database. Try again in a moment.",
      retryAfter: 5,
    });
  }

  /** @returns whether the row may act on the database; `again` if the row or the mark has just been changed to allow that */
  async function trust(
    provisioner: PlacedProvisioner,
    tenant: TenantRecord,
    seen: NonNullable<Awaited<ReturnType<typeof look>>>,
    installation: string,
    asked: boolean,
  ): Promise<boolean | 'again'> {
    const { found, verdict } = seen;
    if (verdict === 'agrees' || verdict === 'older') return true;
    const mark = parseMark(found.text);
    if (verdict === 'newer') {
      if (!asked || !mark || mark.state === 'dropping') return false;
      // A row from before the upgrade has no claim; the mark of its own database has it.
      if (tenant.claim === null && mark.claim !== null) await claimRow(registry, tenant.id, mark.claim);
      const higher = Math.max(mark.generation, tenant.generation) + 1;
      return (await raiseGeneration(registry, tenant, higher)) ? 'again' : false;
    }
    if (verdict === 'foreign' || (!asked && !mayComplete(tenant, verdict, found.open))) return false;
    return (await complete(registry, provisioner, tenant, seen, installation)) ? 'again' : false;
  }

  async function restored(tenant: TenantRecord): Promise<TenantRecord | undefined> {
    const active = await finishRestoration(registry, tenant);
    if (active) await deps.publish(tenant.id);
    return active ?? findSettledTenant(registry, tenant.id);
  }

  async function openFirst(id: string): Promise<TenantRecord | undefined> {
    const { tenant, database, left } = await trusted(id, true);
    if (tenant?.status !== 'active' && tenant?.status !== 'suspended') return tenant;
    if (!database) throw left ?? noDatabase();
    const { provisioner, text } = database;
    const mark = { from: [text], to: text };
    const door = { name: tenant.dbName, runtimeRole: tenant.dbUser, mark };
    if (!(await openTenantDatabase(provisioner.cluster, door))) throw notIts('its mark has just changed');
    return tenant;
  }

  return {
    follow,
    openFirst,

    async confirm(id) {
      const { tenant, database, left } = await trusted(id, true);
      if (tenant && !database) throw left ?? noDatabase();
      return tenant;
    },
  };
}

export type Door = 'open' | 'closed';

/** The wanted state of a row's database. The database of a tenant that is being restored opens before its status changes. */
export function wantedDoor({
  status,
  restoring,
  statusBeforeDeletion,
}: Pick<TenantRecord, 'status' | 'restoring' | 'statusBeforeDeletion'>): Door | undefined {
  return databaseIs[restoring && statusBeforeDeletion !== null ? statusBeforeDeletion : status];
}

/**
 * Whether the job may complete a database without a mark of this build. Without this mark the number of changes is unknown. An
 * open database of a deleted tenant was perhaps restored since then: a person must ask.
 */
export function mayComplete({ status, generation }: TenantRecord, verdict: Verdict, open: boolean): boolean {
  return !(status === 'deleted' && open) && (verdict === 'former' || generation === 0);
}

function noDatabase(): AppError {
  return new AppError('tenant-state', {
    detail: 'The tenant has no database on its server. Restore the database, then try again.',
  });
}

function notIts(why: string): AppError {
  return new AppError('tenant-state', { detail: `The database of the tenant is left as it is: ${why}.` });
}
