// What a command shows when it fails: a sentence, and the exit code. Never a stack, a statement or a secret.
import { DatabaseFault } from '../../../db/driver/database-fault.js';
import { OperatorRefusal } from '../../auth/operators/operator-reset.js';
import { problemSentence } from '../../boot/start-problem.js';
import type { AppError } from '../../errors.js';
import { toAppError } from '../../http/problem.js';
import { inPlainWords } from '../../jobs/plain-words.js';
import { UsageError } from '../../lib/command-line.js';
import { UnusablePassword } from '../new-password.js';
import { CommandError, EXIT, type ExitCode } from './exit-codes.js';

export interface Failure {
  readonly exit: ExitCode;
  /** Branch on this: a code of docs/reference/errors.md, `usage` or `failed`. */
  readonly code: string;
  /** Sentences. */
  readonly message: string;
  /** What is wrong with the input, by the names of the command line. */
  readonly issues: readonly string[];
  readonly operationId?: string;
}

/** Codes of wrong input. Other codes of the statuses 400 to 499 are refusals. */
const INPUT = ['invalid-request', 'invalid-limits', 'invalid-pool-options'];

/** @param nameOf an input's name at the command line, by its path in the body */
export function failureOf(error: unknown, nameOf: (path: string) => string): Failure {
  if (error instanceof CommandError)
    return { exit: error.exit, code: codeOfExit(error.exit), message: error.message, issues: [] };
  if (error instanceof UsageError)
    return { exit: EXIT.usage, code: 'usage', message: `${asSentence(error.message)}.`, issues: [] };
  if (error instanceof UnusablePassword)
    return { exit: EXIT.usage, code: 'usage', message: `${error.message}.`, issues: [] };
  if (error instanceof OperatorRefusal)
    return { exit: EXIT.refused, code: 'refused', message: `${asSentence(error.message)}.`, issues: [] };
  const plain = problemSentence(error);
  if (plain !== undefined) return { exit: EXIT.failed, code: 'failed', message: plain, issues: [] };
  if (error instanceof DatabaseFault)
    return { exit: EXIT.failed, code: 'unavailable', message: `${asSentence(inPlainWords(error))}.`, issues: [] };
  const known = toAppError(error);
  if (known.code === 'internal-error') return unexpected(error);
  return ofCatalogue(known, nameOf);
}

function ofCatalogue(error: AppError, nameOf: (path: string) => string): Failure {
  const { code, status, detail, issues = [], operationId, message, cause } = error;
  const database = detail === undefined && cause instanceof DatabaseFault ? `: ${inPlainWords(cause)}` : '';
  const sentence = detail === undefined ? `${message}${database}.` : inCommands(detail);
  return {
    exit: exitOf(code, status),
    code,
    message: sentence,
    issues: issues.map(({ path, message: wrong }) => `${nameOf(path)} ${wrong}`),
    ...(operationId !== undefined && { operationId }),
  };
}

function exitOf(code: string, status: number): ExitCode {
  if (code === 'operation-unfinished') return EXIT.incomplete;
  if (INPUT.includes(code)) return EXIT.usage;
  return status < 500 && status !== 429 ? EXIT.refused : EXIT.failed;
}

function unexpected(error: unknown): Failure {
  const message = `It failed: ${inPlainWords(error).replace(', which the log shows', '')}. LOG_LEVEL=debug shows more.`;
  return { exit: EXIT.failed, code: 'failed', message, issues: [] };
}

/** The catalogue's sentences name requests of the API. At the command line they name commands. */
export function inCommands(sentence: string): string {
  return sentence
    .replaceAll(/GET \/operations\/([0-9a-f-]{36})/g, 'tenantry operations show $1')
    .replaceAll(
      /GET \/tenants\/([0-9a-f-]{36})( shows the tenant), or answers 404/g,
      'tenantry tenants show $1$2, or finds none',
    )
    .replaceAll(/POST \/tenants\/([0-9a-f-]{36})\/purge\?database=(\w+)/g, 'tenantry tenants purge $1 --database $2')
    .replaceAll(/send DELETE \/tenants\/([0-9a-f-]{36}) again/g, 'run tenantry tenants delete $1 again')
    .replaceAll(/DELETE \/tenants\/([0-9a-f-]{36})/g, 'tenantry tenants delete $1');
}

function asSentence(message: string): string {
  return message.charAt(0).toUpperCase() + message.slice(1);
}

function codeOfExit(exit: ExitCode): string {
  return { [EXIT.usage]: 'usage', [EXIT.refused]: 'refused' }[exit as number] ?? 'failed';
}
