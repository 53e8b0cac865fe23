// Demolition: the only code that drops a database or a role. It drops a database only if the database carries one of the caller's
// marks (the grounds) and no other row of the registry names it. Every other database stays as it is.
import type { Kysely } from 'kysely';
import { databasesWithRightsOf, letGo } from '../../db/server/adoption-checks.js';
import { endGuestSessions, lockGuestRole, type GuestRole } from '../../db/server/guest-roles.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { isNamed } from '../../db/registry/named.js';
import { endStatementsOn } from '../../db/server/server-admin.js';
import { dropDatabase, dropRole } from '../../db/server/demolition.js';
import { changeMark, findMarks, findRoleMarks, markText, parseMark } from '../../db/server/marks.js';
import { isOwnName } from '../tenants/tenant-ids.js';
import type { Place, PlacedProvisioner } from '../clusters/provisioners.js';

/** A database of a tenant or standby database, or a database that is being made or adopted, with its role. */
export interface Doomed {
  readonly place: Place;
  /** The id of the tenant or of the standby database. */
  readonly id: string;
  /** The database's name. */
  readonly name: string;
  readonly role: string;
  /** The marks that allow the drop. */
  readonly grounds: readonly string[];
}

/** The reason why a database was not dropped; undefined if the database is gone or never existed. */
export type Left = string | undefined;

/**
 * Drops a database and its role, under the tenant's lock. First the mark becomes `dropping`, by compare and set: DROP DATABASE
 * cannot have a condition, and a lock is free when its connection is lost. A repeated call continues at the step that failed.
 *
 * @param installation the registry's own id
 * @returns why the database was left, as a part of a sentence
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

/** The decision about a database. */
export type Fate = 'condemned' | 'absent' | { readonly left: string };

/** Attempts, because the mark can change between reading and writing it. */
const LOOKS = 3;

/**
 * Decides that a database is dropped, and marks it `dropping`. From then on the database cannot be claimed, activated or opened.
 *
 * @returns `absent` if there is no such database; otherwise why it was left, as a part of a sentence
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
      // A statement that a process sent before it died may still run, and make the database.
      await endStatementsOn(cluster, name);
      [found] = await findMarks(cluster, [name]);
    }
    if (!found) return 'absent';
    if (!found.owned) return { left: 'it belongs to another role' };
    if (await isNamed(registry, { name, place, otherThan: id }))
      return { left: 'another row of the registry names it' };
    // Between CREATE DATABASE and its mark the database is closed, and its role already carries the mark.
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

/** Drops the role of a database that is gone or released, if the role carries this tenant's mark or no mark. */
export async function dismiss(
  provisioner: PlacedProvisioner,
  { id, role }: Pick<Doomed, 'id' | 'role'>,
): Promise<void> {
  const { cluster, inDatabase } = provisioner;
  const [found] = await findRoleMarks(cluster, [role]);
  if (!found) return;
  if (found.text !== null && parseMark(found.text)?.id !== id) return;
  // A role that has rights anywhere cannot be dropped, and an interrupted adoption leaves rights.
  for (const database of await databasesWithRightsOf(cluster, role))
    await inDatabase(database, (db) => letGo(db, role, id));
  await dropRole(cluster, role);
}

/**
 * Drops a guest of `tenantry each`: no session of it is left, and no right. Repeat it after a failure.
 *
 * @param whileOpen runs `work` while the database can be entered: a database of the guest may be closed
 */
export async function dropGuest(
  { cluster, inDatabase }: Pick<PlacedProvisioner, 'cluster' | 'inDatabase'>,
  { name, run }: GuestRole,
  whileOpen: (database: string, work: () => Promise<void>) => Promise<void>,
): Promise<void> {
  await lockGuestRole(cluster, name);
  await endGuestSessions(cluster, name);
  for (const database of await databasesWithRightsOf(cluster, name))
    await whileOpen(database, () => inDatabase(database, (db) => letGo(db, name, run)));
  await dropRole(cluster, name);
}

/**
 * Drops a template, or a database that was to become a template.
 *
 * @param template.text the mark that was found
 * @returns why the template was left; undefined if it is gone
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
