// Evidence: what the mark of a database says about its tenant's row, and the other way round. The registry and the tenants'
// servers commit separately, and the registry may be restored to an earlier moment: so nothing is opened, closed, re-marked or
// dropped for a row that the database itself does not agree with.
import type { Kysely } from 'kysely';
import { randomUUID } from 'node:crypto';
import type { Registry } from '../../db/registry/registry-schema.js';
import { claimRow } from '../../db/registry/tenant-status-queries.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import { whileOpenToOwner } from '../../db/server/access.js';
import { changeMark, findMarks, markText, parseMark, type Mark, type MarkedDatabase } from '../../db/server/marks.js';
import { claimMarker, readMarker, type Marker } from '../../db/tenant/marker.js';
import type { Doomed } from './demolish.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import type { PlacedProvisioner } from '../clusters/provisioners.js';
import type { InDatabase } from '../clusters/provisioner-connections.js';

/**
 * - `agrees`: mark and row are of the same change.
 * - `older`: the mark is of an earlier change than the row. It follows.
 * - `newer`: the row is of an earlier change than the mark, or of another one of the same number: the registry went back in
 *   time. Only a person's act goes on.
 * - `former`: a former build made the database or the row. One of them is completed.
 * - `unmarked`: there is no mark: the database was restored from a dump, or is older than marks.
 * - `foreign`: the mark is that of another tenant, operation or installation, or the database is another role's.
 */
export type Verdict = 'agrees' | 'older' | 'newer' | 'former' | 'unmarked' | 'foreign';

/** Whether the database was there before its tenant: it then has a name that is not its role's. */
export function isAdopted({ adopts, dbName, dbUser }: TenantRecord): boolean {
  return adopts !== null || dbName !== dbUser;
}

/** The mark that a tenant's database carries by its row. */
export function markOf(tenant: TenantRecord, installation: string): Mark {
  const { id, claim, generation } = tenant;
  return { installation, id, state: stateOf(tenant), claim, generation };
}

function stateOf(tenant: TenantRecord): Mark['state'] {
  const { status, restoring, statusBeforeDeletion } = tenant;
  if (status === 'provisioning') return 'making';
  if (status === 'deleting' || (status === 'deleted' && !restoring)) return 'deleted';
  const closed = status === 'suspended' || (restoring && statusBeforeDeletion === 'suspended');
  return closed ? 'suspended' : isAdopted(tenant) ? 'adopted' : 'tenant';
}

/** Compares a row with what is found on its server. */
export function compare(
  tenant: TenantRecord,
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
  // The claim is known from the mark alone when the registry is of before it was written.
  if (own.claim === null) return 'former';
  return same ? 'agrees' : 'older';
}

/**
 * A tenant's database with the marks that it may be dropped with, when its making is undone or it is being removed.
 *
 * @param also more of them
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

/** A tenant's database as it is found, and what that means. Undefined when there is none. */
export async function look(
  { cluster }: Pick<PlacedProvisioner, 'cluster'>,
  tenant: TenantRecord,
  installation: string,
): Promise<{ readonly found: MarkedDatabase; readonly verdict: Verdict } | undefined> {
  const [found] = await findMarks(cluster, [tenant.dbName]);
  return found && { found, verdict: compare(tenant, found, installation) };
}

/** Why a database is left as it is, for "The database of the tenant is left as it is: {reason}." */
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
 * Completes what a former build made, or what a dump left behind: gives the row a claim, writes it into the database, and
 * marks the database by its row. Under the tenant's lock.
 *
 * @returns the row as it is then; undefined when the database does not prove to be this tenant's: it stays as it is
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
    // Without a mark only the content says whose a database is.
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

/** Writes the row's claim into a database that is open and has none yet; before its migration there is no place for it. */
export async function claimInside(inDatabase: InDatabase, tenant: TenantRecord): Promise<void> {
  await inDatabase(tenant.dbName, (db) => claimWithin(db, tenant));
}

/** The same, in the database already. */
export async function claimWithin(db: Kysely<TenantDatabase>, { id, claim }: TenantRecord): Promise<void> {
  const marker = await readMarker(db);
  if (claim !== null && marker?.tenantId === id && marker.claim === null) await claimMarker(db, id, claim);
}
