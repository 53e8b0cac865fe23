// What the doctor finds inside a tenant's database, as its owner, and with the tenant's own role.
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { probeDatabase } from '../../db/driver/probe.js';
import {
  listForeignObjects,
  listInvalidIndexes,
  listWrongRights,
  type ForeignObject,
} from '../../db/server/content-rights.js';
import { historyOf } from '../../db/shared/migrator.js';
import type { HistoryVerdict } from '../../db/shared/migration-history.js';
import { readMarker, type Marker } from '../../db/tenant/marker.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { AppError } from '../errors.js';
import { inPlainWords } from '../jobs/plain-words.js';
import { inWords } from '../rollouts/schema-differences.js';
import type { DoctorRooms, ExaminedTenant } from './doctor-rooms.js';
import { finding, someOf, type Finding } from './findings.js';
import type { OutsideFindings } from './tenant-checks.js';
import {
  enterTenant,
  giveStoredPassword,
  grantRights,
  markInside,
  migrate,
  storedPassword,
  takeAll,
  tenantRepair,
} from './tenant-repairs.js';

/** Longest wait (ms) for a connection as the tenant's role. */
const PROBE_DEADLINE = 10_000;

/** What was read inside. Later parts are missing if the owner may not read them. */
interface Content {
  readonly foreign: readonly ForeignObject[];
  readonly marker?: Marker | undefined;
  readonly history?: HistoryVerdict;
  /** Tables on which the role has other rights than it should. Undefined without the role. */
  readonly wrongRights?: readonly string[];
  readonly invalidIndexes?: readonly string[];
}

/** @throws DatabaseFault and AppError if the database cannot be entered */
export async function examineContent(
  rooms: DoctorRooms,
  examined: ExaminedTenant,
  outside: Pick<OutsideFindings, 'hasRole' | 'findings'>,
): Promise<Finding[]> {
  const content = await enterTenant(rooms, examined, examined.tenant, (db) => read(db, examined, outside.hasRole));
  const ofMarker = judgeMarker(rooms, examined, content, outside);
  // Nothing else is repaired in a database that does not prove to be the tenant's.
  if (ofMarker.length > 0) return ofMarker;
  const findings = [
    ...judgeOwners(rooms, examined, content),
    ...judgeRights(rooms, examined, content),
    ...judgeHistory(rooms, examined, content),
  ];
  const indexes = (content.invalidIndexes ?? []).map((name) =>
    finding('index-invalid', { tenant: examined.tenant }, `The index "${name}" is not valid.`),
  );
  // What is mended first would be reported again, in other words.
  if (findings.length + outside.findings.length > 0) return [...findings, ...indexes];
  return [...(await tryPassword(rooms, examined)), ...indexes, ...(await compareSchema(rooms, examined))];
}

type Inside = Parameters<Parameters<typeof enterTenant>[3]>[0];

async function read(db: Inside, { tenant }: ExaminedTenant, hasRole: boolean): Promise<Content> {
  const foreign = await listForeignObjects(db);
  // The owner of the database has no rights on objects of a superuser.
  if (foreign.some(({ mayTake }) => !mayTake)) return { foreign };
  const wrongRights = hasRole ? await listWrongRights(db, tenant.dbUser) : undefined;
  return {
    foreign,
    marker: await readMarker(db),
    history: await historyOf(db, tenantMigrations),
    invalidIndexes: await listInvalidIndexes(db),
    ...(wrongRights && { wrongRights }),
  };
}

function judgeOwners(rooms: DoctorRooms, examined: ExaminedTenant, { foreign }: Content): Finding[] {
  const { tenant, provisioner } = examined;
  if (foreign.length === 0) return [];
  const code = 'owners-wrong';
  const owners = [...new Set(foreign.map(({ owner }) => `"${owner}"`))];
  const found = `${foreign.length} objects belong to ${someOf(owners)}: ${someOf(foreign.map(({ name }) => name))}.`;
  if (foreign.some(({ mayTake }) => !mayTake)) {
    const to = `"${provisioner.role.replaceAll('"', '""')}"`;
    const statements = foreign.map(({ name }) => `ALTER ${name} OWNER TO ${to};`).join(' ');
    const todo = `As a superuser, run in the database: ${statements} Then run tenantry doctor --repair.`;
    return [finding(code, { tenant }, found, { todo })];
  }
  const repair = tenantRepair(rooms, examined, code, 'makes the provisioner the owner', (now) =>
    enterTenant(rooms, examined, now, takeAll),
  );
  return [finding(code, { tenant }, found, { repair })];
}

function judgeMarker(
  rooms: DoctorRooms,
  examined: ExaminedTenant,
  { marker, history }: Content,
  { findings: outside }: Pick<OutsideFindings, 'findings'>,
): Finding[] {
  const { tenant } = examined;
  if (!history || marker?.tenantId === tenant.id) return [];
  if (marker) return [finding('marker-foreign', { tenant }, `Inside is the marker of the tenant ${marker.tenantId}.`)];
  const code = 'marker-missing';
  const proven = !outside.some((each) => each.code === 'mark-missing') && history.state !== 'behind';
  const repair = tenantRepair(rooms, examined, code, 'writes the marker', (now) => markInside(rooms, examined, now));
  return [finding(code, { tenant }, 'Inside is no marker.', { repair: proven ? repair : undefined })];
}

function judgeRights(rooms: DoctorRooms, examined: ExaminedTenant, { wrongRights = [] }: Content): Finding[] {
  const { tenant } = examined;
  if (wrongRights.length === 0) return [];
  const code = 'grants-missing';
  const found = `The role "${tenant.dbUser}" has other rights than it should on ${someOf(wrongRights)}.`;
  const repair = tenantRepair(rooms, examined, code, 'grants the role its rights, and revokes others', (now) =>
    grantRights(rooms, examined, now),
  );
  return [finding(code, { tenant }, found, { repair })];
}

function judgeHistory(rooms: DoctorRooms, examined: ExaminedTenant, { history }: Content): Finding[] {
  const { tenant } = examined;
  if (!history) return [];
  if (history.state === 'differs') return [finding('schema-differs', { tenant }, history.differences.join(' '))];
  if (history.state === 'newer' || history.state === 'too-new')
    return [finding('schema-newer', { tenant }, `The database has run ${someOf(history.newer)}.`)];
  const [first] = history.pending;
  if (first === undefined) return [];
  const code = tenant.schemaVersion >= first ? 'schema-older' : 'schema-behind';
  const said = code === 'schema-older' ? `, and its row says ${tenant.schemaVersion}` : '';
  const repair = tenantRepair(
    rooms,
    examined,
    code,
    `runs ${history.pending.length} migrations in the database`,
    (now) => migrate(rooms, examined, now),
  );
  return [finding(code, { tenant }, `The database has not run ${someOf(history.pending)}${said}.`, { repair })];
}

/** Signs in as the tenant's role. The connection is one of the reserve. */
async function tryPassword(rooms: DoctorRooms, examined: ExaminedTenant): Promise<Finding[]> {
  const { tenant, place } = examined;
  const { dbHost: host, dbPort: port, dbName: database, dbUser: user, nextDbPassword } = tenant;
  // While a password is being changed, the server has one of two.
  if (tenant.status !== 'active' || nextDbPassword !== null) return [];
  const cluster = await rooms.clusterDirectory.find(place);
  if (!cluster) return [];
  const password = storedPassword(rooms, tenant);
  const { reserve } = rooms.governors.at(place);
  try {
    await probeDatabase(
      { host, port, database, user, password, tls: cluster.tls },
      PROBE_DEADLINE,
      (closeIdle) => reserve.join('doctor', closeIdle),
      undefined,
      rooms.replicaId,
      rooms.destinations,
    );
    return [];
  } catch (error) {
    if (!(error instanceof DatabaseFault)) throw error;
    const found = `The server does not let the role "${user}" in: ${inPlainWords(error)}.`;
    if (error.reason !== '28P01') return [finding('not-checked', { tenant }, found)];
    const repair = tenantRepair(rooms, examined, 'role-password', 'gives the role the stored password', (now) =>
      giveStoredPassword(rooms, examined, now),
    );
    return [finding('role-password', { tenant }, found, { repair })];
  }
}

async function compareSchema({ drift }: DoctorRooms, { tenant }: ExaminedTenant): Promise<Finding[]> {
  try {
    const { differences, total } = await drift.compareTenant(tenant.id);
    // An index that is not valid has a finding of its own.
    const shown = differences.filter(({ kind, found }) => !(kind === 'index' && found.includes('not valid')));
    if (shown.length === 0) return [];
    const count = total - (differences.length - shown.length);
    return [
      finding(
        'schema-drift',
        { tenant },
        `${count === 1 ? 'One difference' : `${count} differences`}: ${someOf(shown.map(inWords))}.`,
      ),
    ];
  } catch (error) {
    if (!(error instanceof AppError) || error.code === 'internal-error') throw error;
    // Its status changed meanwhile.
    if (error.code === 'not-found' || error.code === 'tenant-state') return [];
    return [finding('not-checked', { tenant }, error.detail ?? inPlainWords(error))];
  }
}
