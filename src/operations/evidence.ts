// Evidence: whether the mark of a database and the row of its tenant agree. The service opens, closes, re-marks or drops a
// database only if they do: registry and servers commit separately, and the registry may be restored to an earlier moment.
import type { Kysely } from 'kysely';
import { randomUUID } from 'node:crypto';
import type { Registry } from '../../db/registry/registry-schema.js';
import { claimRow } from '../../db/registry/tenant-status-queries.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import type { DoorRow } from '../../db/registry/tenant-worklists.js';
import { whileOpenToOwner } from '../../db/server/access.js';
import { changeMark, findMarks, markText, parseMark, type Mark, type MarkedDatabase } from '../../db/server/marks.js';
import { claimMarker, readMarker, type Marker } from '../../db/tenant/marker.js';
import type { Doomed } from './demolish.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import type { PlacedProvisioner } from '../clusters/provisioners.js';
import type { InDatabase } from '../clusters/provisioner-connections.js';

/**
 * - `agrees`: mark and row are of the same change.
 * - `older`: the mark is of an earlier change than the row. The mark follows the row.
 * - `newer`: the row is of an earlier change than the mark, or of a different change with the same number: the registry went back
 *   in time. Only a person can continue.
 * - `former`: a former build made the database or the row. Mark or row is completed.
 * - `unmarked`: there is no mark: the database was restored from a dump, or is older than marks.
 * - `foreign`: the mark names another tenant, operation or installation, or another role owns the database.
 */
export type Verdict = 'agrees' | 'older' | 'newer' | 'former' | 'unmarked' | 'foreign';

/** Whether the database existed before its tenant. Its name then differs from the name of its role. */
export function isAdopted({ adopts, dbName, dbUser }: Pick<TenantRecord, 'adopts' | 'dbName' | 'dbUser'>): boolean {
  return adopts !== null || dbName !== dbUser;
}

/** The mark that the row of a tenant requires on its database. */
export function markOf(tenant: DoorRow, installation: string): Mark {
  const { id, claim, generation } = tenant;
  return { installation, id, state: stateOf(tenant), claim, generation };
}

function stateOf(tenant: DoorRow): Mark['state'] {
  const { status, restoring, statusBeforeDeletion } = tenant;
  if (status === 'provisioning') return 'making';
  if (status === 'deleting' || (status === 'deleted' && !restoring)) return 'deleted';
  const closed = status === 'suspended' || (restoring && statusBeforeDeletion === 'suspended');
  return closed ? 'suspended' : isAdopted(tenant) ? 'adopted' : 'tenant';
}

/** Compares a row with the mark on its server. */
export function compare(
  tenant: DoorRow,
  { text, owned = true }: { readonly text: string | null; readonly owned?: boolean },
  installation: string,
): Verdict {
  if (!owned) return 'foreign';
  if (text === null) return 'unmarked';
  const found = parseMark(text);
  const own = markOf(tenant, installation);
  if (found?.installation !== own.installation || found.id !== own.id) return 'foreign';
  if (found.claim === null) return found.state === 'tenant' && tenant.status !== 'provisioning' ? 'former' : 'foreign';
  if (own.claim !== null && found.claim !== own.claim) return 'foreign';
  const same = found.generation === own.generation && found.state === own.state;
  const isLater = found.state === 'dropping' || (found.generation >= own.generation && !same);
  if (isLater) return 'newer';
  // The registry is older than the claim: only the mark knows the claim.
  if (own.claim === null) return 'former';
  return same ? 'agrees' : 'older';
}

/**
 * A tenant's database with the marks that allow its drop, for undoing a tenant or removing it.
 *
 * @param also more marks that allow the drop
 */
export function doomedOf(tenant: TenantRecord, installation: string, also: readonly string[] = []): Doomed {
  const { id, dbHost: host, dbPort: port, dbName: name, dbUser: role, claim, generation } = tenant;
  const bare = { installation, id, claim: null, generation: 0 };
  const own = { installation, id, claim, generation };
  const grounds = [
    markText({ ...bare, state: 'standby' }),
    markText({ ...bare, state: 'dropping' }),
    ...(claim === null ? [] : (['making', 'deleted', 'dropping'] as const).map((state) => markText({ ...own, state }))),
    ...also,
  ];
  return { place: { host, port }, id, name, role, grounds };
}

/** The tenant's database and its verdict. Undefined if there is no database. */
export async function look(
  { cluster }: Pick<PlacedProvisioner, 'cluster'>,
  tenant: TenantRecord,
  installation: string,
): Promise<{ readonly found: MarkedDatabase; readonly verdict: Verdict } | undefined> {
  const [found] = await findMarks(cluster, [tenant.dbName]);
  return found && { found, verdict: compare(tenant, found, installation) };
}

/** Why a database was left as it is: the reason in "The database of the tenant is left as it is: {reason}." */
export function whyLeft(
  verdict: Verdict,
  { text, owned = true }: { readonly text: string | null; readonly owned?: boolean },
): string {
  if (!owned) return 'it belongs to another role';
  if (text === null) return 'it carries no mark';
  return verdict === 'newer'
    ? `it carries the mark "${text}", which is newer than the registry's row: was the registry restored to an earlier moment?`
    : `it carries the mark "${text}"`;
}

/**
 * Completes a database of a former build, or a database restored from a dump. The row gets a claim, the database gets the same
 * claim, and the mark then follows the row. Runs under the tenant's lock.
 *
 * @returns the changed row; undefined if the database does not prove to be this tenant's, and stays as it is
 */
export async function complete(
  registry: Kysely<Registry>,
  { cluster, inDatabase }: Pick<PlacedProvisioner, 'cluster' | 'inDatabase'>,
  tenant: TenantRecord,
  { found, verdict }: { readonly found: MarkedDatabase; readonly verdict: Verdict },
  installation: string,
): Promise<TenantRecord | undefined> {
  const { id, dbName, dbUser } = tenant;
  let known = parseMark(found.text)?.claim;
  if (verdict === 'unmarked') {
    // Without a mark only the content of a database proves its tenant.
    const read = (): Promise<Marker | undefined> => inDatabase(dbName, readMarker);
    const marker = await (found.open ? read() : whileOpenToOwner(cluster, dbName, read));
    if (marker?.tenantId !== id || (marker.claim && tenant.claim && marker.claim !== tenant.claim)) return undefined;
    known = marker.claim;
  } else if (verdict !== 'former') return undefined;
  const row = await claimRow(registry, id, known ?? randomUUID());
  if (!row) return undefined;
  if (found.open) await claimInside(inDatabase, row);
  const change = { database: dbName, role: dbUser, from: [found.text], to: markText(markOf(row, installation)) };
  return (await changeMark(cluster, change)) ? row : undefined;
}

/** Writes the row's claim into an open database without a claim. Before its migration the database cannot hold a claim. */
export async function claimInside(inDatabase: InDatabase, tenant: TenantRecord): Promise<void> {
  await inDatabase(tenant.dbName, async (db) => claimMarked(db, tenant, await readMarker(db)));
}

/** As `claimInside`, with a connection to the database. @param marker as it was read in it */
export async function claimMarked(
  db: Kysely<TenantDatabase>,
  { id, claim }: TenantRecord,
  marker: Marker | undefined,
): Promise<void> {
  if (claim !== null && marker?.tenantId === id && marker.claim === null) await claimMarker(db, id, claim);
}
