// Removing tenants: the sessions in a tenant's database, the database, the role, and at last the registry's row, so that
// nothing is left without a row. The database is dropped only on the evidence of its own mark (src/tenancy/demolish.ts).
import type { Kysely } from 'kysely';
import { letGo } from '../../db/adoption.js';
import type { AuditOrigin } from '../../db/audit.js';
import { insertAudit } from '../../db/central/audit.js';
import type { Registry } from '../../db/central/schema.js';
import {
  deleteTenantRow,
  findSettledTenant,
  markTenantDeleting,
  raiseGeneration,
} from '../../db/central/tenant-states.js';
import type { TenantRecord } from '../../db/central/tenants.js';
import { releaseDatabase, whileOpenToOwner } from '../../db/doors.js';
import { changeMark, markText, parseMark } from '../../db/marks.js';
import { AppError } from '../errors.js';
import { demolish, dismiss, type Left } from './demolish.js';
import { complete, doomedOf, isAdopted, look, markOf } from './evidence.js';
import { statusesFor } from './lifecycle.js';
import type { TenantLocks } from './locks.js';
import type { PlacedProvisioner, Provisioners } from './provisioners.js';
import type { ReportLeft } from './reports.js';

/** Why a tenant is removed: it was deleted and is purged, or its making came to nothing and it is abandoned. */
export type RemovalAct = 'abandon' | 'purge';

export interface RemovalWish {
  /** What happens to the database; left out, one that the service made is dropped and an adopted one stays. */
  readonly database?: 'drop' | 'keep' | undefined;
  /** For the purge by time: ms that the tenant must have been deleted for. Left out, a person asks for it. */
  readonly grace?: number | undefined;
}

export interface Removal {
  /**
   * Removes a tenant: its sessions, database, role and row. What a failure leaves is finished by calling it again, and by the
   * reconciler. It is audited when it begins; from then on there is no way back.
   *
   * @returns false when there is no such tenant in a state that allows it (src/tenancy/lifecycle.ts)
   * @throws AppError `tenant-state` when the database does not carry the evidence that it may be dropped; `unavailable` when
   *   not all of it could be removed
   */
  remove(tenantId: string, origin: AuditOrigin, act?: RemovalAct, wish?: RemovalWish): Promise<boolean>;
  /**
   * Finishes a removal that was begun; under the tenant's lock, which the caller holds. A tenant in another status stays.
   *
   * @param more.grounds marks that the database may be dropped with besides
   * @param more.asked whether a person asks for it: then a mark that is not newer in fact, or of a former build, is brought up
   */
  finish(tenantId: string, more?: FinishOptions): Promise<Left>;
}

interface FinishOptions {
  readonly grounds?: readonly string[];
  readonly asked?: boolean;
}

export function createRemoval(deps: {
  readonly registry: Kysely<Registry>;
  readonly provisioners: Provisioners;
  readonly locks: TenantLocks;
  readonly installation: () => Promise<string>;
  /** Called after the row turned to deleting and before the database goes: closes the pools of this process. */
  readonly beforeDrop: (tenantId: string) => Promise<void>;
  readonly report: ReportLeft;
  readonly onError: (error: unknown, context: { tenantId: string; step: string }) => void;
}): Removal {
  const { registry, provisioners, locks } = deps;

  /** Two that drop the same role or database at once make PostgreSQL fail one with an internal error: they share the work. */
  const removals = new Map<string, Promise<boolean>>();

  async function removeNow(id: string, origin: AuditOrigin, act: RemovalAct, wish: RemovalWish): Promise<boolean> {
    const tenant = await findSettledTenant(registry, id);
    if (!tenant || !statusesFor(act).includes(tenant.status)) return false;
    const asked = wish.grace === undefined;
    if (tenant.status === 'deleted') {
      if (!(await begin(tenant, origin, wish))) return false;
    } else if (wish.database !== undefined) {
      await markTenantDeleting(registry, id, ['deleting'], { onPurge: wish.database });
    }
    let left;
    try {
      left = await finish(id, { asked });
    } catch (error) {
      deps.onError(error, { tenantId: id, step: 'remove' });
      throw new AppError('unavailable', {
        detail: `Not all of the tenant ${id} could be removed. It is tried again by itself, and POST /tenants/${id}/purge does so at once.`,
        retryAfter: 5,
        cause: error,
      });
    }
    if (left !== undefined) throw refused(id, left);
    return true;
  }

  /** Looks for the evidence first: nothing is begun that could not be ended. */
  async function begin(tenant: TenantRecord, origin: AuditOrigin, wish: RemovalWish): Promise<boolean> {
    const { id } = tenant;
    if (tenant.restoring) throw new AppError('tenant-state', { detail: 'The tenant is being restored.' });
    const installation = await deps.installation();
    const provisioner = await placeOf(tenant);
    const seen = await look(provisioner, tenant, installation);
    const keeps = wish.database === 'keep' || (wish.database === undefined && isAdopted(tenant));
    // A mark that was lost proves nothing after a change that it would have counted: then a person must ask for it.
    const mayComplete = seen?.verdict === 'former' || wish.grace === undefined || tenant.generation === 0;
    const completes = seen !== undefined && ['former', 'unmarked'].includes(seen.verdict);
    let proven = seen === undefined || keeps || ['agrees', 'older'].includes(seen.verdict);
    if (!proven && completes && mayComplete)
      proven = (await complete(registry, provisioner, tenant, seen, installation)) !== undefined;
    if (!proven) {
      const why = whyNot(seen?.found.text ?? null);
      deps.report(tenant, why);
      throw refused(id, why);
    }
    return registry.transaction().execute(async (trx) => {
      const { generation } = tenant;
      const { grace, database: onPurge } = wish;
      const begun = await markTenantDeleting(trx, id, ['deleted'], { generation, grace, onPurge });
      const target = { kind: 'tenant', id } as const;
      if (begun) await insertAudit(trx, { ...origin, action: 'tenant.purged', target, tenantId: id });
      return begun !== undefined;
    });
  }

  function refused(id: string, why: string): AppError {
    return new AppError('tenant-state', {
      detail: `The database of the tenant is left as it is, because ${why}. POST /tenants/${id}/purge?database=keep removes the tenant without it.`,
    });
  }

  function placeOf({ dbHost: host, dbPort: port }: TenantRecord): Promise<PlacedProvisioner> {
    return provisioners.at({ host, port });
  }

  async function finish(id: string, { grounds = [], asked = false }: FinishOptions = {}): Promise<Left> {
    const row = await findSettledTenant(registry, id);
    if (row?.status !== 'deleting') return undefined;
    await deps.beforeDrop(id);
    const provisioner = await placeOf(row);
    const installation = await deps.installation();
    const tenant = await bringUp(provisioner, row, installation, asked);
    if (tenant.onPurge === 'keep' || (tenant.onPurge === null && isAdopted(tenant)))
      await release(provisioner, tenant, installation);
    else {
      const left = await demolish(registry, provisioner, doomedOf(tenant, installation, grounds), installation);
      if (left !== undefined) {
        deps.report(tenant, left);
        return left;
      }
    }
    await deleteTenantRow(registry, id);
    return undefined;
  }

  /** Brings the mark up to its row where the row is of a later change, or where a person asks. */
  async function bringUp(
    provisioner: PlacedProvisioner,
    tenant: TenantRecord,
    installation: string,
    asked: boolean,
  ): Promise<TenantRecord> {
    const seen = await look(provisioner, tenant, installation);
    if (!seen) return tenant;
    const { found, verdict } = seen;
    if (asked && (verdict === 'former' || verdict === 'unmarked'))
      return (await complete(registry, provisioner, tenant, seen, installation)) ?? tenant;
    let row = tenant;
    const mark = parseMark(found.text);
    const isOpen = mark && ['tenant', 'adopted', 'suspended'].includes(mark.state);
    // No way leads out of this status: a person who asks once more wants it gone.
    if (asked && verdict === 'newer' && isOpen)
      row = (await raiseGeneration(registry, tenant, Math.max(mark.generation, tenant.generation) + 1)) ?? tenant;
    else if (verdict !== 'older' || !isOpen) return tenant;
    const to = markText(markOf(row, installation));
    await changeMark(provisioner.cluster, { database: row.dbName, role: row.dbUser, from: [found.text], to });
    return row;
  }

  /** Lets go of a database that stays: marker, grants and mark of this tenant, its role, and the closed door. */
  async function release(provisioner: PlacedProvisioner, tenant: TenantRecord, installation: string): Promise<void> {
    const { cluster, inDatabase } = provisioner;
    const { id, dbUser, adopts } = tenant;
    const named = { ...tenant, dbName: adopts ?? tenant.dbName };
    const seen = await look(provisioner, named, installation);
    if (seen && ['newer', 'foreign'].includes(seen.verdict)) {
      deps.report(named, whyNot(seen.found.text));
      return;
    }
    if (seen) {
      const { name, text, open } = seen.found;
      const leave = (): Promise<void> => inDatabase(name, (db) => letGo(db, dbUser, id));
      await (open ? leave() : whileOpenToOwner(cluster, name, leave));
      await releaseDatabase(cluster, name, text);
    }
    await dismiss(provisioner, { id, role: dbUser });
  }

  return {
    remove(tenantId, origin, act = 'abandon', wish = {}) {
      const removal =
        removals.get(tenantId) ??
        locks.hold(tenantId, () => removeNow(tenantId, origin, act, wish)).finally(() => removals.delete(tenantId));
      removals.set(tenantId, removal);
      return removal;
    },

    finish,
  };
}

function whyNot(text: string | null): string {
  return text === null ? 'it carries no mark' : `it carries the mark "${text}"`;
}
