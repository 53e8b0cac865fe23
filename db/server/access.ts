// SQL that opens and closes tenants' databases. The same transaction changes or at least compares the mark, so that a database is
// never opened or closed for a row that it does not belong to.
import { setTimeout as delay } from 'node:timers/promises';
import { sql } from 'kysely';
import type { ClusterDb } from './server-admin.js';
import { hasSqlState } from '../driver/database-fault.js';
import { changeMark, markIn, type MarkChange } from './marks.js';
import { CURRENT_ROLE } from './current-role.js';

const MISSING_DATABASE = '3D000';
const UNDEFINED_OBJECT = '42704';

/** Makes a database refuse connections. A standby database stays closed until it is claimed. */
export async function closeDatabase(cluster: ClusterDb, name: string): Promise<void> {
  await sql`alter database ${sql.id(name)} allow_connections false`.execute(cluster);
}

/**
 * Opens a standby database and its role, both of one name, to its tenant, in one transaction.
 *
 * @param mark its change from the mark of a standby database
 * @returns false if the database does not carry that mark: it may hold a tenant's data, and stays as it is
 */
export async function openStandby(
  cluster: ClusterDb,
  name: string,
  mark: Pick<MarkChange, 'from' | 'to'>,
): Promise<boolean> {
  const also = [sql`alter role ${sql.id(name)} login`, sql`alter database ${sql.id(name)} allow_connections true`];
  return changeMark(cluster, { ...mark, database: name, role: name, also });
}

/** How often a closed database is checked for sessions, and the pause (ms) between two checks. */
const LOOKS = 40;
const LOOK_AGAIN_AFTER = 25;

/** Longest wait (ms) for the end of one session. */
const SESSION_END = 200;

/** Sessions that the provisioner may end, except its own: statements that run there as the owner end by themselves. */
export const foreignSessions = sql`usesysid <> ${CURRENT_ROLE} and pg_has_role(usesysid, 'USAGE')`;

/** A tenant's database and its role, with the mark before and after the change. */
export interface Door {
  readonly name: string;
  readonly runtimeRole: string;
  readonly mark: Pick<MarkChange, 'from' | 'to'>;
}

/**
 * Closes a tenant's database: it refuses connections, and the sessions of its role are ended. Repeat it after a failure. A
 * database that does not exist counts as closed.
 *
 * @returns false if the database carries another mark than expected: it stays as it is
 * @throws Error if sessions are still there after LOOKS checks
 */
export async function closeTenantDatabase(cluster: ClusterDb, { name, runtimeRole, mark }: Door): Promise<boolean> {
  const close = sql`alter database ${sql.id(name)} allow_connections false`;
  // A second protection: if the owner opens the database for a migration, the tenant's role still cannot connect.
  const revoke = sql`revoke connect on database ${sql.id(name)} from ${sql.id(runtimeRole)}`;
  try {
    const changed = await changeMark(cluster, {
      ...mark,
      database: name,
      role: runtimeRole,
      also: [close, revoke],
    }).catch((error: unknown) => {
      // A restored backup may lack the role. The database must be closed then too.
      if (!hasSqlState(error, UNDEFINED_OBJECT)) throw error;
      return changeMark(cluster, { ...mark, database: name, also: [close] });
    });
    if (!changed) return false;
  } catch (error) {
    if (hasSqlState(error, MISSING_DATABASE)) return true;
    throw error;
  }
  let quiet = 0;
  for (let look = 0; look < LOOKS; look += 1) {
    const { rows } = await sql`
      select pg_terminate_backend(pid, ${SESSION_END}) from pg_stat_activity
      where datname = ${name} and ${foreignSessions}`.execute(cluster);
    // A session whose handshake was under way when the database was closed appears a moment later.
    quiet = rows.length === 0 ? quiet + 1 : 0;
    if (quiet === 2) return true;
    await delay(LOOK_AGAIN_AFTER);
  }
  throw new Error('sessions in a closed database could not be ended');
}

/**
 * Opens a tenant's database to its role again. Repeat it after a failure.
 *
 * @returns false if the database carries another mark than expected: it stays as it is
 */
export async function openTenantDatabase(cluster: ClusterDb, { name, runtimeRole, mark }: Door): Promise<boolean> {
  const also = [
    sql`grant connect on database ${sql.id(name)} to ${sql.id(runtimeRole)}`,
    sql`alter database ${sql.id(name)} allow_connections true`,
  ];
  return changeMark(cluster, { ...mark, database: name, role: runtimeRole, also });
}

/**
 * Opens a database that no longer belongs to a tenant to its owner, and removes its mark. @param text the mark that it carries
 */
export async function releaseDatabase(cluster: ClusterDb, name: string, text: string | null): Promise<boolean> {
  const also = [sql`alter database ${sql.id(name)} allow_connections true`];
  return changeMark(cluster, { database: name, from: [text], to: null, also });
}

/** Runs `work`, which enters a closed database as its owner. The runtime role cannot connect: closing revoked its CONNECT. */
export async function whileOpenToOwner<T>(cluster: ClusterDb, name: string, work: () => Promise<T>): Promise<T> {
  await sql`alter database ${sql.id(name)} allow_connections true`.execute(cluster);
  try {
    return await work();
  } finally {
    await sql`alter database ${sql.id(name)} allow_connections false`.execute(cluster);
  }
}

/** A database as the row of its tenant requires it. */
export interface ExpectedDoor {
  readonly name: string;
  readonly open: boolean;
  /** The mark, as text; '' if the row does not know it. No database carries that. */
  readonly text: string;
}

/** A database as its server shows it. */
export interface FoundDoor {
  readonly name: string;
  /** The mark, as text; null if there is none. */
  readonly text: string | null;
  readonly open: boolean;
  /** Whether it should be closed, and has a session that could be ended. */
  readonly busy: boolean;
}

/**
 * Finds databases of the connected role that are not as expected: open, closed, busy, or with another mark. PostgreSQL compares,
 * so that the answer is short if all is well. A database that does not exist is left out.
 */
export async function findDoorDrift(cluster: ClusterDb, expected: readonly ExpectedDoor[]): Promise<FoundDoor[]> {
  const names = expected.map(({ name }) => name);
  const opens = expected.map(({ open }) => open);
  const texts = expected.map(({ text }) => text);
  const mark = markIn(sql`description`);
  // One reading of the sessions for all databases. It is made only if a closed database is as expected otherwise.
  const busy = sql`not expected.open and d.oid in (select datid from entered)`;
  const { rows } = await sql<FoundDoor>`
    with entered as materialized (select distinct datid from pg_stat_activity where ${foreignSessions})
    select datname::text as name, datallowconn as open, ${mark} as text, ${busy} as busy
    from unnest(${names}::text[], ${opens}::boolean[], ${texts}::text[]) as expected (name, open, text)
    join pg_database d on d.datname = expected.name::name
    left join pg_shdescription on objoid = d.oid and classoid = 'pg_database'::regclass
    -- Names the databases a second time, so that they are found by index.
    where d.datname = any(${names}::name[]) and datdba = ${CURRENT_ROLE}
      and (datallowconn <> expected.open or ${mark} is distinct from expected.text or (${busy}))`.execute(cluster);
  return rows;
}
