// The template database: empty, migrated, closed to connections. Databases of new tenants are copies of it, so that making a
// tenant runs no migration. The mark proves a template; the name alone does not.
import type { Kysely } from 'kysely';
import { createHash, randomBytes } from 'node:crypto';
import type { Registry } from '../../db/registry/registry-schema.js';
import {
  createClosedDatabase,
  ownDatabases,
  sealTemplate,
  whileTemplatesLocked,
  type ClusterDb,
} from '../../db/server/server-admin.js';
import { changeMark, findMarks, listMarked, parseTemplateMark, templateMarkText } from '../../db/server/marks.js';
import { latestVersion, migrateToLatest, type Migrations } from '../../db/shared/migrator.js';
import { demolishTemplate } from './demolish.js';
import type { PlacedProvisioner } from '../clusters/provisioners.js';

const PREFIX = 'tenantry_template_';
const BUILDING_PREFIX = 'tenantry_building_';

/** Whether the service uses such names for templates. A database with such a name is not adopted. */
export function isTemplateName(name: string): boolean {
  return name.startsWith(PREFIX) || name.startsWith(BUILDING_PREFIX);
}

/**
 * The template's name for a set of migrations and an owner. So a build never copies a template of another schema version, or of
 * another installation on the cluster.
 */
export function templateName(migrations: Migrations, owner: string): string {
  return nameFor(Object.keys(migrations).sort(), owner);
}

function nameFor(versions: readonly string[], owner: string): string {
  const stamp = createHash('sha256')
    .update(JSON.stringify([owner, ...versions]))
    .digest('hex');
  return PREFIX + stamp.slice(0, 16);
}

/**
 * Makes the template if it is missing. It is built under another name, and renamed when it is complete. So an existing template
 * is always complete, even if a process was killed. Two workers at once make one template.
 *
 * @returns whether a template was made
 */
export async function ensureTemplate(
  { cluster, inDatabase, role }: Pick<PlacedProvisioner, 'cluster' | 'inDatabase' | 'role'>,
  migrations: Migrations,
  installation: string,
): Promise<boolean> {
  const name = templateName(migrations, role);
  const exists = async (on: ClusterDb): Promise<boolean> => (await ownDatabases(on, name)).includes(name);
  if (await exists(cluster)) return false;
  return whileTemplatesLocked(cluster, async (locked) => {
    if (await exists(locked)) return false;
    const version = latestVersion(migrations);
    const building = BUILDING_PREFIX + randomBytes(8).toString('hex');
    const from = templateMarkText({ installation, state: 'building', version });
    await createClosedDatabase(locked, building, from);
    await inDatabase(building, (db) => migrateToLatest(db, migrations));
    const mark = templateMarkText({ installation, state: 'template', version });
    if (!(await sealTemplate(locked, building, { name, from, mark })))
      throw new Error('the template that was being built carries another mark');
    return true;
  });
}

/** Templates that are not this build's. */
export interface TemplatesFound {
  /** Versions of templates that a newer build made. These templates stay. */
  readonly newer: readonly string[];
  /** Older templates that could not be dropped, with the reason. */
  readonly left: readonly { readonly name: string; readonly why: string }[];
}

/**
 * Drops the templates of older schema versions, and unfinished templates. A replica of an older build can then make no tenant
 * with an old schema. Templates of a newer build stay.
 *
 * @param drops if false, only looks for newer templates
 */
export async function dropOutdatedTemplates(
  registry: Kysely<Registry>,
  provisioner: Pick<PlacedProvisioner, 'cluster' | 'role'>,
  migrations: Migrations,
  installation: string,
  drops: boolean,
): Promise<TemplatesFound> {
  const { cluster, role } = provisioner;
  const current = templateName(migrations, role);
  const latest = latestVersion(migrations);
  // This lock is also held while a template is built. So a half-built template found under the lock was left by a process that
  // died.
  return whileTemplatesLocked(cluster, async (locked) => {
    await markFormerTemplates(locked, migrations, role, installation);
    const found = { newer: new Array<string>(), left: new Array<{ name: string; why: string }>() };
    for (const { kind, name, text } of await listMarked(locked, installation)) {
      const mark = parseTemplateMark(text);
      if (kind !== 'database' || !mark || name === current) continue;
      if (mark.version > latest) {
        if (mark.state === 'template') found.newer.push(mark.version);
        continue;
      }
      if (!drops) continue;
      const why = await demolishTemplate(registry, { cluster: locked }, { name, text });
      if (why !== undefined) found.left.push({ name, why });
    }
    return found;
  });
}

/**
 * Marks templates that carry no mark, because a former build gave its templates none. The name proves such a template: it is a
 * hash of the owner and of migrations that this build knows. A database that is to become a template has no mark for a moment. It
 * is closed until it has a mark.
 */
async function markFormerTemplates(
  cluster: ClusterDb,
  migrations: Migrations,
  owner: string,
  installation: string,
): Promise<void> {
  const versions = Object.keys(migrations).sort();
  const marks = new Map(
    versions.map((version, index) => [
      nameFor(versions.slice(0, index + 1), owner),
      templateMarkText({ installation, state: 'template', version }),
    ]),
  );
  const building = templateMarkText({ installation, state: 'building', version: latestVersion(migrations) });
  for (const name of await ownDatabases(cluster, BUILDING_PREFIX)) marks.set(name, building);
  for (const { name, text, open } of await findMarks(cluster, [...marks.keys()])) {
    const to = marks.get(name);
    if (text === null && !open && to !== undefined) await changeMark(cluster, { database: name, from: [null], to });
  }
}
