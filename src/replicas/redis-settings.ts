// REDIS_URL and REDIS_CA_FILE: the address of Redis and how to enter it. Messages about wrong settings repeat no secret.

export interface RedisSettings {
  readonly host: string;
  readonly port: number;
  /** If it is not set, Redis's user `default`. */
  readonly user: string | undefined;
  readonly password: string | undefined;
  /** The number of the database. */
  readonly database: number;
  /**
   * `false` is plain TCP. With TLS the certificate and its host name are always checked, against Node's list if there is no CA.
   */
  readonly tls: false | { readonly ca?: string };
  /** Longest wait (ms) for an answer. */
  readonly timeout: number;
}

const DEFAULT_PORT = 6_379;

/** The shortest password. Redis answers a hundred thousand guesses a second, so a password chosen by a person is soon found. */
const MIN_PASSWORD = 16;

/**
 * Parses a redis:// or rediss:// URL. Options in its query are refused, because they would have no effect.
 *
 * @param text REDIS_URL; undefined if it is not set
 * @param options.ca the certificates of REDIS_CA_FILE in PEM
 * @param options.production whether a password is required
 * @param problems receives a sentence for each problem
 * @returns undefined if the URL is not set or not usable
 */
export function parseRedisUrl(
  text: string | undefined,
  { ca, timeout, production }: { ca?: string; timeout: number; production: boolean },
  problems: string[],
): RedisSettings | undefined {
  if (text === undefined) {
    if (ca !== undefined) problems.push('REDIS_CA_FILE is set and REDIS_URL is not: set both, or neither');
    return undefined;
  }
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const usable =
    url && ['redis:', 'rediss:'].includes(url.protocol) && url.hostname !== '' && /^(?:\/\d{0,5})?$/.test(url.pathname);
  // A "#" in a password would end the password there, and lose the host.
  if (!usable || url.hash !== '') {
    problems.push('REDIS_URL must be a URL such as redis://:password@host:6379/0, or rediss://… for TLS');
    return undefined;
  }
  if (url.search !== '') problems.push('REDIS_URL must have no options after "?"');
  if (ca !== undefined && url.protocol === 'redis:')
    problems.push('REDIS_CA_FILE is set and REDIS_URL has no TLS: write rediss://');
  if (url.username !== '' && url.password === '') problems.push('REDIS_URL has a user and no password');
  else if (production && url.password === '')
    problems.push('REDIS_URL must hold a password in production: make one with: openssl rand -hex 32');
  else if (production && url.password.length < MIN_PASSWORD)
    problems.push(
      `REDIS_URL has a password of less than ${MIN_PASSWORD} characters: make one with: openssl rand -hex 32`,
    );
  try {
    return {
      host: url.hostname.replace(/^\[(.*)\]$/, '$1'),
      port: url.port === '' ? DEFAULT_PORT : Number(url.port),
      user: decodeURIComponent(url.username) || undefined,
      password: decodeURIComponent(url.password) || undefined,
      database: Number(url.pathname.slice(1)),
      tls: url.protocol === 'rediss:' && (ca === undefined ? {} : { ca }),
      timeout,
    };
  } catch {
    problems.push('REDIS_URL has a "%" in its user or password that must be written as %25');
    return undefined;
  }
}
