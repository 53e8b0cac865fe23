// What the command lines of the scripts share: flags, help, and how a run ends.
import { parseArgs, type ParseArgsConfig } from 'node:util';

/** A command line that is wrong: shown without a stack. */
export class UsageError extends Error {}

/** How a run that checks promises ends. */
export const exitCodes = { kept: 0, broken: 1, usage: 2, failed: 3 } as const;

type Options = NonNullable<ParseArgsConfig['options']>;

/** @throws UsageError for flags that there are not */
export function parseFlags<O extends Options>(
  args: readonly string[],
  options: O,
): ReturnType<typeof parseArgs<{ args: string[]; options: O }>>['values'] {
  try {
    return parseArgs({ args: [...args], options }).values;
  } catch (error) {
    throw new UsageError((error as Error).message, { cause: error });
  }
}

/** @throws UsageError */
export function wholeNumber(flag: string, text: string, minimum: number, maximum: number): number {
  const value = /^\d{1,15}$/.test(text) ? Number(text) : NaN;
  if (value >= minimum && value <= maximum) return value;
  throw new UsageError(`--${flag} must be a whole number from ${minimum} to ${maximum}`);
}

export function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** Reads the flags and runs, or shows the help; `run` answers the exit code. */
export async function command<Flags extends object>(
  help: string,
  readFlags: (args: readonly string[]) => Flags | 'help',
  run: (flags: Flags) => Promise<number>,
): Promise<void> {
  try {
    const flags = readFlags(process.argv.slice(2));
    if (flags === 'help') process.stdout.write(help);
    else process.exitCode = await run(flags);
  } catch (error) {
    const usage = error instanceof UsageError;
    process.stderr.write(usage ? `${error.message}\n\n${help}` : `${String((error as Error).stack)}\n`);
    process.exitCode = usage ? exitCodes.usage : exitCodes.failed;
  }
}
