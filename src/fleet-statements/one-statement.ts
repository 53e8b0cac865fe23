// How the statement of a person runs in one tenant's database, and why it can do no more than it should.
//
// Without --write:   begin read only → declare … cursor for <text> → fetch → rollback
// With --write:      begin → prepare … as <text> → execute → rollback (dry run) or commit
//
// The text goes by the extended protocol: two statements are refused before any of them runs. The words before it are PostgreSQL's own
// grammar for what may follow. After `declare … cursor for` that is a SELECT, VALUES, TABLE or WITH that changes nothing. After
// `prepare … as` it is also an INSERT, UPDATE, DELETE or MERGE. So transaction control, SET, DO, CALL, COPY, VACUUM and DDL are syntax
// errors. A query can still call functions. What they try, and what stops it:
//
// - `set_config('transaction_read_only', 'off', true)`: PostgreSQL refuses it after the first snapshot of the transaction.
// - `set_config('role', …)`, `set_config('session_authorization', …)`: the session signed in as a guest (db/server/guest-roles.ts),
//   which is a member of no role. That is why no SET ROLE of the provisioner is used: a query could undo it and go on as the owner.
// - a function that writes, `query_to_xml('delete …')`, SECURITY DEFINER: the transaction is read-only for every role.
// - `lo_create`, `pg_notify`: PostgreSQL 15 allows the first in a read-only transaction; the rollback undoes both. With --write, a
//   transaction after which the guest owns an object is not committed.
// - `pg_terminate_backend`: it reaches sessions of the same guest only. Advisory locks end with the session.
// - `set_config('statement_timeout', '0', false)`, `pg_sleep`: this side has a deadline of its own, cuts the connection, and the
//   provisioner ends the session.
import { AnsweredError, answeredError, wasAnswered } from '../../db/driver/database-fault.js';
import type { OneSession, PlainAnswer } from '../../db/driver/one-session.js';
import { inPlainWords, PlainError } from '../jobs/plain-words.js';
import { rowsOf, type PlainRow } from './plain-values.js';

/** The text is not one statement of the allowed kinds. It would fail in every tenant's database. */
export class UnusableStatement extends Error {
  override readonly name = 'UnusableStatement';
}

export interface RowsRead {
  readonly rows: readonly PlainRow[];
  /** Whether there are more rows than `rows`. */
  readonly more: boolean;
}

export interface RowsChanged extends RowsRead {
  /** Rows that the statement inserted, updated, deleted or merged. */
  readonly affected: number;
}

/** SQLSTATEs of a text that no database accepts: a syntax error, two statements, a kind of statement that cannot follow. */
const UNUSABLE = ['42601', '0A000'];

/** The longest text, in characters. */
const LONGEST = 100_000;

/** @throws UnusableStatement */
export function demandStatement(text: string): void {
  if (text.trim() === '') throw new UnusableStatement('The statement is empty.');
  if (text.length > LONGEST) throw new UnusableStatement(`The statement is longer than ${LONGEST} characters.`);
  // A message of the protocol ends its text with NUL: what follows would be read as something else.
  if (text.includes('\0')) throw new UnusableStatement('The statement contains a NUL character.');
}

/** Runs a query that changes nothing. @param limit most rows */
export async function readRows(session: OneSession, text: string, limit: number): Promise<RowsRead> {
  await session.run('begin read only');
  await usable(session, `declare each no scroll cursor for ${text}`, 'It must be one SELECT, VALUES, TABLE or WITH.');
  const answer = await session.ask(`fetch forward ${limit + 1} from each`);
  await session.run('rollback');
  return limited(answer, limit);
}

/** What became of a change. */
export type Outcome =
  | ({ readonly state: 'done' } & RowsChanged)
  /** The answer to COMMIT did not come. */
  | ({ readonly state: 'unknown'; readonly xid: string } & RowsChanged);

/**
 * Runs a statement that may change rows, in one transaction.
 *
 * @param intent called before COMMIT with the id of a transaction that changed something; undefined makes it a dry run, which is rolled
 *   back
 * @throws if nothing was changed
 */
export async function changeRows(
  session: OneSession,
  text: string,
  limit: number,
  intent: ((xid: string, affected: number) => Promise<void>) | undefined,
): Promise<Outcome> {
  await session.run('begin');
  await usable(
    session,
    `prepare each as ${text}`,
    'It must be one SELECT, VALUES, TABLE, WITH, INSERT, UPDATE, DELETE or MERGE.',
  );
  const answer = await session.ask('execute each');
  // COMMIT would check these. A dry run must find out too.
  await session.run('set constraints all immediate');
  const [row] = await session.run(`
    select pg_current_xact_id_if_assigned()::text as xid,
      exists (select from pg_shdepend where refclassid = 'pg_authid'::regclass and deptype = 'o'
        and refobjid = (select oid from pg_roles where rolname = session_user)) as owns`);
  if (row?.['owns'] === true) throw new PlainError('it creates an object, such as a large object');
  const xid = typeof row?.['xid'] === 'string' ? row['xid'] : undefined;
  const changed = { affected: answer.command === 'SELECT' ? 0 : answer.count, ...limited(answer, limit) };
  if (!intent || xid === undefined) {
    await session.run('rollback');
    return { state: 'done', ...changed };
  }
  await intent(xid, changed.affected);
  try {
    await session.run('commit');
  } catch (error) {
    if (wasAnswered(error)) throw error;
    return { state: 'unknown', xid, ...changed };
  }
  return { state: 'done', ...changed };
}

/** An error of one tenant, for the person who wrote the statement. */
export interface Problem {
  /** A SQLSTATE, or `unavailable`. */
  readonly code: string;
  readonly message: string;
}

const LONGEST_MESSAGE = 500;

export function problemOf(error: unknown): Problem {
  const answer = error instanceof AnsweredError ? error : answeredError(error);
  if (answer) return { code: answer.code, message: answer.message.slice(0, LONGEST_MESSAGE) };
  return { code: 'unavailable', message: inPlainWords(error) };
}

async function usable(session: OneSession, text: string, must: string): Promise<void> {
  try {
    await session.ask(text);
  } catch (error) {
    if (!(error instanceof AnsweredError) || !UNUSABLE.includes(error.code)) throw error;
    throw new UnusableStatement(`The statement cannot run: PostgreSQL says "${error.message}". ${must}`);
  }
}

function limited(answer: PlainAnswer, limit: number): RowsRead {
  return { rows: rowsOf(answer, limit), more: answer.rows.length > limit };
}
