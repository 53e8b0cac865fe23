// Takes the database and the role of a tenant away, as far as the database's own mark allows it (src/operations/demolish.ts). The
// caller holds the tenant's lock. Everything compares before it changes, so it can be repeated after any failure.
import type { Kysely } from 'kysely';
import { letGo } from '../../../db/server/adoption-checks.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import { raiseGeneration } from '../../../db/registry/tenant-status-queries.js';
import type { TenantRecord } from '../../../db/registry/tenant-queries.js';
import { releaseDatabase, whileOpenToOwner } from '../../../db/server/access.js';
import { changeMark, markText, parseMark } from '../../../db/server/marks.js';
import { hasUsers } from '../../../db/tenant/usage-queries.js';
import { demolish, dismiss, type Left } from '../demolish.js';
import { complete, doomedOf, isAdopted, look, markOf, whyLeft } from '../evidence.js';
import type { PlacedProvisioner, Provisioners } from '../../clusters/provisioners.js';

export interface TakeDownDeps {
  readonly registry: Kysely<Registry>;
  readonly provisioners: Provisioners;
  readonly installation: () => Promise<string>;
}

export type Seen = NonNullable<Awaited<ReturnType<typeof look>>>;

/** Whether the database of a tenant stays when the tenant is removed. */
export function keepsDatabase(tenant: TenantRecord, onPurge = tenant.onPurge): boolean {
  return onPurge === 'keep' || (onPurge === null && isAdopted(tenant));
}

export function placeOf({ provisioners }: TakeDownDeps, tenant: TenantRecord): Promise<PlacedProvisioner> {
  return provisioners.at({ host: tenant.dbHost, port: tenant.dbPort });
}

/**
 * Whether the mark says that this tenant's database is being dropped. No other state follows, so a removal that was abandoned, or
 * is not known to the registry any more, can only go on.
 */
export function isCondemned({ id, claim }: TenantRecord, text: string | null, installation: string): boolean {
  const mark = parseMark(text);
  return (
    mark?.state === 'dropping' &&
    mark.installation === installation &&
    mark.id === id &&
    (mark.claim ?? claim) === claim
  );
}

/**
 * Drops the database of a tenant in status `deleting`, or releases it if it stays, and drops the role.
 *
 * @param asked whether a person asks for it: then a mark of a former build, and a row that is older than its mark, are brought up
 *   to date
 * @returns why the database was left, as a part of a sentence
 */
export async function takeDown(deps: TakeDownDeps, row: TenantRecord, asked: boolean): Promise<Left> {
  const { registry } = deps;
  const provisioner = await placeOf(deps, row);
  const installation = await deps.installation();
  const seen = await look(provisioner, row, installation);
  const tenant = seen ? await bringUp(registry, provisioner, row, seen, installation, asked) : row;
  if (keepsDatabase(tenant)) return release(provisioner, tenant, installation, asked);
  const condemned = asked && seen && isCondemned(tenant, seen.found.text, installation) ? [seen.found.text ?? ''] : [];
  const doomed = doomedOf(tenant, installation, condemned);
  return demolish(registry, provisioner, doomed, installation);
}

/** Updates the mark to its row if the row is of a later change, or if a person asks. */
async function bringUp(
  registry: Kysely<Registry>,
  provisioner: PlacedProvisioner,
  tenant: TenantRecord,
  seen: Seen,
  installation: string,
  asked: boolean,
): Promise<TenantRecord> {
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
  await changeMark(cluster, { database: row.dbName, role: row.dbUser, from: [found.text], to });
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
