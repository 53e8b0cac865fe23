// Removes tenants: the sessions in the tenant's database, the database, the role, and finally the registry's row, so that nothing
// remains without a row. The database is dropped only if its own mark allows it (src/operations/demolish.ts).
import type { Kysely } from 'kysely';
import { letGo } from '../../db/server/adoption-checks.js';
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import {
  deleteTenantRow,
  findSettledTenant,
  markTenantDeleting,
  raiseGeneration,
} from '../../db/registry/tenant-status-queries.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import { releaseDatabase, whileOpenToOwner } from '../../db/server/access.js';
import { changeMark, markText, parseMark } from '../../db/server/marks.js';
import { hasUsers } from '../../db/tenant/usage-queries.js';
import { auditAct, confirmOperator } from '../audit/operator-act.js';
import { AppError } from '../errors.js';
import { demolish, dismiss, type Left } from './demolish.js';
import { complete, doomedOf, isAdopted, look, markOf, whyLeft } from './evidence.js';
import { statusesFor } from '../tenants/tenant-states.js';
import type { TenantLocks } from '../tenants/tenant-locks.js';
import type { PlacedProvisioner, Provisioners } from '../clusters/provisioners.js';
import type { RecordEvent } from '../observability/security-events.js';
import type { ReportLeft } from './reports.js';

/** Why a tenant is removed: a deleted tenant is purged, or a tenant whose making failed is abandoned. */
export type RemovalAct = 'abandon' | 'purge';

export interface RemovalWish {
  /** What happens to the database. Default: a database that the service made is dropped, and an adopted database stays. */
  readonly database?: 'drop' | 'keep' | undefined;
  /** For the automatic purge: time (ms) required since the tenant's deletion. Undefined if a person asks for the removal. */
  readonly grace?: number | undefined;
}

export interface Removal {
  /**
   * Removes a tenant: its sessions, database, role and row. After a failure, another call or the reconciler finishes the removal.
   * The removal is audited when it begins. From then on it cannot be undone.
   *
   * @returns false if there is no such tenant in a state that allows removal (src/tenants/tenant-states.ts)
   * @throws AppError `tenant-state` if the database does not carry the evidence that allows its drop; `unavailable` if not
   *   everything could be removed
   */
  remove(tenantId: string, origin: AuditOrigin, act?: RemovalAct, wish?: RemovalWish): Promise<boolean>;
  /**
   * Finishes a removal that was begun. The caller holds the tenant's lock. A tenant in another status stays.
   *
   * @param more.grounds more marks that allow dropping the database
   * @param more.asked whether a person asks for it: then a mark of a former build, and a row that is older than its mark, are
   *   brought up to date
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
  /** Called after the row turned to `deleting` and before the database is dropped: closes the pools of this process. */
  readonly beforeDrop: (tenantId: string) => Promise<void>;
  readonly report: ReportLeft;
  /** Called when a purge is committed. */
  readonly record: RecordEvent;
  readonly onError: (error: unknown, context: { tenantId: string; step: string }) => void;
}): Removal {
  const { registry, provisioners, locks } = deps;

  /**
   * Running removals by tenant. If two workers drop the same role or database at once, PostgreSQL fails one of them with an
   * internal error, so they share the work.
   */
  const removals = new Map<string, { readonly wish: string; readonly work: Promise<boolean> }>();

  async function removeNow(id: string, origin: AuditOrigin, act: RemovalAct, wish: RemovalWish): Promise<boolean> {
    const tenant = await findSettledTenant(registry, id);
    if (!tenant || !statusesFor(act).includes(tenant.status)) return false;
    const asked = wish.grace === undefined;
    if (tenant.status === 'deleted') {
      if (!(await begin(tenant, origin, wish))) return false;
    } else {
      await confirmOperator(registry, origin);
      if (wish.database !== undefined) await markTenantDeleting(registry, id, ['deleting'], { onPurge: wish.database });
    }
    let left;
    try {
      left = await finish(id, { asked });
    } catch (error) {
      deps.onError(error, { tenantId: id, step: 'remove' });
      throw new AppError('unavailable', {
        detail: `The tenant ${id} could not be removed completely. The service tries again by itself; POST /tenants/${id}/purge tries again at once.`,
        retryAfter: 5,
        cause: error,
      });
    }
    if (left !== undefined)
      throw leftAsItIs(left, `POST /tenants/${id}/purge?database=keep removes the tenant and keeps the database.`);
    return true;
  }

  /** Checks the evidence first, so that no removal begins that could not be finished. */
  async function begin(tenant: TenantRecord, origin: AuditOrigin, wish: RemovalWish): Promise<boolean> {
    const { id } = tenant;
    if (tenant.restoring)
      throw new AppError('tenant-state', {
        detail: 'The tenant is being restored. Wait until it is active or suspended.',
      });
    const installation = await deps.installation();
    const provisioner = await placeOf(tenant);
    const seen = await look(provisioner, tenant, installation);
    const keeps = wish.database === 'keep' || (wish.database === undefined && isAdopted(tenant));
    // Without a mark of this build only a person decides. No mark shows whether the tenant was restored since the row was
    // written.
    const completes = wish.grace === undefined && seen !== undefined && ['former', 'unmarked'].includes(seen.verdict);
    const completed = completes && (await complete(registry, provisioner, tenant, seen, installation)) !== undefined;
    if (seen && !keeps && !completed && !['agrees', 'older'].includes(seen.verdict)) {
      deps.report(tenant, whyLeft(seen.verdict, seen.found));
      throw refused(id, seen);
    }
    const begun = await registry.transaction().execute(async (trx) => {
      const { generation } = tenant;
      const { grace, database: onPurge } = wish;
      const deleting = await markTenantDeleting(trx, id, ['deleted'], { generation, grace, onPurge });
      const target = { kind: 'tenant', id } as const;
      if (deleting) await auditAct(trx, { ...origin, action: 'tenant.purged', target, tenantId: id });
      return deleting !== undefined;
    });
    if (begun) deps.record('tenant-purged', { tenantId: id }, origin);
    return begun;
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
    const keeps = tenant.onPurge === 'keep' || (tenant.onPurge === null && isAdopted(tenant));
    const left = keeps
      ? await release(provisioner, tenant, installation, asked)
      : await demolish(registry, provisioner, doomedOf(tenant, installation, grounds), installation);
    if (left !== undefined) {
      deps.report(tenant, left);
      return left;
    }
    await deleteTenantRow(registry, id);
    return undefined;
  }

  /** Updates the mark to its row if the row is of a later change, or if a person asks. */
  async function bringUp(
    provisioner: PlacedProvisioner,
    tenant: TenantRecord,
    installation: string,
    asked: boolean,
  ): Promise<TenantRecord> {
    const seen = await look(provisioner, tenant, installation);
    if (!seen) return tenant;
    const { found, verdict } = seen;
    // A former build dropped a database by the row alone. Without a person only a database without users is dropped.
    const { inDatabase, cluster } = provisioner;
    const { name, open } = found;
    const isEmpty = async (): Promise<boolean> => !(await inDatabase(name, hasUsers));
    const mayComplete = async (): Promise<boolean> =>
      asked || (verdict === 'former' && (await (open ? isEmpty() : whileOpenToOwner(cluster, name, isEmpty))));
    if ((verdict === 'former' || verdict === 'unmarked') && (await mayComplete()))
      return (await complete(registry, provisioner, tenant, seen, installation)) ?? tenant;
    let row = tenant;
    const mark = parseMark(found.text);
    const isTenants = mark && ['tenant', 'adopted', 'suspended', 'deleted'].includes(mark.state);
    // This status cannot be left: a person who asks again wants the tenant to be removed.
    if (asked && verdict === 'newer' && isTenants)
      row = (await raiseGeneration(registry, tenant, Math.max(mark.generation, tenant.generation) + 1)) ?? tenant;
    else if (verdict !== 'older' || !isTenants) return tenant;
    const to = markText(markOf(row, installation));
    await changeMark(provisioner.cluster, { database: row.dbName, role: row.dbUser, from: [found.text], to });
    return row;
  }

  /** Releases a database that stays: removes this tenant's marker, grants, mark and role, and opens the database again. */
  async function release(
    provisioner: PlacedProvisioner,
    tenant: TenantRecord,
    installation: string,
    asked: boolean,
  ): Promise<Left> {
    const { cluster, inDatabase } = provisioner;
    const { id, dbUser, adopts, claim, generation } = tenant;
    const seen = await look(provisioner, { ...tenant, dbName: adopts ?? tenant.dbName }, installation);
    if (seen) {
      const { name, text, open } = seen.found;
      // An adoption that was undone was never active, even if its mark arrived late.
      const undone = adopts !== null && text === markText({ installation, id, state: 'adopted', claim, generation });
      // If the database belongs to another tenant, only the row is removed.
      if (seen.verdict === 'foreign') return asked || adopts !== null ? undefined : whyLeft(seen.verdict, seen.found);
      if (seen.verdict === 'newer' && !undone) return whyLeft(seen.verdict, seen.found);
      const leave = (): Promise<void> => inDatabase(name, (db) => letGo(db, dbUser, id));
      await (open ? leave() : whileOpenToOwner(cluster, name, leave));
      if (!(await releaseDatabase(cluster, name, text))) throw new Error('the mark of the database has just changed');
    }
    await dismiss(provisioner, { id, role: dbUser });
    return undefined;
  }

  return {
    async remove(tenantId, origin, act = 'abandon', wish = {}) {
      // A person's request never shares the work of the job, because the job is refused in more cases.
      const { actor } = origin;
      // It also never shares the work of another session, which may be refused.
      const session = actor.kind === 'operator' ? actor.sessionId : undefined;
      const same = JSON.stringify([act, wish.database ?? null, wish.grace === undefined, session ?? null]);
      let other;
      while ((other = removals.get(tenantId)) && other.wish !== same) await other.work.catch(() => undefined);
      const work =
        other?.work ??
        locks.hold(tenantId, () => removeNow(tenantId, origin, act, wish)).finally(() => removals.delete(tenantId));
      removals.set(tenantId, { wish: same, work });
      return work;
    },

    finish,
  };
}

type Seen = NonNullable<Awaited<ReturnType<typeof look>>>;

function refused(id: string, seen: Seen): AppError {
  const advice =
    seen.verdict === 'newer'
      ? `To remove the tenant, send DELETE /tenants/${id} again, and then purge it.`
      : `POST /tenants/${id}/purge?database=keep removes the tenant and keeps the database.`;
  return leftAsItIs(whyLeft(seen.verdict, seen.found), advice);
}

function leftAsItIs(why: string, advice: string): AppError {
  return new AppError('tenant-state', { detail: `The database of the tenant is left as it is: ${why}. ${advice}` });
}
