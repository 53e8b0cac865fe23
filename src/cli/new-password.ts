// Where a command gets a password from: the environment, a file, standard input, or the person at the terminal. Never from its
// arguments, which every user of the machine can read.
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { text as textOf } from 'node:stream/consumers';
import { Writable } from 'node:stream';
import { PlainError } from '../jobs/plain-words.js';
import { UsageError } from '../lib/command-line.js';

export interface NewPassword {
  readonly password: string;
  /** Whether it was made up here, so that it must be shown. */
  readonly generated: boolean;
}

/** The given password cannot be used, or none was given. The message is a sentence without its full stop. */
export class UnusablePassword extends PlainError {
  override readonly name = 'UnusablePassword';
}

export interface PasswordSource {
  readonly file: string | undefined;
  readonly stdin: boolean;
  /** The value of a variable of the environment that holds the password. */
  readonly variable?: string | undefined;
  /** Makes a password up, instead of asking. */
  readonly make?: boolean;
  /** Whether a terminal may be asked. Default: if there is one. */
  readonly mayAsk?: boolean;
}

/** @throws UsageError if there are two sources, or neither a source nor a terminal */
export function checkSource({ file, stdin, variable, make = false, mayAsk = true }: PasswordSource): void {
  if (file !== undefined && stdin) throw new UsageError('--password-file and --stdin exclude each other');
  const sources = [file !== undefined, stdin, variable !== undefined, make].filter((given) => given);
  if (sources.length > 1)
    throw new UsageError(
      'the password is given twice: by a variable of the environment and by an option, or by two options',
    );
  if (sources.length === 0 && !(mayAsk && process.stdin.isTTY && process.stdout.isTTY))
    throw new UsageError('no terminal can show a new password here: give one with --stdin or --password-file');
}

/**
 * @param from a source that `checkSource` accepts
 * @param refusalOf why a password cannot be used, in words that continue "The password …"
 * @throws UnusablePassword if the given password is refused, or none was given
 */
export async function newPassword(
  from: PasswordSource,
  refusalOf: (password: string) => string | undefined,
): Promise<NewPassword> {
  const given = await givenPassword(from);
  if (given !== undefined) {
    const refusal = refusalOf(given);
    if (refusal !== undefined) throw new UnusablePassword(`The password ${refusal}`);
    return { password: given, generated: false };
  }
  return from.make === true ? { password: madeUp(), generated: true } : ask(refusalOf);
}

/**
 * A password that exists already, such as the one of a role on a server. A terminal is asked for it once, and does not show it.
 *
 * @param from a source that `checkSource` accepts
 * @throws UnusablePassword if none was given
 */
export async function existingPassword(from: PasswordSource, question: string): Promise<string> {
  const given = await givenPassword(from);
  if (given !== undefined) return given;
  const hidden = hiddenLines();
  try {
    return await hidden.next(question);
  } finally {
    hidden.close();
  }
}

function madeUp(): string {
  return randomBytes(15).toString('base64url');
}

async function givenPassword({ file, stdin, variable }: PasswordSource): Promise<string | undefined> {
  if (variable !== undefined) return variable;
  if (stdin) return withoutLineBreak(await textOf(process.stdin));
  if (file === undefined) return undefined;
  const content = await readFile(file, 'utf8').catch((error: unknown) => {
    throw new UnusablePassword(`${file} cannot be read (${(error as NodeJS.ErrnoException).code ?? ''})`, {
      cause: error,
    });
  });
  return withoutLineBreak(content);
}

/** One line break at the end is not part of the password. */
function withoutLineBreak(content: string): string {
  return content.replace(/\r?\n$/, '');
}

async function ask(refusalOf: (password: string) => string | undefined): Promise<NewPassword> {
  const hidden = hiddenLines();
  try {
    for (;;) {
      const typed = await hidden.next('New password (empty: make one up): ');
      if (typed === '') return { password: madeUp(), generated: true };
      const refusal = refusalOf(typed);
      if (refusal !== undefined) process.stdout.write(`The password ${refusal}.\n`);
      else if ((await hidden.next('The same again: ')) === typed) return { password: typed, generated: false };
      else process.stdout.write('The two are different.\n');
    }
  } finally {
    hidden.close();
  }
}

/**
 * Lines from the terminal, which does not show what is typed, from now until `close`. Ctrl-C ends the process as everywhere.
 * `next` throws UnusablePassword on Ctrl-D.
 */
function hiddenLines(): { next(question: string): Promise<string>; close(): void } {
  const nowhere = new Writable({
    write: (_chunk, _encoding, done) => {
      done();
    },
  });
  const lines = createInterface({ input: process.stdin, output: nowhere, terminal: true });
  lines.on('SIGINT', () => process.kill(process.pid, 'SIGINT'));
  const typed = lines[Symbol.asyncIterator]();
  return {
    async next(question) {
      process.stdout.write(question);
      const line = await typed.next();
      process.stdout.write('\n');
      if (line.done === true) throw new UnusablePassword('No password was given');
      return line.value;
    },
    close() {
      lines.close();
    },
  };
}
