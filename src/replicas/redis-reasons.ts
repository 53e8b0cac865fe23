// What went wrong with Redis, in words for logs and operators. The driver's own errors contain the command, and so the password.
import type { RedisSettings } from './redis-settings.js';

/** Answers after which Redis is not usable for now: it is full, starting, a replica, or refuses this client. */
const AWAY: Readonly<Record<string, string>> = {
  OOM: 'it is full (maxmemory)',
  READONLY: 'it is a replica, which takes no writes',
  LOADING: 'it is loading its data',
  BUSY: 'a script keeps it busy',
  MASTERDOWN: 'its primary is away',
  CLUSTERDOWN: 'its cluster is down',
  TRYAGAIN: 'its cluster is moving the keys',
  NOREPLICAS: 'it has too few replicas to take writes',
  MISCONF: 'it takes no writes, because it cannot save its data',
  NOAUTH: 'it wants a password: set one in REDIS_URL',
  WRONGPASS: 'it refused the user or the password of REDIS_URL',
  NOPERM: 'the user of REDIS_URL may not do what is needed (docs/guide/redis.md)',
};

/** In the answer to a script, Redis 6.2 has the code in the middle: "ERR Error running script …: -OOM command …". */
const CODE = new RegExp(`(?:^|-)(${Object.keys(AWAY).join('|')}|NOSCRIPT)\\b`);

const NETWORK: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'it refused the connection',
  ECONNRESET: 'the connection was reset',
  EPIPE: 'the connection was closed',
  ETIMEDOUT: 'the connection could not be opened in time',
  ENOTFOUND: 'its host name is unknown',
  EAI_AGAIN: 'its host name cannot be looked up',
  EHOSTUNREACH: 'its host cannot be reached',
  ENETUNREACH: 'its network cannot be reached',
  EPROTO: 'it does not speak TLS',
  ERR_SSL_WRONG_VERSION_NUMBER: 'it does not speak TLS',
  ERR_TLS_CERT_ALTNAME_INVALID: 'its certificate is for another name',
  CERT_HAS_EXPIRED: 'its certificate has expired',
  CERT_NOT_YET_VALID: 'its certificate is not valid yet',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'its certificate is not trusted: set REDIS_CA_FILE',
  SELF_SIGNED_CERT_IN_CHAIN: 'its certificate is not trusted: set REDIS_CA_FILE',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'its certificate is not trusted: set REDIS_CA_FILE',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'its certificate is not trusted: set REDIS_CA_FILE',
  UNABLE_TO_GET_ISSUER_CERT: 'its certificate is not trusted: set REDIS_CA_FILE',
};

/** What kind of failure it was, in few words that can be counted. */
export const failureKinds = [
  'timeout',
  'connection',
  'full',
  'read-only',
  'refused-login',
  'not-ready',
  'error',
] as const;
export type FailureKind = (typeof failureKinds)[number];

const kinds: Readonly<Record<string, FailureKind>> = {
  OOM: 'full',
  READONLY: 'read-only',
  MASTERDOWN: 'not-ready',
  NOREPLICAS: 'not-ready',
  CLUSTERDOWN: 'not-ready',
  TRYAGAIN: 'not-ready',
  LOADING: 'not-ready',
  BUSY: 'not-ready',
  MISCONF: 'full',
  NOAUTH: 'refused-login',
  WRONGPASS: 'refused-login',
  NOPERM: 'refused-login',
};

export function failureKind(error: unknown): FailureKind {
  const reply = replyOf(error);
  if (reply !== undefined) return kinds[CODE.exec(reply)?.[1] ?? ''] ?? 'error';
  const late = error instanceof LateError || (error instanceof Error && error.message === HANDSHAKE_LATE);
  return late ? 'timeout' : 'connection';
}

/** No answer within REDIS_TIMEOUT_MS. */
export class LateError extends Error {}

/** The driver's error if its first commands on a connection get no answer. */
const HANDSHAKE_LATE = 'Command timed out';

function replyOf(error: unknown): string | undefined {
  return error instanceof Error && error.name === 'ReplyError' ? error.message : undefined;
}

/** Whether Redis answered with an error; if a code is given, with that error. */
export function isReply(error: unknown, code?: string): boolean {
  const reply = replyOf(error);
  return reply !== undefined && (code === undefined || CODE.exec(reply)?.[1] === code);
}

/** Whether the driver had no connection to send the command on. */
export function wasNotSent(error: unknown): boolean {
  return error instanceof Error && error.message.startsWith("Stream isn't writeable");
}

/** Whether Redis is at fault and not the command: there was no answer, or an answer that every command would get. */
export function isAway(error: unknown): boolean {
  const reply = replyOf(error);
  return reply === undefined || (CODE.exec(reply)?.[1] ?? 'NOSCRIPT') !== 'NOSCRIPT';
}

/** Why Redis cannot be used, in words that contain no part of a command. */
export function reasonOf(error: unknown, { timeout }: Pick<RedisSettings, 'timeout'>): string {
  const reply = replyOf(error);
  if (reply !== undefined) {
    const [, code = ''] = CODE.exec(reply) ?? [];
    const [first = ''] = /^[A-Z]+/.exec(reply) ?? [];
    return AWAY[code] ?? `it answered with an error (${first})`;
  }
  const { code, message } =
    error instanceof Error ? (error as NodeJS.ErrnoException) : { code: undefined, message: '' };
  if (code !== undefined) return NETWORK[code] ?? `the connection failed (${code})`;
  if (message === HANDSHAKE_LATE) return 'it accepted the connection and did not answer';
  if (error instanceof LateError) return `it did not answer within ${timeout} ms`;
  return 'the connection was closed';
}
