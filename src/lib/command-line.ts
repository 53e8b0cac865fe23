// The one way to read a command line: flags with their type, default, bounds, help text and example; `--help`; and how a command
// ends. node:util splits the arguments.
//
//     const greet = defineCommand({
//       start: 'npm run greet --',
//       about: 'Greets.',
//       flags: { times: wholeNumber({ what: 'how often', min: 1, max: 9, default: 1, example: 3 }) },
//       exits: { 0: 'greeted' },
//     });
//     await runCommand(greet, async ({ flags }) => {
//       process.stdout.write('hello\n'.repeat(flags.times));
//       return 0;
//     });
import { parseArgs } from 'node:util';
import { quoted, UsageError, type Flags, type ValuesOf } from './command-flags.js';
import { exampleOf, helpOf, type Command, type Operands } from './command-help.js';

export { someOf, text, toggle, UsageError, variables, wholeNumber } from './command-flags.js';
export type { Command } from './command-help.js';

/** The exit code of every command if its command line is wrong. */
export const USAGE_EXIT = 2;

export interface CommandLine<F extends Flags> {
  readonly flags: ValuesOf<F>;
  readonly operands: readonly string[];
}

/** @throws TypeError if the command's own example is refused */
export function defineCommand<const F extends Flags>(command: Command<F>): Command<F> {
  try {
    const example = exampleOf(command);
    if (example.length > 0) readCommandLine(command, example);
  } catch (error) {
    throw new TypeError(`the example of ${command.start} is refused`, { cause: error });
  }
  return command;
}

/**
 * Reads the arguments. `--help` and `-h` override everything else on the line.
 *
 * @throws UsageError for an unknown flag, a bad or missing value, and too few or too many operands
 */
export function readCommandLine<F extends Flags>(
  command: Command<F>,
  args: readonly string[],
): CommandLine<F> | 'help' {
  const { flags, passesTo } = command;
  if (passesTo !== undefined)
    return args.includes('--help') ? 'help' : { flags: valuesOf(flags, new Map()), operands: args };
  const { tokens } = parseArgs({
    args: [...args],
    options: {
      ...Object.fromEntries(
        Object.entries(flags).map(([name, { placeholder }]) => [
          name,
          { type: placeholder === undefined ? 'boolean' : 'string' } as const,
        ]),
      ),
      help: { type: 'boolean', short: 'h' },
    },
    // We write the error messages ourselves: those of node:util are long, and name no command that helps.
    strict: false,
    tokens: true,
  });
  const options = tokens.filter((token) => token.kind === 'option');
  if (options.some(({ name }) => name === 'help')) return 'help';
  const given = new Map<string, string[]>();
  for (const { name, rawName, value, inlineValue } of options) {
    const flag = Object.hasOwn(flags, name) && rawName.startsWith('--') ? flags[name] : undefined;
    if (!flag) throw new UsageError(`there is no flag ${quoted(rawName)}`);
    if (flag.placeholder === undefined && value !== undefined) throw new UsageError(`--${name} takes no value`);
    // `--rounds --keep`: the next flag is not a value.
    if (flag.placeholder !== undefined && (value === undefined || (!inlineValue && value.startsWith('-'))))
      throw new UsageError(`--${name} needs a value`);
    given.set(name, [...(given.get(name) ?? []), value ?? '']);
  }
  const operands = tokens.flatMap((token) => (token.kind === 'positional' ? [token.value] : []));
  checkOperands(command.operands, operands);
  return { flags: valuesOf(flags, given), operands };
}

/** Where a command gets its arguments, and where it writes. */
export interface Terminal {
  readonly args: readonly string[];
  readonly out: (text: string) => void;
  readonly problem: (text: string) => void;
  readonly end: (code: number) => void;
}

function ofProcess(): Terminal {
  return {
    args: process.argv.slice(2),
    out: (text) => void process.stdout.write(text),
    problem: (text) => void process.stderr.write(text),
    end: (code) => (process.exitCode = code),
  };
}

/**
 * Reads the process's command line and runs the command, or shows its help.
 *
 * - `--help`: the help on standard output, exit code 0.
 * - A wrong command line, or a UsageError of `run`: one line on standard error, exit code 2.
 * - Any other error of `run`: its stack on standard error, exit code `command.failed`.
 *
 * @param run returns the exit code
 */
export async function runCommand<F extends Flags>(
  command: Command<F>,
  run: (line: CommandLine<F>) => Promise<number> | number,
  terminal: Terminal = ofProcess(),
): Promise<void> {
  try {
    const line = readCommandLine(command, terminal.args);
    if (line === 'help') terminal.out(helpOf(command));
    terminal.end(line === 'help' ? 0 : await run(line));
  } catch (error) {
    const usage = error instanceof UsageError;
    terminal.problem(usage ? `${error.message}. Help: ${command.start} --help\n` : `${describeError(error)}\n`);
    terminal.end(usage ? USAGE_EXIT : (command.failed ?? 1));
  }
}

/** The stack of an error and of its causes. */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { stack = error.message, cause } = error;
  return cause === undefined ? stack : `${stack}\ncaused by ${describeError(cause)}`;
}

function checkOperands(allowed: Operands | undefined, operands: readonly string[]): void {
  const { name = '', min = 0, max = 0, oneOf } = allowed ?? {};
  if (operands.length < min) throw new UsageError(`${name} is missing`);
  const unwanted = operands[max];
  if (unwanted !== undefined) throw new UsageError(`the argument ${quoted(unwanted)} is one too many`);
  const unknown = operands.find((each) => oneOf && !oneOf.includes(each));
  if (unknown !== undefined)
    throw new UsageError(`${name} must be one of ${(oneOf ?? []).join(', ')}, not ${quoted(unknown)}`);
}

function valuesOf<F extends Flags>(flags: F, given: ReadonlyMap<string, readonly string[]>): ValuesOf<F> {
  const entries = Object.entries(flags).map(([name, flag]) => [name, flag.read(name, given.get(name) ?? [])] as const);
  return Object.fromEntries(entries) as ValuesOf<F>;
}
