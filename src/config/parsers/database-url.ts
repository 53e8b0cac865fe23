// postgres:// URLs as connection settings.
import type { ConnectionSettings } from '../../../db/driver/client.js';

/**
 * Parses a postgres:// URL. Options in its query are refused: pg would let some of them override the host or the TLS mode.
 *
 * @param name the variable, for the problems
 * @param text undefined if the variable is not set
 * @param problems receives a sentence for each thing that is wrong; no sentence repeats the URL, which has a password
 * @returns undefined if the URL is not set or not usable
 */
export function parseDatabaseUrl(
  name: string,
  text: string | undefined,
  tls: ConnectionSettings['tls'],
  problems: string[],
): ConnectionSettings | undefined {
  if (text === undefined) return undefined;
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const usable =
    url && ['postgres:', 'postgresql:'].includes(url.protocol) && url.hostname !== '' && url.pathname.length > 1;
  // A "#" would cut the name of the database short.
  if (!usable || url.hash !== '') {
    problems.push(`${name} must be a URL such as postgres://user:password@host:5432/database`);
    return undefined;
  }
  // Without them pg would take PGUSER and PGPASSWORD from the environment.
  if (url.username === '' || url.password === '') problems.push(`${name} must have a user and a password`);
  if (url.search !== '')
    problems.push(`${name} must have no options after "?": set TLS with DATABASE_TLS and DATABASE_CA_FILE`);
  try {
    return {
      host: url.hostname.replace(/^\[(.*)\]$/, '$1'),
      port: url.port === '' ? 5432 : Number(url.port),
      database: decodeURIComponent(url.pathname.slice(1)),
      user: decodeURIComponent(url.username),
      password: decodeURIComponent(url.password),
      tls,
    };
  } catch {
    problems.push(`${name} has a "%" in its user, password or database that must be written as %25`);
    return undefined;
  }
}
