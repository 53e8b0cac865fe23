// The settings of every session, and how a new connection finds out whether PostgreSQL got them. A pooler in between answers the
// start of a session itself: it refuses settings that it does not know, or drops them.

/** Only startup options of our own have this setting: its value in a session shows that all of them have arrived. */
const ARRIVED = 'tenantry.settings';

/** Names the session behind a pooler (db/driver/pooled-session.ts). */
export const SESSION_NAME = 'tenantry.session';

/** Set at the start of every session. Any role may set each of these for itself. */
export const SESSION_SETTINGS: Readonly<Record<string, string | number>> = {
  // ISO dates in UTC are what the parser of timestamps expects (db/driver/client.ts).
  TimeZone: 'UTC',
  DateStyle: 'ISO',
  // ms: ends a statement whose client is gone.
  client_connection_check_interval: 5_000,
  // Seconds, and a count. If the client's host vanishes, its session and locks end after 20 s. The default is two hours.
  tcp_keepalives_idle: 5,
  tcp_keepalives_interval: 5,
  tcp_keepalives_count: 3,
  // ms: the same for a session that has unacknowledged data; keepalives do not probe then.
  tcp_user_timeout: 20_000,
  // Pools close idle connections themselves. If the server closed one, the request that takes it at that moment would fail
  // (57P05).
  idle_session_timeout: 0,
};

/** The settings as the startup parameter `options`. */
export const STARTUP_OPTIONS = Object.entries({ ...SESSION_SETTINGS, [ARRIVED]: 1 })
  .map(([name, value]) => `-c ${name}=${value}`)
  .join(' ');

/** The SQL columns `backend` and `settings`, which a proof hands to `hasOwnBackend`. */
export const SESSION_FACTS = `pg_backend_pid() as "backend", current_setting('${ARRIVED}', true) as "settings"`;

/**
 * Whether the backend that answers is the one that began this session, and got its settings.
 *
 * @param processId the process id that was sent at the start of the session. A pooler sends an id of its own
 */
export function hasOwnBackend(row: Readonly<Record<string, unknown>>, processId: number | null): boolean {
  return row['backend'] === processId && row['settings'] === '1';
}
