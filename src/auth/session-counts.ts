// Counts what happens to sessions: sign-ins, refreshes and ends. The rules themselves are in src/auth/sign-in.ts and
// src/auth/session-rules.ts.
import { AppError } from '../errors.js';
import type { Instruments } from '../observability/instruments.js';

/** Why sessions ended before they expired. */
export type EndReason = 'logout' | 'revoked' | 'logout-all' | 'reuse' | 'crowded-out' | 'account-changed';

/** The cause of the error for a refresh token that was presented a second time and ended its session. */
export const REUSED = 'reused';

/** Counts an attempt to sign in. A failure that says nothing about the attempt, such as a database that is away, is not counted. */
export async function countSignIn<T>(
  { signIns }: Pick<Instruments, 'signIns'>,
  realm: 'tenant' | 'operator',
  attempt: Promise<T>,
): Promise<T> {
  try {
    const result = await attempt;
    signIns.inc({ realm, outcome: 'success' });
    return result;
  } catch (error) {
    if (isError(error, 'invalid-credentials')) signIns.inc({ realm, outcome: 'failed' });
    else if (isError(error, 'rate-limited')) signIns.inc({ realm, outcome: 'refused' });
    throw error;
  }
}

export async function countRefresh<T>({ refreshes }: Pick<Instruments, 'refreshes'>, attempt: Promise<T>): Promise<T> {
  try {
    const result = await attempt;
    refreshes.inc({ outcome: 'success' });
    return result;
  } catch (error) {
    if (isError(error, 'invalid-refresh-token'))
      refreshes.inc({ outcome: error.cause === REUSED ? 'reused' : 'refused' });
    throw error;
  }
}

function isError(error: unknown, code: AppError['code']): error is AppError {
  return error instanceof AppError && error.code === code;
}
