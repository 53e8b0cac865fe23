// The definition of a command, and its help as `--help` shows it (command-line.ts).
import type { Flag, Flags } from './command-flags.js';

/** Arguments that are not flags. */
export interface Operands {
  /** The name in the usage line, such as `FOLDER`. */
  readonly name: string;
  readonly what: string;
  /** The smallest and the largest number of operands. */
  readonly min: number;
  readonly max: number;
  readonly oneOf?: readonly string[];
  readonly example?: string;
}

export interface Command<F extends Flags> {
  /** What the user types before the flags: `npm run bench --`. */
  readonly start: string;
  /** What the command does: whole lines, for the help. */
  readonly about: string;
  readonly flags: F;
  /** Without this the command takes no operands. */
  readonly operands?: Operands;
  /** The name of another program that reads all arguments, if there is one. Then only `--help` belongs to the command. */
  readonly passesTo?: string;
  /** Whole lines at the end of the help. */
  readonly notes?: string;
  /** The meaning of each exit code. 2 means a wrong command line, and need not be listed. */
  readonly exits: Readonly<Record<number, string>>;
  /** The exit code if the command throws. Default 1. */
  readonly failed?: number;
}

/** The arguments of the example in the help: every flag and operand that has an example. Empty if none has. */
export function exampleOf({ flags, operands }: Command<Flags>): string[] {
  const values = Object.entries(flags).flatMap(([name, { example }]) =>
    example === undefined ? [] : [`--${name}`, example],
  );
  return operands?.example === undefined ? values : [...values, operands.example];
}

/** The terminal width, in columns, at which lines of flags are wrapped. */
const WIDTH = 120;

/** The text that `--help` prints. */
export function helpOf(command: Command<Flags>): string {
  const { start, about, flags, operands, passesTo, notes, exits } = command;
  const options = Object.entries(flags);
  const usage = [
    ...(options.length > 0 ? ['[flags]'] : []),
    ...(operands ? [operandsUsage(operands)] : []),
    ...(passesTo === undefined ? [] : [`[arguments of ${passesTo}]`]),
  ];
  const rows: readonly Row[] = [
    ...(operands ? [[operands.name, operands.what] as const] : []),
    ...options.flatMap(([name, flag]) => rowsOf(name, flag)),
    ['--help', 'this text'],
  ];
  const width = Math.max(...rows.map(([name]) => name.length)) + 2;
  const example = exampleOf(command);
  const codes = Object.entries({ ...(passesTo === undefined && { 2: 'the command line is wrong' }), ...exits }).map(
    ([code, what]) => `${code} ${what}`,
  );
  return [
    // `npm run x --` needs the dashes only if something follows.
    `Usage: ${usage.length > 0 ? `${start} ${usage.join(' ')}` : start.replace(/ --$/, '')}`,
    '',
    about.trim(),
    '',
    ...rows.map(([name, what, lead = '']) => `  ${name.padEnd(width)}${lead}${wrapped(what, width + 2 + lead.length)}`),
    '',
    ...(example.length > 0 ? [`Example: ${start} ${example.join(' ')}`] : []),
    ...(notes === undefined ? [] : [notes.trim()]),
    wrapped(`Exit code: ${codes.join(', ')}.`, 0),
    '',
  ].join('\n');
}

function operandsUsage({ name, min, max }: Operands): string {
  const shown = max > 1 ? `${name} …` : name;
  return min > 0 ? shown : `[${shown}]`;
}

/** `lead` comes before the text. Later lines of the text are indented by its length. */
type Row = readonly [name: string, what: string, lead?: string];

function rowsOf(name: string, { placeholder, what, notes, choices = {} }: Flag<unknown>): Row[] {
  const flag = placeholder === undefined ? `--${name}` : `--${name} ${placeholder}`;
  const width = Math.max(0, ...Object.keys(choices).map((choice) => choice.length)) + 2;
  return [
    [flag, notes.length > 0 ? `${what} (${notes.join('; ')})` : what],
    ...Object.entries(choices).map(([choice, meaning]): Row => ['', meaning, `  ${choice.padEnd(width)}`]),
  ];
}

/** Breaks a line between words. The second and later lines are indented by `indent` spaces. */
function wrapped(line: string, indent: number): string {
  if (indent + line.length <= WIDTH) return line;
  const end = line.lastIndexOf(' ', WIDTH - indent);
  if (end <= 0) return line;
  return `${line.slice(0, end)}\n${' '.repeat(indent)}${wrapped(line.slice(end + 1), indent)}`;
}
