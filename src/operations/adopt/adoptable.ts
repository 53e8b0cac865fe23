// Whether an existing database can become a tenant's database.
import type { Kysely } from 'kysely';
import { findDatabase, inspectContent, type FoundDatabase } from '../../../db/server/adoption-checks.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import { findTenant } from '../../../db/registry/tenant-queries.js';
import { MAINTENANCE_DATABASE, type ClusterDb } from '../../../db/server/server-admin.js';
import { historyOf } from '../../../db/shared/migrator.js';
import { tenantMigrations } from '../../../db/tenant/migrations/index.js';
import { changeMark, findMarks, parseMark } from '../../../db/server/marks.js';
import { AppError } from '../../errors.js';
import { isOwnName } from '../../tenants/tenant-ids.js';
import type { PlacedProvisioner } from '../../clusters/provisioners.js';
import { isTemplateName } from '../template/template-names.js';

export interface AdoptableDeps {
  readonly registry: Kysely<Registry>;
  readonly installation: () => Promise<string>;
}

const SYSTEM_DATABASES = [MAINTENANCE_DATABASE, 'template0', 'template1'];

/** @returns the database's state before the adoption. @throws AppError `not-adoptable` */
export async function adoptable(
  deps: AdoptableDeps,
  { cluster, inDatabase }: PlacedProvisioner,
  database: string,
): Promise<FoundDatabase> {
  const found = await findDatabase(cluster, database);
  if (!found) throw unfit('the cluster has no database of this name.');
  if (SYSTEM_DATABASES.includes(database) || found.isTemplate) throw unfit('it is a system database of the server.');
  if (isTemplateName(database) || isOwnName(database))
    throw unfit('its name is reserved for databases that this service creates. Rename it first.');
  if (!found.owned) throw unfit('the provisioner does not own it. Run ALTER DATABASE … OWNER TO first.');
  if (!found.allowsConnections) throw unfit('it does not allow connections.');
  if (found.othersHaveRights)
    throw unfit('other roles have rights on it. Run REVOKE ALL ON DATABASE … FROM these roles first.');
  const { isRegistry, isMarked, needs } = await inDatabase(database, async (db) => ({
    ...(await inspectContent(db)),
    ...(await historyOf(db, tenantMigrations)),
  }));
  if (isRegistry) throw unfit('it is a registry.');
  if (needs !== undefined) throw unfit(`a newer build has migrated it, and it needs one that knows ${needs}.`);
  if (isMarked || !(await isFree(deps, cluster, database))) throw unfit("it is marked as another tenant's database.");
  return found;
}

/** The error for a database that cannot be adopted. */
export function unfit(why: string): AppError {
  return new AppError('not-adoptable', { detail: `This database cannot be adopted: ${why}` });
}

/**
 * Whether a database without a marker also carries no mark. An adoption that was undone before its mark arrived leaves a mark of
 * a tenant that has neither a row nor a marker. That mark is removed.
 */
async function isFree(deps: AdoptableDeps, cluster: ClusterDb, database: string): Promise<boolean> {
  const [found] = await findMarks(cluster, [database]);
  const text = found?.text ?? null;
  if (text === null) return true;
  const mark = parseMark(text);
  if (mark?.installation !== (await deps.installation()) || mark.state !== 'adopted') return false;
  if (await findTenant(deps.registry, mark.id)) return false;
  return changeMark(cluster, { database, from: [text], to: null });
}
