// Queries on sessions: those of users in their tenant's database, and those of operators in the registry. Both databases have the
// same table. Every time comes from the database's clock.
import { sql, type Kysely, type RawBuilder, type Transaction } from 'kysely';
import { auditRow, type AuditEntry } from './audit-rows.js';
import type { SessionsDatabase, WithSessions } from './shared-tables.js';
import { shortRead } from '../driver/statement.js';

export type { SessionsDatabase } from './shared-tables.js';

/** Kysely cannot infer that `Database`, which extends WithSessions, has the sessions table. */
export function sessionsIn<Database extends WithSessions>(
  db: Kysely<Database> | Transaction<Database>,
): SessionsDatabase {
  return db as unknown as SessionsDatabase;
}

/** Lifetimes of a session, in seconds: since its last refresh (`idle`), and since its beginning (`absolute`). */
export interface SessionLifetimes {
  readonly idle: number;
  readonly absolute: number;
}

/** The values of a session that are compared with the tenant's sign-outs. */
export interface SessionBeginning {
  readonly createdAt: string;
  /** The tenant's generation of sessions. Null in an operator's session, and in a session that a former build began. */
  readonly generation: number | null;
}

/** The values of a session that every request in it needs. */
export interface SessionState extends SessionBeginning {
  readonly accountId: string;
  /** Remaining lifetime (ms) by the database's clock. The process's clock can differ. */
  readonly remaining: number;
}

/** A session as its owner sees it. */
export interface Session {
  readonly id: string;
  readonly address: string;
  readonly userAgent: string;
  readonly createdAt: string;
  readonly refreshedAt: string;
  readonly expiresAt: string;
}

/** Undefined if the session does not exist or has expired. */
export async function findSession(db: SessionsDatabase, id: string): Promise<SessionState | undefined> {
  const [session] = await sessionById(db, { id });
  return session;
}

/** pg returns a bigint as text. A double holds milliseconds since 1970 exactly. */
const generation = sql<number | null>`generation::float8`.as('generation');

const stateOfSession = [
  'account_id as accountId',
  'created_at as createdAt',
  generation,
  sql<number>`(extract(epoch from expires_at - now()) * 1000)::float8`.as('remaining'),
] as const;

const sessionById = shortRead((db: SessionsDatabase, { id }: { id: string }) =>
  db
    .selectFrom('sessions')
    .select(stateOfSession)
    .where('id', '=', id)
    .where('expires_at', '>', sql<string>`now()`),
);

/** The same for several sessions, by id. A session that does not exist or has expired is missing. */
export async function findSessions(
  db: SessionsDatabase,
  ids: readonly string[],
): Promise<ReadonlyMap<string, SessionState>> {
  const sessions = await sessionsByIds(db, { ids });
  return new Map(sessions.map(({ id, ...session }) => [id, session]));
}

const sessionsByIds = shortRead((db: SessionsDatabase, { ids }: { ids: readonly string[] }) =>
  db
    .selectFrom('sessions')
    .select('id')
    .select(stateOfSession)
    .where('id', '=', sql<string>`any(${ids}::uuid[])`)
    .where('expires_at', '>', sql<string>`now()`),
);

/** At most this many expired sessions are deleted by one sign-in. A tenant without sign-ins gets no new sessions to delete. */
const SWEPT_AT_ONCE = 100;

/** An account, and the hash of the password that the account has just proved. */
export interface ProvedAccount {
  readonly table: 'users' | 'operators';
  readonly id: string;
  readonly passwordHash: string;
}

/**
 * Adds a session with its audit row, deletes expired sessions, and ends the account's oldest sessions beyond `most`. All of it
 * is one statement, so it is done completely or not at all, and a sign-in costs little besides its password hash.
 *
 * Does nothing if the account is no longer active or its password has changed. The account's row is locked until the session
 * exists. So a change of the password either comes first, and is seen here, or finds the new session and ends it.
 *
 * @returns the ids of the sessions that were ended for the new one; undefined if no session was added
 */
export async function insertSession(
  db: SessionsDatabase,
  account: ProvedAccount,
  session: { id: string; address: string; userAgent: string; tokenHash: string; generation: number | null },
  { idle, absolute }: SessionLifetimes,
  most: number,
  audited: AuditEntry,
): Promise<readonly string[] | undefined> {
  const row = {
    id: session.id,
    account_id: account.id,
    address: session.address,
    user_agent: session.userAgent,
    token_hash: session.tokenHash,
    generation: session.generation,
    expires_at: sql`now() + ${Math.min(idle, absolute)} * interval '1 second'`,
  };
  // This statement does not see the new session. `most - 1` of the account's other sessions leave room for it.
  const { rows } = await sql<{ ended: string[] }>`
    with proved as (
      select id from ${sql.table(account.table)}
      where id = ${account.id} and active and password = ${account.passwordHash}
      for share
    ),
    audited as (${insertedWhereProved('audit', auditRow(audited))}),
    added as (${insertedWhereProved('sessions', row)} returning id),
    swept as (
      delete from sessions where id in (
        (select id from sessions where expires_at <= now() limit ${SWEPT_AT_ONCE})
        union
        (
          select id from sessions where account_id in (select id from proved)
          order by refreshed_at desc, id desc offset ${most - 1}
        )
      )
      returning id, expires_at > now() as live
    )
    select array(select id::text from swept where live) as ended from added`.execute(db);
  return rows[0]?.ended;
}

function insertedWhereProved(table: keyof WithSessions, row: object): RawBuilder<unknown> {
  const columns = sql.join(Object.keys(row).map((column) => sql.ref(column)));
  return sql`insert into ${sql.table(table)} (${columns}) select ${sql.join(Object.values(row))} from proved`;
}

/** Bytes of a replaced token's hash that are stored: too many for a guess to match. */
const SHORT_HASH = 8;

/**
 * How many replaced tokens a session remembers: 128 × 8 bytes = 1 kB. Every refresh writes the row again, and PostgreSQL stores
 * a row of more than 2 kB in two places.
 */
const REPLACED_KEPT = 128;

function shortHash(hash: string): Buffer {
  return Buffer.from(hash, 'base64url').subarray(0, SHORT_HASH);
}

/** A session that was refreshed. */
export interface Refreshed extends SessionBeginning {
  readonly accountId: string;
  /** Time (ms) since the sign-in, by the database's clock. */
  readonly signedInAgo: number;
}

const signedInAgo = sql<number>`(extract(epoch from now() - created_at) * 1000)::float8`.as('signedInAgo');

/**
 * Replaces the presented refresh token with the next one, if the presented token is the current one. This is one statement: if
 * several requests present the same token at once, one replaces it and the others find it replaced.
 */
export async function rotateSession(
  db: SessionsDatabase,
  id: string,
  tokens: { presented: string; next: string; step: string },
  { idle, absolute }: SessionLifetimes,
): Promise<Refreshed | undefined> {
  const replaced = sql`replaced_hashes || ${shortHash(tokens.presented)}::bytea`;
  return db
    .updateTable('sessions')
    .set({
      token_hash: tokens.next,
      previous_hash: sql<string>`token_hash`,
      step: tokens.step,
      replaced_hashes: sql<Buffer>`
        substring(${replaced} from greatest(length(${replaced}) - ${REPLACED_KEPT * SHORT_HASH}::integer + 1, 1))`,
      refreshed_at: sql<string>`now()`,
      expires_at: sql<string>`least(now() + ${idle} * interval '1 second', created_at + ${absolute} * interval '1 second')`,
    })
    .where('id', '=', id)
    .where('token_hash', '=', tokens.presented)
    .where('expires_at', '>', sql<string>`now()`)
    .returning(['account_id as accountId', 'created_at as createdAt', generation, signedInAgo])
    .executeTakeFirst();
}

/** What a live session knows about a refresh token that is not its current one. */
export interface Rotation extends Refreshed {
  /** The step to the current token, if this token is the direct predecessor. */
  readonly step: string | null;
  /** Whether the token is one of the last REPLACED_KEPT that the session replaced. Refreshes by a former build leave gaps. */
  readonly replaced: boolean;
}

/** @param presented the token's hash */
export async function findRotation(db: SessionsDatabase, id: string, presented: string): Promise<Rotation | undefined> {
  const session = await db
    .selectFrom('sessions')
    .select([
      'account_id as accountId',
      'created_at as createdAt',
      generation,
      signedInAgo,
      'previous_hash as previousHash',
      'step',
      'replaced_hashes as replacedHashes',
    ])
    .where('id', '=', id)
    .where('expires_at', '>', sql<string>`now()`)
    .executeTakeFirst();
  if (!session) return undefined;
  const { previousHash, step, replacedHashes, ...rest } = session;
  return {
    ...rest,
    step: previousHash === presented ? step : null,
    replaced: holds(replacedHashes, shortHash(presented)),
  };
}

function holds(hashes: Buffer, hash: Buffer): boolean {
  for (let at = 0; at < hashes.length; at += SHORT_HASH) {
    if (hash.equals(hashes.subarray(at, at + SHORT_HASH))) return true;
  }
  return false;
}

/** An account's live sessions, the most recently refreshed first. */
export async function listSessions(db: SessionsDatabase, accountId: string): Promise<Session[]> {
  return db
    .selectFrom('sessions')
    .select([
      'id',
      'address',
      'user_agent as userAgent',
      'created_at as createdAt',
      'refreshed_at as refreshedAt',
      'expires_at as expiresAt',
    ])
    .where('account_id', '=', accountId)
    .where('expires_at', '>', sql<string>`now()`)
    .orderBy('refreshed_at', 'desc')
    .orderBy('id', 'desc')
    .execute();
}

/** Ends a session of the account. Returns whether the session existed. */
export async function deleteSession(db: SessionsDatabase, id: string, accountId: string): Promise<boolean> {
  const deleted = await db
    .deleteFrom('sessions')
    .where('id', '=', id)
    .where('account_id', '=', accountId)
    .returning('id')
    .executeTakeFirst();
  return deleted !== undefined;
}

/** Ends all sessions of an account, except `but` if it is given. Returns the ids of the ended sessions. */
export async function deleteSessionsOf(
  db: SessionsDatabase,
  accountId: string,
  but?: string,
): Promise<readonly string[]> {
  let query = db.deleteFrom('sessions').where('account_id', '=', accountId);
  if (but !== undefined) query = query.where('id', '!=', but);
  const deleted = await query.returning('id').execute();
  return deleted.map(({ id }) => id);
}
