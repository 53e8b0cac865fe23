// The template database: empty, migrated, closed to connections. New tenants' databases are copies of it, so that making a
// tenant runs no migration.
import { createHash } from 'node:crypto';
import { createClosedDatabase, dropDatabase, ownDatabases, sealTemplate, type ClusterDb } from '../../db/cluster.js';
import type { Kysely } from 'kysely';
import { migrateToLatest, type Migrations } from '../../db/migrator.js';
import type { TenantDatabase } from '../../db/tenant/schema.js';

const PREFIX = 'tenantry_template_';
const BUILDING = '_building';

/** Runs `work` in a database of the cluster as the provisioner, and closes the connection afterwards. */
export type InDatabase = <T>(database: string, work: (db: Kysely<TenantDatabase>) => Promise<T>) => Promise<T>;

/**
 * The template's name for a set of migrations and an owner: a build never copies a template that another schema version or
 * another installation of the cluster made.
 */
export function templateName(migrations: Migrations, owner: string): string {
  const stamp = createHash('sha256')
    .update(JSON.stringify([owner, ...Object.keys(migrations).sort()]))
    .digest('hex');
  return PREFIX + stamp.slice(0, 16);
}

/**
 * Makes the template where it is missing. It is built under another name and renamed when it is complete, so that a
 * template that exists is a whole one, whenever the process was killed.
 *
 * @returns whether one was made
 */
export async function ensureTemplate(
  cluster: ClusterDb,
  inDatabase: InDatabase,
  migrations: Migrations,
  owner: string,
): Promise<boolean> {
  const name = templateName(migrations, owner);
  if ((await ownDatabases(cluster, name)).includes(name)) return false;
  const building = name + BUILDING;
  await dropDatabase(cluster, building);
  await createClosedDatabase(cluster, building);
  await inDatabase(building, (db) => migrateToLatest(db, migrations));
  await sealTemplate(cluster, building, name);
  return true;
}

/** Drops the templates of other schema versions. A replica of an older build can then make no tenant of an old schema. */
export async function dropOutdatedTemplates(cluster: ClusterDb, migrations: Migrations, owner: string): Promise<void> {
  const current = templateName(migrations, owner);
  for (const name of await ownDatabases(cluster, PREFIX)) {
    if (name !== current) await dropDatabase(cluster, name);
  }
}
