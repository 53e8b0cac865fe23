// Databases and roles with a mark of this installation that no row names. A row that was lost with a restored registry is made again
// from the mark and from what is inside the database.
import type { Kysely } from 'kysely';
import { findClusterAt } from '../../db/registry/cluster-queries.js';
import { insertLostTenant } from '../../db/registry/fleet/doctor-queries.js';
import { knownDatabaseNames } from '../../db/registry/named.js';
import { whileOpenToOwner } from '../../db/server/access.js';
import {
  findMarks,
  findRoleMarks,
  listMarkedPage,
  parseMark,
  type Mark,
  type MarkedThing,
} from '../../db/server/marks.js';
import { setRolePassword } from '../../db/server/role-password.js';
import { scramVerifier } from '../../db/server/scram.js';
import { createRuntimeRole } from '../../db/server/server-admin.js';
import { historyOf } from '../../db/shared/migrator.js';
import { readMarker } from '../../db/tenant/marker.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { NEWEST_SILENT_SCHEMA } from '../../db/tenant/served-schemas.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import { auditAct } from '../audit/operator-act.js';
import { PlainError } from '../jobs/plain-words.js';
import { newDatabaseName, newDatabasePassword, TENANT_SCRAM_ITERATIONS } from '../tenants/tenant-ids.js';
import { STANDARD_CONNECTIONS } from '../tenants/tenant-limits.js';
import type { DoctorRooms, ExaminedServer } from './doctor-rooms.js';
import { finding, type Finding } from './findings.js';

/** Marked databases, or roles, of one question. */
const PAGE = 500;

/** States of a mark in which a database holds data of a tenant. */
const HOLDING: readonly Mark['state'][] = ['tenant', 'adopted', 'suspended', 'deleted'];

/** Longest run (ms) of the statement that sets a password. */
const ALTER_DEADLINE = 8_000;

/** The databases and roles of a server that carry a mark of this installation, and that no row names. @throws DatabaseFault */
export async function examineUnnamed(rooms: DoctorRooms, server: ExaminedServer): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const kind of ['database', 'role'] as const) {
    let after: string | undefined = '';
    while (after !== undefined) {
      const page = await listMarkedPage(server.provisioner.cluster, server.installation, kind, after, PAGE);
      // After the server was asked: a row is written before its database is made, and removed after its database is dropped.
      const known = await knownDatabaseNames(
        rooms.registry,
        page.things.map(({ name }) => name),
      );
      for (const thing of page.things) if (!known.has(thing.name)) findings.push(...judge(rooms, server, thing));
      after = page.last;
    }
  }
  return findings;
}

function judge(rooms: DoctorRooms, server: ExaminedServer, { kind, name, text }: MarkedThing): Finding[] {
  const { place } = server;
  const mark = parseMark(text);
  if (!mark) return [];
  const found = `The ${kind} "${name}" carries the mark "${text}".`;
  if (kind === 'role') return [finding('role-left', { place, database: name }, found)];
  if (!HOLDING.includes(mark.state)) return [finding('database-left', { place, database: name }, found)];
  const repair = {
    does: `makes the row of the tenant ${mark.id} again, suspended, with the slug ${slugOf(mark.id)}`,
    run: (origin: AuditOrigin) => recover(rooms, server, name, mark.id, origin),
  };
  return [finding('database-unnamed', { place, database: name }, found, { repair })];
}

/** The slug of a recovered tenant, until a person gives it its own. */
function slugOf(id: string): string {
  return `recovered-${id.slice(-12)}`;
}

/**
 * Makes the row again. The role gets a new password first: without a row nothing signs in with the old one. Until the row is there,
 * this can be repeated; then the row names the database.
 */
async function recover(
  rooms: DoctorRooms,
  server: ExaminedServer,
  dbName: string,
  id: string,
  origin: AuditOrigin,
): Promise<void> {
  const { registry } = rooms;
  await rooms.locks.hold(id, async () => {
    const { place, provisioner } = server;
    const { cluster } = provisioner;
    if ((await knownDatabaseNames(registry, [dbName])).has(dbName)) return;
    const [found] = await findMarks(cluster, [dbName]);
    const mark = parseMark(found?.text ?? null);
    if (!found?.owned || mark?.id !== id || !HOLDING.includes(mark.state))
      throw new PlainError('the database carries another mark by now');
    const row = await findClusterAt(registry, place.host, place.port);
    if (!row) throw new PlainError('its server is not registered as a cluster');
    const readInside = (): ReturnType<typeof inside> => provisioner.inDatabase(dbName, inside);
    const content = await (found.open ? readInside() : whileOpenToOwner(cluster, dbName, readInside));
    if (content.tenantId !== id) throw new PlainError('the marker inside the database names another tenant, or none');
    const dbUser = await roleOf(server, dbName, id);
    const password = newDatabasePassword();
    const { host: dbHost, port: dbPort } = place;
    const sealed = rooms.envelope.seal(password, { id, host: dbHost, port: dbPort, user: dbUser });
    const verifier = await scramVerifier(password, TENANT_SCRAM_ITERATIONS);
    const isThere = (await findRoleMarks(cluster, [dbUser])).length > 0;
    if (!isThere)
      await createRuntimeRole(cluster, {
        name: dbUser,
        verifier,
        connectionLimit: STANDARD_CONNECTIONS,
        mark: found.text ?? '',
      });
    else if (!(await setRolePassword(cluster, { name: dbUser, verifier }, ALTER_DEADLINE, () => Promise.resolve(true))))
      throw new PlainError('another worker changes its role');
    const slug = slugOf(id);
    await registry.transaction().execute(async (trx) => {
      const made = await insertLostTenant(trx, {
        ...{ id, slug, name: `Recovered ${id.slice(-12)}`, clusterId: row.id, dbHost, dbPort, dbName, dbUser },
        dbPassword: sealed,
        claim: mark.claim ?? content.claim ?? id,
        // Higher than the mark's, so that the mark follows the row.
        generation: mark.generation + 1,
        schemaVersion: content.schemaVersion,
      });
      if (!made) throw new PlainError(`the tenant, or its slug ${slug}, has a row`);
      const target = { kind: 'tenant', id } as const;
      const details = { code: 'database-unnamed', database: dbName };
      await auditAct(trx, { ...origin, action: 'doctor.repaired', target, tenantId: id, details });
    });
    await rooms.doors.follow(id, true);
  });
  await rooms.publish(id);
}

/** The name of the tenant's role. It is that of the database, unless the database was adopted. */
async function roleOf({ provisioner, installation }: ExaminedServer, dbName: string, id: string): Promise<string> {
  if ((await findRoleMarks(provisioner.cluster, [dbName])).length > 0) return dbName;
  let after: string | undefined = '';
  while (after !== undefined) {
    const page = await listMarkedPage(provisioner.cluster, installation, 'role', after, PAGE);
    const own = page.things.find(({ text }) => parseMark(text)?.id === id);
    if (own) return own.name;
    after = page.last;
  }
  return newDatabaseName();
}

async function inside(
  db: Kysely<TenantDatabase>,
): Promise<{ tenantId: string | undefined; claim: string | null | undefined; schemaVersion: string }> {
  const marker = await readMarker(db);
  const { pending, newer } = await historyOf(db, tenantMigrations);
  const ran = Object.keys(tenantMigrations).filter((name) => !pending.includes(name));
  const schemaVersion = newer.at(-1) ?? ran.sort().at(-1) ?? NEWEST_SILENT_SCHEMA;
  return { tenantId: marker?.tenantId, claim: marker?.claim, schemaVersion };
}
