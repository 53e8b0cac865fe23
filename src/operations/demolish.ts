// Demolishing: the only code that drops a database or a role. It drops what carries one of the marks that the caller has as
// grounds, and what no other row of the registry names; everything else it leaves as it is.
import type { Kysely } from 'kysely';
import { databasesWithRightsOf, letGo } from '../../db/server/adoption-checks.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { isNamed } from '../../db/registry/named.js';
import { endStatementsOn } from '../../db/server/server-admin.js';
import { dropDatabase, dropRole } from '../../db/server/demolition.js';
import { changeMark, findMarks, findRoleMarks, markText, parseMark } from '../../db/server/marks.js';
import { isOwnName } from '../tenants/tenant-ids.js';
import type { Place, PlacedProvisioner } from '../clusters/provisioners.js';

/** A database that was made for a tenant, or is to become one's, with its role. */
export interface Doomed {
  readonly place: Place;
  /** Of the tenant, or of the standby database. */
  readonly id: string;
  /** The database's name. */
  readonly name: string;
  readonly role: string;
  /** The marks with which it may be dropped. */
  readonly grounds: readonly string[];
}

/** Why a database was not dropped; undefined when it is gone, or was never there. */
export type Left = string | undefined;

/**
 * Drops a database and its role, under the tenant's lock. First its mark becomes `dropping`, by compare and set: DROP DATABASE
 * itself cannot have a condition, and a lock whose connection is lost is free. Repeating it goes on where it stopped.
 *
 * @param installation the registry's own id
 * @returns why it was left, as a part of a sentence
 */
export async function demolish(
  registry: Kysely<Registry>,
  provisioner: PlacedProvisioner,
  doomed: Doomed,
  installation: string,
): Promise<Left> {
  const fate = await condemn(registry, provisioner, doomed, installation);
  if (typeof fate === 'object') return fate.left;
  if (fate === 'condemned') {
    if (isOwnName(doomed.name)) await endStatementsOn(provisioner.cluster, doomed.name);
    await dropDatabase(provisioner.cluster, doomed.name);
  }
  await dismiss(provisioner, doomed);
  return undefined;
}

/** What was decided about a database. */
export type Fate = 'condemned' | 'absent' | { readonly left: string };

/** Looks again when the mark changed between two looks. */
const LOOKS = 3;

/**
 * Decides that a database is dropped: marks it `dropping`. From then on it cannot be claimed, activated or opened.
 *
 * @returns `absent` when there is no such database; why it was left, as a part of a sentence
 */
export async function condemn(
  registry: Kysely<Registry>,
  { cluster }: Pick<PlacedProvisioner, 'cluster'>,
  { place, id, name, grounds }: Doomed,
  installation: string,
): Promise<Fate> {
  for (let looks = 0; looks < LOOKS; looks += 1) {
    let [found] = await findMarks(cluster, [name]);
    if (!found && isOwnName(name)) {
      // What a process sent before it died may still run, and make the database.
      await endStatementsOn(cluster, name);
      [found] = await findMarks(cluster, [name]);
    }
    if (!found) return 'absent';
    if (!found.owned) return { left: 'it belongs to another role' };
    if (await isNamed(registry, { name, place, otherThan: id }))
      return { left: 'another row of the registry names it' };
    // Between CREATE DATABASE and its mark it is closed, and its role has the mark already.
    const evidence = found.text ?? (found.open ? null : found.roleText);
    if (evidence === null) return { left: 'it carries no mark' };
    if (!grounds.includes(evidence)) return { left: `it carries the mark "${evidence}"` };
    const { claim = null, generation = 0 } = parseMark(evidence) ?? {};
    const dropping = markText({ installation, id, state: 'dropping', claim, generation });
    if (evidence === dropping) return 'condemned';
    if (await changeMark(cluster, { database: name, from: [found.text], to: dropping })) return 'condemned';
  }
  return { left: 'its mark keeps changing' };
}

/** Drops the role of a database that is gone or was let go of, when the role's mark is this tenant's, or it has none. */
export async function dismiss(
  provisioner: PlacedProvisioner,
  { id, role }: Pick<Doomed, 'id' | 'role'>,
): Promise<void> {
  const { cluster, inDatabase } = provisioner;
  const [found] = await findRoleMarks(cluster, [role]);
  if (!found) return;
  if (found.text !== null && parseMark(found.text)?.id !== id) return;
  // A role that has rights anywhere cannot be dropped: an adoption that was cut short has left some.
  for (const database of await databasesWithRightsOf(cluster, role))
    await inDatabase(database, (db) => letGo(db, role, id));
  await dropRole(cluster, role);
}

/**
 * Drops a template, or a database that was to become one.
 *
 * @param template.text the mark that it was found with
 * @returns why it was left; undefined when it is gone
 */
export async function demolishTemplate(
  registry: Kysely<Registry>,
  { cluster }: Pick<PlacedProvisioner, 'cluster'>,
  { name, text }: { readonly name: string; readonly text: string },
): Promise<Left> {
  if (await isNamed(registry, { name })) return 'a row of the registry names it';
  if (!(await changeMark(cluster, { database: name, from: [text], to: text }))) return 'its mark changed';
  await dropDatabase(cluster, name);
  return undefined;
}
