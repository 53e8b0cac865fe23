// Errors in plain words, for operators: what happened, with a code to look up. Never the text of an error: it may quote a statement,
// a row, an address or a password.
import { DatabaseFault, type DatabaseFaultKind } from '../../db/driver/database-fault.js';
import { LocksKept } from '../../db/shared/patient-locks.js';
import { AppError } from '../errors.js';

const faults: Readonly<Record<DatabaseFaultKind, string>> = {
  unavailable: 'a database could not be used',
  busy: 'a database had no free connection in time',
  timeout: 'a database did not answer in time',
};

/** SQLSTATEs and system error codes: `42P01`, `ECONNREFUSED`. */
const CODE = /^[A-Z0-9_]{2,40}$/;

/** An error whose message is one of our own texts, as a part of a sentence. It quotes nothing, so operators may read it. */
export class PlainError extends Error {
  override readonly name: string = 'PlainError';
}

/** A run of a job that was ended at its deadline. */
export class MissedDeadline extends PlainError {
  override readonly name = 'MissedDeadline';

  /** @param deadline ms */
  constructor(deadline: number) {
    super(`it did not end within ${deadline < 1_000 ? `${deadline} ms` : `${Math.round(deadline / 1_000)} s`}`);
  }
}

/** @returns a sentence without its full stop, of at most 200 characters */
export function inPlainWords(error: unknown): string {
  if (error instanceof LocksKept) return error.message;
  // Its reason is a code or one of our own fixed texts.
  if (error instanceof DatabaseFault) return `${faults[error.kind]} (${error.reason.slice(0, 100)})`;
  if (error instanceof AppError) return `the service refused it (${error.code})`;
  if (error instanceof PlainError) return error.message;
  const code = codeOf(error);
  if (code !== undefined)
    return error instanceof Error && 'severity' in error
      ? `a database refused a statement (${code})`
      : `the system refused an operation (${code})`;
  return 'an unexpected error, which the log shows';
}

function codeOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' && CODE.test(error.code) ? error.code : undefined;
}
