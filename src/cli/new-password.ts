// Where a command gets a new password from: a file, standard input, or the person at the terminal. Never from its arguments, which
// every user of the machine can read.
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

export interface PasswordSource {
  readonly file: string | undefined;
  readonly stdin: boolean;
}

/** @throws UsageError if there are two sources, or neither a source nor a terminal */
export function checkSource({ file, stdin }: PasswordSource): void {
  if (file !== undefined && stdin) throw new UsageError('--password-file and --stdin exclude each other');
  if (file === undefined && !stdin && !(process.stdin.isTTY && process.stdout.isTTY))
    throw new UsageError('no terminal can show a new password here: give one with --stdin or --password-file');
}

/**
 * @param from a source that `checkSource` accepts
 * @param refusalOf why a password cannot be used, in words that continue "The password …"
 * @throws PlainError if the given password is refused, or none was given
 */
export async function newPassword(
  from: PasswordSource,
  refusalOf: (password: string) => string | undefined,
): Promise<NewPassword> {
  const given = await givenPassword(from);
  if (given !== undefined) {
    const refusal = refusalOf(given);
    if (refusal !== undefined) throw new PlainError(`The password ${refusal}`);
    return { password: given, generated: false };
  }
  return ask(refusalOf);
}

async function givenPassword({ file, stdin }: PasswordSource): Promise<string | undefined> {
  if (stdin) return withoutLineBreak(await textOf(process.stdin));
  if (file === undefined) return undefined;
  const content = await readFile(file, 'utf8').catch((error: unknown) => {
    throw new PlainError(`${file} cannot be read (${(error as NodeJS.ErrnoException).code ?? ''})`, { cause: error });
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
      if (typed === '') return { password: randomBytes(15).toString('base64url'), generated: true };
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
 * `next` throws PlainError on Ctrl-D.
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
      if (line.done === true) throw new PlainError('No password was given');
      return line.value;
    },
    close() {
      lines.close();
    },
  };
}
