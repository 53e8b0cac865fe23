// Templates of older schema versions, and templates that were never finished. Everything here runs under the lock of the server's
// templates, which each builder holds. So a half-built template that is found under the lock was left by a worker that is gone.
import type { Kysely } from 'kysely';
import type { Registry } from '../../../db/registry/registry-schema.js';
import { ownDatabases, type ClusterDb } from '../../../db/server/server-admin.js';
import { findCopyObstacle, whileTemplatesLocked } from '../../../db/server/templates.js';
import { wasAnswered } from '../../../db/driver/database-fault.js';
import { changeMark, findMarks, listMarked, parseTemplateMark, templateMarkText } from '../../../db/server/marks.js';
import { latestVersion, type Migrations } from '../../../db/shared/migrator.js';
import type { PlacedProvisioner } from '../../clusters/provisioners.js';
import { inPlainWords, PlainError } from '../../jobs/plain-words.js';
import { demolishTemplate } from '../demolish.js';
import { BUILDING_PREFIX, nameForVersions, templateName } from './template-names.js';

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
 */
export async function dropOutdatedTemplates(
  registry: Kysely<Registry>,
  provisioner: Pick<PlacedProvisioner, 'cluster' | 'role'>,
  migrations: Migrations,
  installation: string,
): Promise<TemplatesFound> {
  const { cluster, role } = provisioner;
  const current = templateName(migrations, role);
  const latest = latestVersion(migrations);
  return whileTemplatesLocked(cluster, async (locked) => {
    await markFormerTemplates(locked, migrations, role, installation);
    await markHalfBuilt(locked, latest, installation);
    const found = { newer: new Array<string>(), left: new Array<{ name: string; why: string }>() };
    for (const { kind, name, text } of await listMarked(locked, installation)) {
      const mark = parseTemplateMark(text);
      if (kind !== 'database' || !mark || name === current) continue;
      if (mark.version > latest) {
        if (mark.state === 'template') found.newer.push(mark.version);
        continue;
      }
      const why = await demolishTemplate(registry, { cluster: locked }, { name, text }).catch((error: unknown) => {
        // For example, a session is in it.
        if (!wasAnswered(error)) throw error;
        return inPlainWords(error);
      });
      if (why !== undefined) found.left.push({ name, why });
    }
    return found;
  });
}

/**
 * Drops the half-built templates of this installation, except those of a newer schema version. A template stays that a row of the
 * registry names, or that PostgreSQL refuses to drop.
 *
 * @param locked the connection that holds the lock of the server's templates
 * @param build.latest the newest migration of this build
 */
export async function dropHalfBuilt(
  registry: Kysely<Registry>,
  locked: ClusterDb,
  { latest, installation }: { readonly latest: string; readonly installation: string },
): Promise<void> {
  await markHalfBuilt(locked, latest, installation);
  for (const { name, owned, text } of await findMarks(locked, await ownDatabases(locked, BUILDING_PREFIX))) {
    const mark = parseTemplateMark(text);
    if (!owned || text === null || mark?.installation !== installation) continue;
    if (mark.state !== 'building' || mark.version > latest) continue;
    await demolishTemplate(registry, { cluster: locked }, { name, text }).catch((error: unknown) => {
      // For example, a superuser is connected to it. The other databases do not depend on it, and the next call tries again.
      if (!wasAnswered(error)) throw error;
    });
  }
}

/**
 * Drops a template that PostgreSQL refuses to copy. A template is empty, so making it again loses nothing.
 *
 * @throws Error if it is not a template of this installation, or a row of the registry names it
 */
export async function dropUnusable(
  registry: Kysely<Registry>,
  locked: ClusterDb,
  { name, installation }: { readonly name: string; readonly installation: string },
): Promise<void> {
  if ((await findCopyObstacle(locked, name))?.kind !== 'collation') return;
  const [found] = await findMarks(locked, [name]);
  const mark = parseTemplateMark(found?.text ?? '');
  if (!found?.text || mark?.installation !== installation || mark.state !== 'template')
    throw new PlainError('the template carries the mark of another installation, or none');
  const why = await demolishTemplate(registry, { cluster: locked }, { name, text: found.text });
  if (why !== undefined) throw new PlainError(`the template cannot be dropped: ${why}`);
}

/**
 * Marks half-built templates that carry no mark. CREATE DATABASE makes a database without a mark, which is closed until the next
 * statement marks it.
 */
async function markHalfBuilt(locked: ClusterDb, latest: string, installation: string): Promise<void> {
  const to = templateMarkText({ installation, state: 'building', version: latest });
  for (const { name, text, open } of await findMarks(locked, await ownDatabases(locked, BUILDING_PREFIX)))
    if (text === null && !open) await changeMark(locked, { database: name, from: [null], to });
}

/**
 * Marks templates that carry no mark, because a former build gave its templates none. The name proves such a template: it is a
 * hash of the owner and of migrations that this build knows.
 */
async function markFormerTemplates(
  locked: ClusterDb,
  migrations: Migrations,
  owner: string,
  installation: string,
): Promise<void> {
  const versions = Object.keys(migrations).sort();
  const marks = new Map(
    versions.map((version, index) => [
      nameForVersions(versions.slice(0, index + 1), owner),
      templateMarkText({ installation, state: 'template', version }),
    ]),
  );
  for (const { name, text, open } of await findMarks(locked, [...marks.keys()])) {
    const to = marks.get(name);
    if (text === null && !open && to !== undefined) await changeMark(locked, { database: name, from: [null], to });
  }
}
