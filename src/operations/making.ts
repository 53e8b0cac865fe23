// Finishes or undoes a tenant that is being made, after its request failed or its process died. The mark of the database decides,
// the same for every worker:
//
//     standby, making            → undone: `condemn` changes the mark to `dropping`, and no worker can activate it any more
//     tenant, adopted, or later  → goes forward: the row becomes active, or suspended when the database is closed
//     anything else              → the database is another tenant's: it is left and reported, and the row goes
import type { Kysely } from 'kysely';
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import { insertAudit } from '../../db/registry/registry-audit.js';
import { deleteRequestKeysOf } from '../../db/registry/idempotency-keys.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import {
  activateTenant,
  deleteTenantRow,
  findSettledTenant,
  markTenantDeleting,
} from '../../db/registry/tenant-status-queries.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import { whileOpenToOwner } from '../../db/server/access.js';
import { changeMark, findMarks, markText, parseMark, type MarkedDatabase } from '../../db/server/marks.js';
import { hasUsers } from '../../db/tenant/usage-queries.js';
import { readMarker } from '../../db/tenant/marker.js';
import { condemn } from './demolish.js';
import { doomedOf } from './evidence.js';
import type { PlacedProvisioner, Provisioners } from '../clusters/provisioners.js';
import type { RecordEvent } from '../observability/security-events.js';
import type { Removal } from './removal.js';
import type { ReportLeft } from './reports.js';

export interface Making {
  /**
   * Finishes or undoes a tenant that is being made. The caller holds the tenant's lock.
   *
   * @param why.origin the origin in the audit entry when the tenant becomes active
   * @param why.refused whether the registry answered this worker that the row does not become active: then that is certain
   * @returns the tenant if it is active; undefined if it was undone, or was not being made
   * @throws if the registry or the tenant's server does not answer; the caller tries again later
   */
  settle(
    tenantId: string,
    why?: { readonly origin?: AuditOrigin; readonly refused?: boolean },
  ): Promise<TenantRecord | undefined>;
}

/** Work of the service itself has no actor. */
const SERVICE: AuditOrigin = { actor: { kind: 'none' } };

export function createMaking(deps: {
  readonly registry: Kysely<Registry>;
  readonly provisioners: Provisioners;
  readonly installation: () => Promise<string>;
  readonly removal: Pick<Removal, 'finish'>;
  readonly report: ReportLeft;
  /** Called when the tenant is active. */
  readonly record: RecordEvent;
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
    const name = tenant.adopts ?? tenant.dbName;
    const [found] = await findMarks(provisioner.cluster, [name]);
    if (found && !refused && (await isWhole(provisioner, tenant, found, installation)))
      return forward(provisioner, tenant, found, origin);
    if (tenant.adopts !== null) {
      // This takes the lock of the mark. A worker that was paused cannot write the mark later without being seen.
      if (found?.text === null) await changeMark(provisioner.cluster, { database: name, from: [null], to: null });
      return undo(tenant);
    }
    const { claim, generation } = tenant;
    const never = markText({ installation, id, state: 'tenant', claim, generation });
    // The registry refused the row, or the database is of a former build, which marks a database before filling it: this database
    // never had a user.
    if (refused || (claim === null && (found === undefined || parseMark(found.text ?? found.roleText)?.id === id)))
      return undo(tenant, [never]);
    const fate = await condemn(registry, provisioner, doomedOf(tenant, installation), installation);
    if (fate === 'condemned') return undo(tenant);
    // A paused worker may still make the database, but the row can no longer become active.
    if (fate === 'absent') return undo(tenant, [never]);
    // The database became complete between the two checks.
    const [now] = await findMarks(provisioner.cluster, [name]);
    if (now && (await isWhole(provisioner, tenant, now, installation)))
      return forward(provisioner, tenant, now, origin);
    deps.report(tenant, fate.left);
    await forget(tenant);
    return undefined;
  }

  async function forward(
    { cluster }: PlacedProvisioner,
    tenant: TenantRecord,
    { name, text, open }: MarkedDatabase,
    origin: AuditOrigin,
  ): Promise<TenantRecord | undefined> {
    // A dump restores no mark. A database of a former build gets its mark when it is completed.
    if (text === null && tenant.claim !== null) {
      const { id, claim, generation } = tenant;
      const installation = await deps.installation();
      const to = markText({ installation, id, state: 'tenant', claim, generation });
      await changeMark(cluster, { database: name, role: tenant.dbUser, from: [null], to });
    }
    return activate(registry, tenant, origin, deps.record, open ? 'active' : 'suspended');
  }

  /** Removes only the row: the database belongs to another tenant. */
  async function forget({ id, generation }: TenantRecord): Promise<void> {
    await registry.transaction().execute(async (trx) => {
      if (!(await markTenantDeleting(trx, id, ['provisioning'], { generation, onPurge: 'keep' }))) return;
      await deleteRequestKeysOf(trx, id);
      await deleteTenantRow(trx, id);
    });
  }

  /** @param also more marks that allow dropping the tenant's database */
  async function undo(tenant: TenantRecord, also: readonly string[] = []): Promise<undefined> {
    const begun = await registry.transaction().execute(async (trx) => {
      const { id, generation } = tenant;
      const deleting = await markTenantDeleting(trx, id, ['provisioning'], { generation });
      // The same request may make the tenant again.
      if (deleting) await deleteRequestKeysOf(trx, id);
      return deleting;
    });
    if (begun) await removal.finish(begun.id, { grounds: also });
    return undefined;
  }

  return { settle };
}

/**
 * Makes a tenant with a complete database active, and audits it. Undefined if the tenant is no longer being made.
 *
 * @param status `suspended` if the database was found closed, which happens after the registry was restored to an earlier moment
 */
export async function activate(
  registry: Kysely<Registry>,
  tenant: Pick<TenantRecord, 'id' | 'claim' | 'adopts'>,
  origin: AuditOrigin,
  record: RecordEvent,
  status: 'active' | 'suspended' = 'active',
): Promise<TenantRecord | undefined> {
  const { id } = tenant;
  const made = await registry.transaction().execute(async (trx) => {
    const active = await activateTenant(trx, tenant, status);
    if (!active) return undefined;
    const target = { kind: 'tenant', id } as const;
    const details = { ...(tenant.adopts !== null && { adopted: true }), ...(status === 'suspended' && { status }) };
    await insertAudit(trx, { ...origin, action: 'tenant.created', target, tenantId: id, details });
    return active;
  });
  if (made) record('tenant-created', { tenantId: id }, origin);
  return made;
}

/**
 * Whether a tenant's database is complete, and may hold data since: it carries the mark of this operation. Without a claim or a
 * mark the content decides: the tenant's marker, and a user who could have signed in.
 */
async function isWhole(
  { cluster, inDatabase }: PlacedProvisioner,
  { id, claim, adopts }: TenantRecord,
  { name, text, roleText, owned, open }: MarkedDatabase,
  installation: string,
): Promise<boolean> {
  if (!owned) return false;
  const mark = parseMark(text);
  if (mark && (mark.installation !== installation || mark.id !== id)) return false;
  if (mark && claim !== null) return mark.claim === claim && !['standby', 'making', 'dropping'].includes(mark.state);
  if (mark && mark.state !== 'tenant') return false;
  // An adopted database has content of its own. The role of a database that is being made carries the mark `making`.
  if (!mark && adopts !== null) return false;
  if (!mark && (parseMark(roleText)?.state === 'making' || parseMark(roleText)?.state === 'standby')) return false;
  const look = (): Promise<boolean> =>
    inDatabase(name, async (db) => {
      const marker = await readMarker(db);
      const isOwn = marker?.tenantId === id && (!marker.claim || claim === null || marker.claim === claim);
      return isOwn && (await hasUsers(db));
    });
  return open ? look() : whileOpenToOwner(cluster, name, look);
}
