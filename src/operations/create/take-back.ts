// Takes back a tenant that was not made: its database and role are dropped as far as the mark allows it.
import type { Kysely } from 'kysely';
import { deleteRequestKeysOf } from '../../../db/registry/idempotency-keys.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import { findSettledTenant, markTenantDeleting } from '../../../db/registry/tenant-status-queries.js';
import type { TenantRecord } from '../../../db/registry/tenant-queries.js';
import { findMarks, markText, parseMark } from '../../../db/server/marks.js';
import type { PlacedProvisioner } from '../../clusters/provisioners.js';
import { condemn, demolish } from '../demolish.js';
import { doomedOf } from '../evidence.js';
import { leftAsItIs, type ReportLeft } from '../reports.js';
import { PastReturn } from '../runner/operation-kinds.js';

/** Marks the row as being removed: it can no longer become active. @throws PastReturn if it is active by now */
export async function giveUp(
  registry: Kysely<Registry>,
  { id, generation }: TenantRecord,
  onPurge?: 'keep',
): Promise<void> {
  await registry.transaction().execute(async (trx) => {
    const given = await markTenantDeleting(trx, id, ['provisioning'], { generation, onPurge });
    const now = given ?? (await findSettledTenant(trx, id));
    if (now && now.status !== 'deleting') throw new PastReturn();
    // A former build may have recorded a key of its own.
    await deleteRequestKeysOf(trx, id);
  });
}

/**
 * Drops the database and the role of a tenant that was not made.
 *
 * @param creation.refused whether the registry has refused to make the row active: then the tenant was certainly never served
 * @throws PastReturn if the database is complete: then the tenant goes forward
 */
export async function takeBack(
  {
    registry,
    report,
    beforeDrop,
  }: {
    readonly registry: Kysely<Registry>;
    readonly report: ReportLeft;
    readonly beforeDrop: (tenantId: string) => Promise<void>;
  },
  {
    row,
    provisioner,
    installation,
    refused,
    isWhole,
  }: {
    readonly row: TenantRecord;
    readonly provisioner: PlacedProvisioner;
    readonly installation: string;
    readonly refused: boolean;
    readonly isWhole: () => Promise<boolean>;
  },
): Promise<void> {
  const { id, claim, generation, dbName: name } = row;
  const never = markText({ installation, id, state: 'tenant', claim, generation });
  const [found] = await findMarks(provisioner.cluster, [name]);
  // The registry refused the row, or the database is of a former build, which marks a database before filling it: this database
  // never had a user.
  const isFormer = claim === null && (found === undefined || parseMark(found.text ?? found.roleText)?.id === id);
  if (refused || isFormer) await giveUp(registry, row);
  const doomed = doomedOf(row, installation, refused || isFormer ? [never] : []);
  const fate = await condemn(registry, provisioner, doomed, installation);
  if (typeof fate === 'object') {
    if (!refused && (await isWhole())) throw new PastReturn();
    // Only the row goes: the database belongs to another tenant.
    report(row, fate.left);
    await giveUp(registry, row, 'keep');
    return;
  }
  await giveUp(registry, row);
  await beforeDrop(id);
  // A paused worker may still make the database, but the row can no longer become active.
  const left = await demolish(registry, provisioner, doomedOf(row, installation, [never]), installation);
  if (left === undefined) return;
  report(row, left);
  throw leftAsItIs(`the database of a tenant that was not made is left as it is: ${left}`);
}
