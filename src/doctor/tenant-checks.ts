// What the doctor finds about a tenant without entering its database: whether row, database, mark and role agree, and who may
// connect.
import { findTenant, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { boundRuntimeRoles, unboundedRoles } from '../../db/server/server-admin.js';
import {
  closeToPublic,
  findTenantFacts,
  letConnect,
  renewRole,
  type DatabaseFacts,
  type RoleFacts,
  type TenantFacts,
} from '../../db/server/tenant-facts.js';
import { parseMark } from '../../db/server/marks.js';
import { compare } from '../operations/evidence.js';
import { wantedDoor } from '../operations/doors/open-close.js';
import type { DoctorCode } from './doctor-codes.js';
import type { DoctorRooms, ExaminedServer, ExaminedTenant } from './doctor-rooms.js';
import { finding, someOf, type Finding, type Repair } from './findings.js';
import { connectionLimitOf, followMark, followRow, limitRole, makeRole, tenantRepair } from './tenant-repairs.js';

export interface OutsideFindings {
  readonly findings: readonly Finding[];
  /** Whether the database may be entered: it belongs to the provisioner, and its mark does not speak against the tenant. */
  readonly enters: boolean;
  /** Whether the tenant's role exists, and has no rights from elsewhere. Then its rights in the database can be compared. */
  readonly hasRole: boolean;
}

/** Attributes that only a superuser can take away. */
const OF_SUPERUSERS = ['SUPERUSER', 'REPLICATION', 'BYPASSRLS'];

/** Examines some tenants of a server. A tenant whose row was changed meanwhile is looked at once more. @throws DatabaseFault */
export async function examineOutside(
  rooms: DoctorRooms,
  server: ExaminedServer,
  tenants: readonly TenantRecord[],
): Promise<ReadonlyMap<string, OutsideFindings>> {
  const judged = await judgeAll(rooms, server, tenants);
  const suspects = tenants.filter(({ id }) => (judged.get(id)?.findings.length ?? 0) > 0);
  // The rows were read before the server was asked: an act may have ended in between.
  const again: TenantRecord[] = [];
  for (const { id } of suspects) {
    const now = await findTenant(rooms.registry, id);
    if (now && wantedDoor(now)) again.push(now);
    else judged.set(id, { findings: [], enters: false, hasRole: false });
  }
  return new Map([...judged, ...(await judgeAll(rooms, server, again))]);
}

async function judgeAll(
  rooms: DoctorRooms,
  server: ExaminedServer,
  tenants: readonly TenantRecord[],
): Promise<Map<string, OutsideFindings>> {
  if (tenants.length === 0) return new Map();
  const { cluster } = server.provisioner;
  const sought = tenants.map(({ dbName: database, dbUser: role }) => ({ database, role }));
  const facts = await findTenantFacts(cluster, sought);
  const unbounded = await unboundedRoles(
    cluster,
    sought.map(({ role }) => role),
  );
  return new Map(
    tenants.map((tenant) => {
      const known = facts.get(tenant.dbName) ?? { database: undefined, role: undefined };
      return [tenant.id, judge(rooms, { ...server, tenant }, known, unbounded)];
    }),
  );
}

function judge(
  rooms: DoctorRooms,
  examined: ExaminedTenant,
  { database, role }: TenantFacts,
  unbounded: ReadonlySet<string>,
): OutsideFindings {
  const { tenant, provisioner } = examined;
  const { dbName } = tenant;
  const hasRole = role !== undefined && !role.excess.includes('SUPERUSER') && role.memberOf.length === 0;
  const only = (found: Finding): OutsideFindings => ({ findings: [found], enters: false, hasRole });
  if (!database) return only(finding('database-missing', { tenant }, `The server has no database "${dbName}".`));
  if (!database.owned) {
    const statement = `ALTER DATABASE ${quoted(dbName)} OWNER TO ${quoted(provisioner.role)};`;
    return only(
      finding('database-not-ours', { tenant }, `The database belongs to the role "${database.owner}".`, {
        todo: `As a superuser, run: ${statement} Then run tenantry doctor --repair.`,
      }),
    );
  }
  const marks = judgeMark(rooms, examined, database);
  if (marks === 'left') return only(foreign(examined, database));
  return {
    // The role first: a database is opened to it.
    findings: [
      ...judgeRole(rooms, examined, role, unbounded),
      ...marks,
      ...judgeAccess(rooms, examined, database, role !== undefined && marks.length === 0),
    ],
    enters: !marks.some(({ code }) => code === 'registry-older') && (database.open || wantedDoor(tenant) === 'closed'),
    hasRole,
  };
}

/** @returns `left` if the mark names another tenant */
function judgeMark(rooms: DoctorRooms, examined: ExaminedTenant, database: DatabaseFacts): readonly Finding[] | 'left' {
  const { tenant, installation } = examined;
  const wanted = wantedDoor(tenant);
  const verdict = compare(tenant, database, installation);
  const repair = (code: DoctorCode, does: string): { repair: Repair } => ({
    repair: tenantRepair(rooms, examined, code, does, (now) => followRow(rooms, now)),
  });
  const state = wanted === 'open' ? 'opens the database and marks it' : 'closes the database and marks it';
  if (verdict === 'foreign') return 'left';
  if (verdict === 'newer') {
    const later = parseMark(database.text)?.state ?? 'unknown';
    const code = 'registry-older';
    const found = `The row says that the tenant is ${tenant.status}, and the later mark of the database says "${later}".`;
    if (later === 'dropping')
      return [
        finding(code, { tenant }, found, {
          todo: 'Its purge has begun. Restore the database from a backup if the tenant is still needed.',
        }),
      ];
    const does = 'gives the tenant the status that its database shows, and ends its sessions';
    const work = tenantRepair(rooms, examined, code, does, (now, origin) => followMark(rooms, examined, now, origin));
    return [finding(code, { tenant }, found, { repair: work })];
  }
  if (verdict === 'unmarked')
    return [finding('mark-missing', { tenant }, 'The database carries no mark.', repair('mark-missing', state))];
  if (verdict === 'former' || verdict === 'older') {
    const found = `The database carries the mark "${database.text ?? ''}".`;
    return [finding('mark-outdated', { tenant }, found, repair('mark-outdated', state))];
  }
  if (database.open === (wanted === 'open')) return [];
  const found = `The tenant is ${tenant.status}, and its database is ${database.open ? 'open' : 'closed'}.`;
  return [finding('door-wrong', { tenant }, found, repair('door-wrong', state))];
}

function foreign({ tenant }: ExaminedTenant, { text }: DatabaseFacts): Finding {
  return finding('database-foreign', { tenant }, `The database carries the mark "${text ?? ''}".`);
}

function judgeAccess(
  rooms: DoctorRooms,
  examined: ExaminedTenant,
  { publicRights, mayConnect }: DatabaseFacts,
  expectsConnect: boolean,
): Finding[] {
  const { tenant, provisioner } = examined;
  const { cluster } = provisioner;
  const { dbName, dbUser } = tenant;
  const findings: Finding[] = [];
  if (publicRights.length > 0) {
    const code = 'public-may-connect';
    const repair = tenantRepair(rooms, examined, code, 'revokes the rights of PUBLIC on the database', () =>
      closeToPublic(cluster, dbName),
    );
    findings.push(finding(code, { tenant }, `PUBLIC has ${publicRights.join(', ')} on the database.`, { repair }));
  }
  // What is found of the role or the mark has the right to connect in its repair.
  if (!mayConnect && expectsConnect && wantedDoor(tenant) === 'open') {
    const code = 'connect-missing';
    const repair = tenantRepair(rooms, examined, code, "lets the tenant's role connect", () =>
      letConnect(cluster, dbName, dbUser),
    );
    findings.push(finding(code, { tenant }, `The role "${dbUser}" may not connect to the database.`, { repair }));
  }
  return findings;
}

function judgeRole(
  rooms: DoctorRooms,
  examined: ExaminedTenant,
  role: RoleFacts | undefined,
  unbounded: ReadonlySet<string>,
): Finding[] {
  const { tenant, provisioner } = examined;
  const { cluster } = provisioner;
  const { dbUser: name } = tenant;
  const mend = (code: DoctorCode, does: string, work: (now: TenantRecord) => Promise<unknown>): { repair: Repair } => ({
    repair: tenantRepair(rooms, examined, code, does, work),
  });
  if (!role) {
    const repair = mend('role-missing', 'makes the role with the stored password', (now) =>
      makeRole(rooms, examined, now),
    );
    return [finding('role-missing', { tenant }, `The server has no role "${name}".`, repair)];
  }
  const findings: Finding[] = [];
  const bySuperuser = OF_SUPERUSERS.filter((attribute) => role.excess.includes(attribute));
  if (!role.mayAlter || bySuperuser.length > 0) {
    const removed = bySuperuser.map((attribute) => ` ALTER ROLE ${quoted(name)} NO${attribute};`).join('');
    const granted = role.mayAlter ? '' : ` GRANT ${quoted(name)} TO ${quoted(provisioner.role)} WITH ADMIN OPTION;`;
    const found = role.mayAlter
      ? `The role "${name}" is ${bySuperuser.join(', ')}.`
      : `The provisioner may not change the role "${name}".`;
    return [
      finding('role-not-ours', { tenant }, found, {
        todo: `As a superuser, run:${removed}${granted} Then run tenantry doctor --repair.`,
      }),
    ];
  }
  const faults = [
    ...role.excess,
    ...(role.canLogin ? [] : ['NOLOGIN']),
    ...(role.isMember ? [] : ['out of the provisioner’s reach']),
  ];
  if (faults.length > 0)
    findings.push(
      finding(
        'role-wrong',
        { tenant },
        `The role "${name}" is ${faults.join(', ')}.`,
        mend('role-wrong', 'gives the role the attributes that it is made with', () =>
          renewRole(cluster, name, role.excess),
        ),
      ),
    );
  if (role.memberOf.length > 0)
    findings.push(
      finding('role-member', { tenant }, `The role "${name}" is a member of ${someOf(role.memberOf)}.`, {
        todo: `As a superuser, run: ${role.memberOf.map((of) => `REVOKE ${quoted(of)} FROM ${quoted(name)};`).join(' ')}`,
      }),
    );
  const limit = connectionLimitOf(rooms, tenant);
  if (role.connectionLimit !== limit)
    findings.push(
      finding(
        'role-limit',
        { tenant },
        `The role "${name}" may have ${role.connectionLimit} connections, and the tenant's limit is ${limit}.`,
        mend('role-limit', `sets the limit to ${limit}`, (now) => limitRole(rooms, examined, now)),
      ),
    );
  if (unbounded.has(name))
    findings.push(
      finding(
        'role-settings',
        { tenant },
        `The role "${name}" lacks settings.`,
        mend('role-settings', 'sets them', () => boundRuntimeRoles(cluster, [name])),
      ),
    );
  return findings;
}

/** An identifier for a statement that a person runs. */
export function quoted(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}
