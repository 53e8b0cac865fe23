// A new connection that does not lead to a backend of its own: a pooler is in between. If the pooler gives each session a backend
// until the session ends (pool_mode = session), the session's settings are set by a statement. Otherwise the connection is refused.
//
// A pooler that shares backends between sessions would lose deadlines, locks and prepared statements. It could also take the next
// statement to another database than the one that the proof saw.
import { randomUUID } from 'node:crypto';
import type { ClientConnection } from './connection.js';
import { DatabaseFault, REFUSED_BY_POOLER } from './database-fault.js';
import { hasOwnBackend, SESSION_FACTS, SESSION_NAME, SESSION_SETTINGS } from './session-settings.js';

/** Parameters of a startup packet that a pooler may drop too, by their names in pg's configuration. */
const OF_THE_CONNECTION = [
  'statement_timeout',
  'lock_timeout',
  'idle_in_transaction_session_timeout',
  'application_name',
] as const;

/**
 * How long (ms) a pooler that gave each session its own backend is trusted to do so, for one role and database. Each new connection
 * still looks whether its backend carries the name of another session.
 */
const TRUSTED_FOR = 5_000;

/** Longest wait (ms) for the second session, with which sharing is tried. */
const SECOND_SESSION = 1_500;

/** PgBouncer's own answer to BEGIN. Its SQLSTATE is 08P01, as that of all its errors. */
const STATEMENT_MODE = 'statement pooling mode';

const FACTS = `select ${SESSION_FACTS}, session_user as "role", current_setting('${SESSION_NAME}', true) as "session"`;

interface Facts extends Record<string, unknown> {
  readonly backend: number;
  readonly role: string;
  /** The name that a session has given its backend. Empty or null if none has since the backend was reset. */
  readonly session: string | null;
}

/** When the trust in a pooler ends, on `performance.now`, by role, place and database. The oldest are first. */
const trusted = new Map<string, number>();

function trust(key: string): void {
  const now = performance.now();
  for (const [known, until] of trusted) {
    if (until > now) break;
    trusted.delete(known);
  }
  trusted.delete(key);
  trusted.set(key, now + TRUSTED_FOR);
}

/**
 * Checks a new connection by the row of its proof. Behind a pooler this takes three statements more. Without one it takes none.
 *
 * @param row with the columns of SESSION_FACTS; a row without them is not checked
 * @throws DatabaseFault with a reason of REFUSED_BY_POOLER; the server's error
 */
export function keepSession(
  client: ClientConnection,
  row: Readonly<Record<string, unknown>> | undefined,
): Promise<void> | undefined {
  if (row?.['backend'] === undefined || hasOwnBackend(row, client.processID)) return undefined;
  return takeBackend(client);
}

async function takeBackend(client: ClientConnection): Promise<void> {
  const before = await factsOf(client);
  if (before.role !== client.user) throw refused('role');
  // The name of another session that uses this backend too, or used it before: then nothing reset the backend.
  if (before.session) throw refused('shared');
  const name = randomUUID();
  await client.query(`select ${settingsOf(client, name)}`);
  const key = `${client.user ?? ''}@${client.host}:${client.port}/${client.database ?? ''}`;
  const isTrusted = (trusted.get(key) ?? 0) > performance.now();
  const since = performance.now();
  const second = isTrusted ? undefined : await openSecond(client);
  try {
    const after = await factsOf(client);
    if (after.session !== name || after.backend === second?.facts.backend || second?.facts.session)
      throw refused('shared');
    client.isServedBy(after.backend);
  } finally {
    second?.end();
  }
  // Also if there was no room. Otherwise each connection of a role that may have one only would wait that long.
  if (second || performance.now() - since >= SECOND_SESSION) trust(key);
}

/**
 * Opens another session and begins a transaction in it. A pooler that shares backends gives it the backend that became free last,
 * which is the one that the first session has just used.
 *
 * @returns undefined if there is no room for a second session
 * @throws DatabaseFault if the pooler allows no transactions
 */
async function openSecond(client: ClientConnection): Promise<{ facts: Facts; end: () => void } | undefined> {
  const second = client.another();
  try {
    await second.open(SECOND_SESSION);
    const deadline = setTimeout(() => {
      second.cut();
    }, SECOND_SESSION);
    try {
      await second.query('begin');
      const facts = await factsOf(second);
      const end = (): void => {
        second.close();
      };
      return { facts, end };
    } finally {
      clearTimeout(deadline);
    }
  } catch (error) {
    second.close();
    if (error instanceof Error && error.message.includes(STATEMENT_MODE)) throw refused('shared');
    return undefined;
  }
}

async function factsOf(client: ClientConnection): Promise<Facts> {
  const { rows } = await client.query<Facts>(FACTS);
  const [facts] = rows;
  if (!facts) throw new DatabaseFault('unavailable', 'connection lost');
  return facts;
}

/** Calls of set_config for all settings, in one statement: all of them reach the same backend. */
function settingsOf(client: ClientConnection, name: string): string {
  const { config } = client;
  const own = OF_THE_CONNECTION.flatMap((key) => (config[key] === undefined ? [] : [[key, config[key]] as const]));
  return [...Object.entries(SESSION_SETTINGS), ...own, [SESSION_NAME, name] as const]
    .map(([key, value]) => `set_config('${key}', ${client.escapeLiteral(String(value))}, false)`)
    .join(', ');
}

function refused(why: keyof typeof REFUSED_BY_POOLER): DatabaseFault {
  return new DatabaseFault('unavailable', REFUSED_BY_POOLER[why]);
}
