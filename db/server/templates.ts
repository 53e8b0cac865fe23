// The statements about templates on a server: making, sealing and locking them, and whether one can be copied.
import { sql } from 'kysely';
import { hasSqlState } from '../driver/database-fault.js';
import { changeMark } from './marks.js';
import type { ClusterDb } from './server-admin.js';

/** SQLSTATE of CREATE DATABASE with a locale that the operating system does not have. */
const WRONG_OBJECT_TYPE = '42809';

/**
 * Creates an empty database that only its owner can enter, for a template that is being built.
 *
 * With the locale C, PostgreSQL knows no letters but those of ASCII: a search for others finds no index, and before PostgreSQL 17 it
 * ignores no case. So on a server with that locale the database gets the letters of C.UTF-8. The order of text stays the server's.
 *
 * @param mark its comment (db/server/marks.ts)
 */
export async function createClosedDatabase(cluster: ClusterDb, name: string, mark: string): Promise<void> {
  const database = sql.id(name);
  const create = async (letters = sql``): Promise<void> => {
    const from = sql`template template0 encoding 'UTF8' ${letters} allow_connections false`;
    await sql`create database ${database} ${from}`.execute(cluster);
  };
  const { rows } = await sql`
    select from pg_database where datname = 'template0' and datctype in ('C', 'POSIX')`.execute(cluster);
  if (rows.length === 0) await create();
  else
    await create(sql`lc_ctype 'C.UTF-8'`).catch((error: unknown) => {
      if (!hasSqlState(error, WRONG_OBJECT_TYPE)) throw error;
      return create();
    });
  await sql`
    revoke all on database ${database} from public;
    comment on database ${database} is ${sql.lit(mark)};
    alter database ${database} allow_connections true`.execute(cluster);
}

/**
 * Runs `work` under the lock of the server's templates, which puts their building and dropping in order, for every build. The lock
 * belongs to the session that also runs the statements. So while another worker holds the lock, no statement of an earlier holder
 * runs on its connection, even if the answer to that statement was lost.
 *
 * @param work gets the connection that holds the lock
 */
export async function whileTemplatesLocked<T>(cluster: ClusterDb, work: (locked: ClusterDb) => Promise<T>): Promise<T> {
  return cluster.connection().execute(async (connection) => {
    const key = sql`hashtextextended('tenantry templates', 0)`;
    await sql`select pg_advisory_lock(${key})`.execute(connection);
    try {
      return await work(connection);
    } finally {
      // If the connection is lost, the lock is free too. The result of the work must not be lost with it.
      await sql`select pg_advisory_unlock(${key})`.execute(connection).catch(() => undefined);
    }
  });
}

/**
 * Closes a finished database and gives it the name and mark of a template. CREATE DATABASE fails while a session is in its
 * template, so a template refuses connections.
 *
 * @returns false if the database does not carry the mark `from`
 */
export async function sealTemplate(
  cluster: ClusterDb,
  building: string,
  template: { readonly name: string; readonly from: string; readonly mark: string },
): Promise<boolean> {
  await sql`alter database ${sql.id(building)} allow_connections false`.execute(cluster);
  const also = [sql`alter database ${sql.id(building)} rename to ${sql.id(template.name)}`];
  return changeMark(cluster, { database: building, from: [template.from], to: template.mark, also });
}

/** Why PostgreSQL refuses to copy a template; undefined if it does not. */
export type CopyObstacle =
  | { readonly kind: 'missing' }
  /** After an update of the operating system. `now` is null if the system no longer tells a version. */
  | { readonly kind: 'collation'; readonly made: string; readonly now: string | null };

/** @param template the name of a database of the connected role */
export async function findCopyObstacle(cluster: ClusterDb, template: string): Promise<CopyObstacle | undefined> {
  const { rows } = await sql<{ made: string | null; now: string | null }>`
    select datcollversion as made, pg_database_collation_actual_version(oid) as now from pg_database
    where datname = ${template} and pg_get_userbyid(datdba) = current_user`.execute(cluster);
  const [found] = rows;
  if (!found) return { kind: 'missing' };
  const { made, now } = found;
  return made === null || made === now ? undefined : { kind: 'collation', made, now };
}

/**
 * What tells a template from an earlier one of the same name, and its definitions from those that another version of PostgreSQL
 * prints. Undefined if the connected role has no such database.
 */
export async function findTemplateIdentity(cluster: ClusterDb, template: string): Promise<string | undefined> {
  const { rows } = await sql<{ identity: string }>`
    select oid || ' ' || current_setting('server_version_num') as identity from pg_database
    where datname = ${template} and pg_get_userbyid(datdba) = current_user`.execute(cluster);
  return rows[0]?.identity;
}
