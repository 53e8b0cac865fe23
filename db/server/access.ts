// SQL that opens and closes tenants' databases: with each the mark changes, or is at least compared, in one transaction, so
// that a database is never opened or closed for a row that it does not belong to.
import { setTimeout as delay } from 'node:timers/promises';
import { sql } from 'kysely';
import type { ClusterDb } from './server-admin.js';
import { hasSqlState } from '../driver/database-fault.js';
import { changeMark, markIn, type MarkChange } from './marks.js';

const MISSING_DATABASE = '3D000';
const UNDEFINED_OBJECT = '42704';

/** Takes no connections any more: a standby database waits closed. */
export async function closeDatabase(cluster: ClusterDb, name: string): Promise<void> {
  await sql`alter database ${sql.id(name)} allow_connections false`.execute(cluster);
}

/**
 * Opens a standby database and its role, both of one name, to its tenant, in one transaction.
 *
 * @param mark its change from that of a standby database
 * @returns false when the database does not carry that mark: it may hold a tenant's data, and stays as it is
 */
export async function openStandby(
  cluster: ClusterDb,
  name: string,
  mark: Pick<MarkChange, 'from' | 'to'>,
): Promise<boolean> {
  const also = [sql`alter role ${sql.id(name)} login`, sql`alter database ${sql.id(name)} allow_connections true`];
  return changeMark(cluster, { ...mark, database: name, role: name, also });
}

/** Looks for sessions in a database that was closed, and the time (ms) between two. */
const LOOKS = 40;
const LOOK_AGAIN_AFTER = 25;

/** How long (ms) one session's end is waited for. */
const SESSION_END = 200;

/** Sessions that the provisioner may end, and not its own: what is under way there as the owner comes to its end. */
export const foreignSessions = sql`usesysid <> current_user::regrole and pg_has_role(usesysid, 'USAGE')`;

/** A tenant's database with its role, and how its mark changes, or stays, with its door. */
export interface Door {
  readonly name: string;
  readonly runtimeRole: string;
  readonly mark: Pick<MarkChange, 'from' | 'to'>;
}

/**
 * Closes a tenant's database: it takes no connections, and the sessions of its role are ended. To be repeated when it failed;
 * a database that does not exist is fine.
 *
 * @returns false when the database carries another mark than expected: it stays as it is
 * @throws Error when sessions are still there after a while
 */
export async function closeTenantDatabase(cluster: ClusterDb, { name, runtimeRole, mark }: Door): Promise<boolean> {
  const close = sql`alter database ${sql.id(name)} allow_connections false`;
  // The second bolt: the owner can enter for a migration, and the tenant's role still cannot.
  const revoke = sql`revoke connect on database ${sql.id(name)} from ${sql.id(runtimeRole)}`;
  try {
    const changed = await changeMark(cluster, {
      ...mark,
      database: name,
      role: runtimeRole,
      also: [close, revoke],
    }).catch((error: unknown) => {
      // Without its role, as a restored backup may leave it, the database is to be closed too.
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
    // A session whose handshake was under way when the database was closed shows up a moment later.
    quiet = rows.length === 0 ? quiet + 1 : 0;
    if (quiet === 2) return true;
    await delay(LOOK_AGAIN_AFTER);
  }
  throw new Error('sessions in a closed database could not be ended');
}

/**
 * Opens a tenant's database to its role again. To be repeated when it failed.
 *
 * @returns false when the database carries another mark than expected: it stays as it is
 */
export async function openTenantDatabase(cluster: ClusterDb, { name, runtimeRole, mark }: Door): Promise<boolean> {
  const also = [
    sql`grant connect on database ${sql.id(name)} to ${sql.id(runtimeRole)}`,
    sql`alter database ${sql.id(name)} allow_connections true`,
  ];
  return changeMark(cluster, { ...mark, database: name, role: runtimeRole, also });
}

/** Opens a database to its owner that is a tenant's no more, and takes its mark away. @param text the mark that it carries */
export async function releaseDatabase(cluster: ClusterDb, name: string, text: string | null): Promise<boolean> {
  const also = [sql`alter database ${sql.id(name)} allow_connections true`];
  return changeMark(cluster, { database: name, from: [text], to: null, also });
}

/** Runs `work`, which enters a closed database as its owner. Its role still cannot: it lost CONNECT when it was closed. */
export async function whileOpenToOwner<T>(cluster: ClusterDb, name: string, work: () => Promise<T>): Promise<T> {
  await sql`alter database ${sql.id(name)} allow_connections true`.execute(cluster);
  try {
    return await work();
  } finally {
    await sql`alter database ${sql.id(name)} allow_connections false`.execute(cluster);
  }
}

/** A database as it is found on its server. */
export interface FoundDoor {
  readonly name: string;
  /** The mark, as text; null for none. */
  readonly text: string | null;
  readonly open: boolean;
  /** Whether a session that could be ended is in it. Looked for only where the database was named. */
  readonly busy: boolean;
}

/**
 * Of the connected role's databases those with these names, and those that are not simply open to the tenant of their mark:
 * closed ones, ones without a mark, with a mark of a former build, or of another state.
 */
export async function readDoors(cluster: ClusterDb, names: readonly string[]): Promise<FoundDoor[]> {
  const { rows } = await sql<FoundDoor>`
    select datname as name, datallowconn as open, ${markIn(sql`description`)} as text,
      datname = any(${names}) and exists (
        select from pg_stat_activity a where a.datid = d.oid and ${foreignSessions}) as busy
    from pg_database d
    left join pg_shdescription on objoid = d.oid and classoid = 'pg_database'::regclass
    where datdba = current_user::regrole and (
      datname = any(${names}) or not datallowconn
      or coalesce(description, '') !~ '^tenantry [0-9a-f-]+ [0-9a-f-]+ (tenant|adopted) [0-9a-f-]+ [0-9]+($|\n)')`.execute(
    cluster,
  );
  return rows;
}
