// Tenants that are being made: finishes or undoes one whose request failed or whose process died. The mark of the database
// decides, whichever worker asks:
//
//     standby, making  → undone: `condemn` changes the mark to `dropping`, and no other worker can activate it any more
//     tenant, adopted  → goes forward: the row becomes active
//     anything else    → the database is another tenant's, or an earlier life of this one: it is left and reported
import type { Kysely } from 'kysely';
import type { AuditOrigin } from '../../db/audit.js';
import { insertAudit } from '../../db/central/audit.js';
import { deleteRequestKeysOf } from '../../db/central/idempotency-keys.js';
import type { Registry } from '../../db/central/schema.js';
import { activateTenant, findSettledTenant, markTenantDeleting } from '../../db/central/tenant-states.js';
import type { TenantRecord } from '../../db/central/tenants.js';
import { findMarks, markText, parseMark, type MarkedDatabase } from '../../db/marks.js';
import { hasUsers } from '../../db/tenant/counts.js';
import { readMarker } from '../../db/tenant/marker.js';
import { condemn } from './demolish.js';
import { doomedOf } from './evidence.js';
import type { PlacedProvisioner, Provisioners } from './provisioners.js';
import type { Removal } from './removal.js';
import type { ReportLeft } from './reports.js';

export interface Making {
  /**
   * Finishes or undoes a tenant that is being made; under the tenant's lock, which the caller holds.
   *
   * @param why.origin who is audited when it becomes active
   * @param why.refused whether the registry answered to this worker that the row does not become active: then that is certain
   * @returns the tenant when it is active; undefined when it is undone, or was not being made
   * @throws when the registry or the tenant's server does not answer: it is then tried again
   */
  settle(
    tenantId: string,
    why?: { readonly origin?: AuditOrigin; readonly refused?: boolean },
  ): Promise<TenantRecord | undefined>;
}

/** The service itself. */
const SERVICE: AuditOrigin = { actor: { kind: 'none' } };

export function createMaking(deps: {
  readonly registry: Kysely<Registry>;
  readonly provisioners: Provisioners;
  readonly installation: () => Promise<string>;
  readonly removal: Pick<Removal, 'finish'>;
  readonly report: ReportLeft;
}): Making {
  const { registry, provisioners, removal } = deps;

  async function settle(
    id: string,
    { origin = SERVICE, refused = false }: Parameters<Making['settle']>[1] = {},
  ): Promise<TenantRecord | undefined> {
    const tenant = await findSettledTenant(registry, id);
    if (tenant?.status !== 'provisioning') return tenant?.status === 'deleting' ? undefined : tenant;
    const provisioner = await provisioners.at({ host: tenant.dbHost, port: tenant.dbPort });
    const installation = await deps.installation();
    const [found] = await findMarks(provisioner.cluster, [tenant.adopts ?? tenant.dbName]);
    if (found && !refused && isWhole(tenant, found, installation)) return activate(registry, tenant, origin);
    if (tenant.adopts !== null) return undo(tenant);
    if (found && (await isWholeOfFormerBuild(provisioner, tenant, found, installation)))
      return activate(registry, tenant, origin);
    const { id: tenantId, claim, generation } = tenant;
    const never = markText({ installation, id: tenantId, state: 'tenant', claim, generation });
    // Marked as a tenant's, and refused by the registry; or of a former build, and without a user who could have signed in.
    if (refused || claim === null) return undo(tenant, [never]);
    const left = await condemn(registry, provisioner, doomedOf(tenant, installation), installation);
    if (left === undefined) return undo(tenant);
    // It became whole between the two looks.
    const [now] = await findMarks(provisioner.cluster, [tenant.dbName]);
    if (now && isWhole(tenant, now, installation)) return activate(registry, tenant, origin);
    deps.report(tenant, left);
    return undo(tenant, [], 'keep');
  }

  /** @param also marks with which its database may be dropped besides @param onPurge `keep` removes the row only */
  async function undo(tenant: TenantRecord, also: readonly string[] = [], onPurge?: 'keep'): Promise<undefined> {
    const begun = await registry.transaction().execute(async (trx) => {
      const { id, generation } = tenant;
      const deleting = await markTenantDeleting(trx, id, ['provisioning'], { generation, onPurge });
      // The same request may make the tenant once more.
      if (deleting) await deleteRequestKeysOf(trx, id);
      return deleting;
    });
    if (begun) await removal.finish(begun.id, { grounds: also });
    return undefined;
  }

  return { settle };
}

/** Makes a tenant active whose database is whole, and audits it. Undefined when it is not being made any more. */
export async function activate(
  registry: Kysely<Registry>,
  tenant: Pick<TenantRecord, 'id' | 'claim' | 'adopts'>,
  origin: AuditOrigin,
): Promise<TenantRecord | undefined> {
  const { id } = tenant;
  return registry.transaction().execute(async (trx) => {
    const active = await activateTenant(trx, tenant);
    if (!active) return undefined;
    const target = { kind: 'tenant', id } as const;
    const details = tenant.adopts === null ? undefined : { adopted: true };
    await insertAudit(trx, { ...origin, action: 'tenant.created', target, tenantId: id, ...(details && { details }) });
    return active;
  });
}

/** Whether the database carries the mark of this operation, and was whole: it may hold data since. */
function isWhole({ id, claim }: TenantRecord, { text }: MarkedDatabase, installation: string): boolean {
  const mark = parseMark(text);
  const own = mark?.installation === installation && mark.id === id && claim !== null && mark.claim === claim;
  return own && !['standby', 'making', 'dropping'].includes(mark.state);
}

/**
 * Whether a former build made the row and the database, and made it whole: it marked a database as a tenant's before it
 * filled it, so that only a user in it says that it may have been served.
 */
async function isWholeOfFormerBuild(
  { inDatabase }: PlacedProvisioner,
  { id, claim, dbName }: TenantRecord,
  { text, open }: MarkedDatabase,
  installation: string,
): Promise<boolean> {
  const mark = parseMark(text);
  if (claim !== null || !open) return false;
  if (mark && (mark.installation !== installation || mark.id !== id || mark.state !== 'tenant')) return false;
  return inDatabase(dbName, async (db) => (await readMarker(db))?.tenantId === id && (await hasUsers(db)));
}
