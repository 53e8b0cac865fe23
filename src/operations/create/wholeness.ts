// Whether a tenant's database is complete: what decides that its making goes forward.
import type { TenantRecord } from '../../../db/registry/tenant-queries.js';
import { whileOpenToOwner } from '../../../db/server/access.js';
import { parseMark, type MarkedDatabase } from '../../../db/server/marks.js';
import { hasUsers } from '../../../db/tenant/usage-queries.js';
import { readMarker } from '../../../db/tenant/marker.js';
import type { PlacedProvisioner } from '../../clusters/provisioners.js';

/**
 * Whether a tenant's database is complete, and may hold data since: it carries the mark of this operation. Without a claim or a
 * mark the content decides: the tenant's marker, and a user who could have signed in.
 */
export async function isWhole(
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
