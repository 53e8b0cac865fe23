// Why the service, or a command, cannot start: a sentence for the person at the terminal, who can correct it.
import { HistoryDiffers } from '../../db/shared/migration-history.js';
import { ConfigError } from '../config/index.js';
import { hasCode } from '../embedded/run.js';
import { AddressError } from '../http/listen-address.js';
import { inPlainWords, PlainError } from '../jobs/plain-words.js';
import { describeError } from '../lib/command-line.js';

/** The machine does not allow the start. The message is one sentence; it may be followed by lines of PostgreSQL's log. */
export class StartProblem extends Error {
  override readonly name = 'StartProblem';
}

/** Each sentence continues "DATA_DIR (/its/path) …". */
const folderProblems: Readonly<Record<string, string>> = {
  EACCES: 'cannot be used by this user: start as its owner, or set DATA_DIR to a folder of this user',
  EPERM: 'cannot be used by this user: start as its owner, or set DATA_DIR to a folder of this user',
  EROFS: 'is on a file system that is read-only: set DATA_DIR to a folder that can be written',
  ENOTDIR: 'is a file or below a file: set DATA_DIR to a folder',
  EEXIST: 'is a file or below a file: set DATA_DIR to a folder',
  ENOENT: 'cannot be made: set DATA_DIR to a folder that this user can make',
  ENAMETOOLONG: 'is too long for this system: set DATA_DIR to a shorter path',
  ELOOP: 'is a link that leads to itself: set DATA_DIR to a folder',
  ENOSPC: 'is on a disk without free space: free some, or set DATA_DIR to a folder elsewhere',
  EDQUOT: 'is on a disk without free space for this user: free some, or set DATA_DIR to a folder elsewhere',
};

/** The sentence for a system error about DATA_DIR. Any other error is returned unchanged. */
export function folderProblem(error: unknown, dataDir: string): unknown {
  const code = Object.keys(folderProblems).find((each) => hasCode(error, each));
  if (code === undefined || !(error instanceof Error) || !('syscall' in error)) return error;
  return new StartProblem(`DATA_DIR (${dataDir}) ${folderProblems[code] ?? ''} (${code}).`, { cause: error });
}

/**
 * What a failed start writes on standard error: a sentence, if the person at the terminal can correct the problem, otherwise the
 * stack.
 *
 * @param debug adds the stack to a sentence
 */
export function describeProblem(error: unknown, debug = false): string {
  const sentence = problemSentence(error);
  if (sentence === undefined) return describeError(error);
  return debug ? `${sentence}\n${describeError(error)}` : sentence;
}

/** The sentence for a problem that the person at the terminal can correct; undefined for every other error. */
export function problemSentence(error: unknown): string | undefined {
  if (error instanceof PlainError) return `${inPlainWords(error)}.`;
  const expected = [ConfigError, StartProblem, AddressError, HistoryDiffers].some((kind) => error instanceof kind);
  return expected && error instanceof Error ? error.message : undefined;
}
