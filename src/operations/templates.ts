// The template database: empty, migrated, closed to connections. New tenants' databases are copies of it, so that making a
// tenant runs no migration. A template is known by its mark; its name alone proves nothing.
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

/** Whether a name is one that the service gives to templates: a database of such a name is not adopted. */
export function isTemplateName(name: string): boolean {
  return name.startsWith(PREFIX) || name.startsWith(BUILDING_PREFIX);
}

/**
 * The template's name for a set of migrations and an owner: a build never copies a template that another schema version or
 * another installation of the cluster made.
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
 * Makes the template where it is missing. It is built under another name and renamed when it is complete, so that a
 * template that exists is a whole one, whenever the process was killed. Two at once make one.
 *
 * @returns whether one was made
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

/** What was found of templates that are not this build's. */
export interface TemplatesFound {
  /** Versions of templates that a newer build made: they are not touched. */
  readonly newer: readonly string[];
  /** Older templates that stay, with the reason. */
  readonly left: readonly { readonly name: string; readonly why: string }[];
}

/**
 * Drops the templates of older schema versions, and what was left of building one. A replica of an older build can then make
 * no tenant of an old schema. Templates of a newer build stay.
 *
 * @param drops false only looks for newer ones
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
  // The lock is held while a template is built: what is half built under it was left by a process that died.
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
 * Marks what carries no mark and is a template all the same. A former build gave its templates none: the name proves one, as a
 * hash of the owner and of migrations that this build knows. A database that was to become one has none for a moment; it is
 * closed until it has.
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
