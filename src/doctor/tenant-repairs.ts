// Repairs of one tenant. Each looks at the row again under the tenant's lock, can be repeated, and drops nothing.
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import { endTenantSessions, findTenant, recordSchema, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { setRolePassword } from '../../db/server/role-password.js';
import { scramVerifier } from '../../db/server/scram.js';
import { createRuntimeRole, setConnectionLimit } from '../../db/server/server-admin.js';
import { letConnect } from '../../db/server/tenant-facts.js';
import { listForeignObjects, takeObjects } from '../../db/server/content-rights.js';
import { findMarks, markText, parseMark } from '../../db/server/marks.js';
import { whileOpenToOwner } from '../../db/server/access.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { readMarker, writeMarker } from '../../db/tenant/marker.js';
import { grantRuntimeRights } from '../../db/tenant/tenant-grants.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import type { Kysely } from 'kysely';
import { auditAct } from '../audit/operator-act.js';
import { PlainError } from '../jobs/plain-words.js';
import { look, markOf } from '../operations/evidence.js';
import { migrateTenant } from '../rollouts/migrate-tenant.js';
import { limitsInForce, STANDARD_CONNECTIONS } from '../tenants/tenant-limits.js';
import { TENANT_SCRAM_ITERATIONS } from '../tenants/tenant-ids.js';
import type { DoctorCode } from './doctor-codes.js';
import type { DoctorRooms, ExaminedTenant } from './doctor-rooms.js';
import type { Repair } from './findings.js';

/** Longest wait (ms) for the statement that sets a password. */
const ALTER_DEADLINE = 8_000;

/** Attempts at setting a password while other workers change the role. */
const ATTEMPTS = 5;

/**
 * A repair of a tenant: audited, and notified to every replica afterwards.
 *
 * @param work gets the row as it is now
 */
export function tenantRepair(
  rooms: DoctorRooms,
  { tenant: { id, dbName } }: ExaminedTenant,
  code: DoctorCode,
  does: string,
  work: (tenant: TenantRecord, origin: AuditOrigin) => Promise<unknown>,
): Repair {
  const { registry } = rooms;
  return {
    does,
    async run(origin) {
      const tenant = await findTenant(registry, id);
      if (!tenant) throw new PlainError('the tenant has no row any more');
      const target = { kind: 'tenant', id } as const;
      const details = { code, database: dbName };
      await registry
        .transaction()
        .execute((trx) => auditAct(trx, { ...origin, action: 'doctor.repaired', target, tenantId: id, details }));
      await work(tenant, origin);
      await rooms.publish(id);
    },
  };
}

/** Opens or closes the database as its row says, and marks it. */
export async function followRow(rooms: DoctorRooms, tenant: TenantRecord): Promise<void> {
  const { left } = await rooms.locks.hold(tenant.id, () => rooms.doors.follow(tenant.id, true));
  if (left) throw left;
}

/**
 * Gives the row the status that the newer mark of its database shows. A tenant that was deleted since is suspended, so that it is
 * never purged without a person. Its sessions end, because the registry has forgotten which of them were ended.
 */
export async function followMark(
  rooms: DoctorRooms,
  { provisioner, installation }: ExaminedTenant,
  tenant: TenantRecord,
  origin: AuditOrigin,
): Promise<void> {
  const { id, status } = tenant;
  const seen = await look(provisioner, tenant, installation);
  const state = seen?.verdict === 'newer' ? parseMark(seen.found.text)?.state : undefined;
  if (state === undefined) return;
  if (state === 'dropping') throw new PlainError('its database is being dropped: restore it from a backup');
  const isOpen = state === 'tenant' || state === 'adopted';
  await endTenantSessions(rooms.registry, id);
  if (status === 'deleted' && state === 'deleted') return followRow(rooms, tenant);
  const now = status === 'deleted' ? await rooms.lifecycle.restore(id, origin) : tenant;
  if ((now.status === 'active') === isOpen) return followRow(rooms, now);
  await (isOpen ? rooms.lifecycle.resume(id, origin) : rooms.lifecycle.suspend(id, origin));
}

/** Makes the role with the stored password. */
export async function makeRole(
  rooms: DoctorRooms,
  { provisioner: { cluster }, installation }: ExaminedTenant,
  tenant: TenantRecord,
): Promise<void> {
  const { dbName, dbUser: name, status } = tenant;
  const verifier = await scramVerifier(storedPassword(rooms, tenant), TENANT_SCRAM_ITERATIONS);
  const mark = tenant.claim === null ? {} : { mark: markText(markOf(tenant, installation)) };
  await createRuntimeRole(cluster, { name, verifier, connectionLimit: connectionLimitOf(rooms, tenant), ...mark });
  if (status === 'active') await letConnect(cluster, dbName, name);
}

/** Gives the role the stored password. */
export async function giveStoredPassword(
  rooms: DoctorRooms,
  { provisioner: { cluster } }: ExaminedTenant,
  { id, dbUser: name }: TenantRecord,
): Promise<void> {
  for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
    const tenant = await findTenant(rooms.registry, id);
    if (!tenant) return;
    const verifier = await scramVerifier(storedPassword(rooms, tenant), TENANT_SCRAM_ITERATIONS);
    const isSame = async (): Promise<boolean> => {
      const now = await findTenant(rooms.registry, id);
      return now?.dbPassword === tenant.dbPassword && now.nextDbPassword === tenant.nextDbPassword;
    };
    if (await setRolePassword(cluster, { name, verifier }, ALTER_DEADLINE, isSame)) return;
  }
  throw new PlainError('other workers kept changing the password');
}

/** @throws PlainError if no key of this process decrypts it */
export function storedPassword({ envelope }: DoctorRooms, tenant: TenantRecord): string {
  const { id, dbHost: host, dbPort: port, dbUser: user, dbPassword, nextDbPassword } = tenant;
  try {
    return envelope.open(nextDbPassword ?? dbPassword, { id, host, port, user });
  } catch (error) {
    throw new PlainError('its stored password does not decrypt', { cause: error });
  }
}

export function connectionLimitOf({ limits }: DoctorRooms, tenant: Pick<TenantRecord, 'limits'>): number {
  return limitsInForce(tenant.limits, limits).connections ?? STANDARD_CONNECTIONS;
}

export async function limitRole(
  rooms: DoctorRooms,
  { provisioner }: ExaminedTenant,
  tenant: TenantRecord,
): Promise<void> {
  await setConnectionLimit(provisioner.cluster, tenant.dbUser, connectionLimitOf(rooms, tenant));
}

/** Makes the provisioner the owner of everything in the database. */
export async function takeAll(db: Kysely<TenantDatabase>): Promise<void> {
  await takeObjects(db, await listForeignObjects(db));
}

/** Writes the marker into a database whose mark agrees with the row. */
export async function markInside(rooms: DoctorRooms, examined: ExaminedTenant, tenant: TenantRecord): Promise<void> {
  const seen = await look(examined.provisioner, tenant, examined.installation);
  if (seen?.verdict !== 'agrees') throw new PlainError('its database does not carry its mark');
  await enterTenant(rooms, examined, tenant, async (db) => {
    if (await readMarker(db)) return;
    await writeMarker(db, tenant.id, tenant.claim);
  });
}

export async function grantRights(rooms: DoctorRooms, examined: ExaminedTenant, tenant: TenantRecord): Promise<void> {
  await enterTenant(rooms, examined, tenant, (db) => grantRuntimeRights(db, tenant.dbUser));
}

/** Brings the database to this build's schema, also if the row says that it has that schema. */
export async function migrate(rooms: DoctorRooms, examined: ExaminedTenant, tenant: TenantRecord): Promise<void> {
  const { registry, locks } = rooms;
  const { installation, provisioner } = examined;
  const deps = { registry, locks, installation, migrations: tenantMigrations };
  const migrated = await migrateTenant(deps, { ...provisioner, atOnce: 1 }, tenant, {});
  const version = latestVersion(tenantMigrations);
  if (migrated.state === 'migrated') await recordSchema(registry, tenant.id, { version, renews: migrated.renews });
}

/**
 * Works in a tenant's database as its owner. A database that its tenant's status keeps closed is opened to the owner meanwhile, under
 * the tenant's lock.
 */
export async function enterTenant<T>(
  { registry, locks }: Pick<DoctorRooms, 'registry' | 'locks'>,
  { provisioner: { cluster, inDatabase } }: ExaminedTenant,
  { id, dbName }: Pick<TenantRecord, 'id' | 'dbName'>,
  work: (db: Kysely<TenantDatabase>) => Promise<T>,
): Promise<T> {
  const row = await findTenant(registry, id);
  if (row?.status === 'active') return inDatabase(dbName, work);
  return locks.hold(id, async () => {
    const now = await findTenant(registry, id);
    const seen = now && now.status !== 'active' && (await isDatabaseOpen(cluster, dbName)) === false;
    return seen ? whileOpenToOwner(cluster, dbName, () => inDatabase(dbName, work)) : inDatabase(dbName, work);
  });
}

async function isDatabaseOpen(
  cluster: ExaminedTenant['provisioner']['cluster'],
  name: string,
): Promise<boolean | undefined> {
  const [found] = await findMarks(cluster, [name]);
  return found?.open;
}
