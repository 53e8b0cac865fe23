// What a command is, and its help as `--help` shows it (command-line.ts).
import type { Flag, Flags } from './command-flags.js';

/** Arguments that are no flags. */
export interface Operands {
  /** As the usage line shows it, such as `FOLDER`. */
  readonly name: string;
  readonly what: string;
  /** How many there must be, and may be. */
  readonly min: number;
  readonly max: number;
  readonly oneOf?: readonly string[];
  readonly example?: string;
}

export interface Command<F extends Flags> {
  /** What one types before the flags: `npm run bench --`. */
  readonly start: string;
  /** What the command does: whole lines, for the help. */
  readonly about: string;
  readonly flags: F;
  /** Without them the command takes none. */
  readonly operands?: Operands;
  /** Set when another program reads all arguments: its name. Only `--help` is the command's own then. */
  readonly passesTo?: string;
  /** Whole lines at the end of the help. */
  readonly notes?: string;
  /** What each exit code means. 2 is a wrong command line, and need not be listed. */
  readonly exits: Readonly<Record<number, string>>;
  /** The exit code when the command throws; 1 by default. */
  readonly failed?: number;
}

/** The arguments of the example in the help: every flag and operand that has one. Empty when none has. */
export function exampleOf({ flags, operands }: Command<Flags>): string[] {
  const values = Object.entries(flags).flatMap(([name, { example }]) =>
    example === undefined ? [] : [`--${name}`, example],
  );
  return operands?.example === undefined ? values : [...values, operands.example];
}

/** Columns of the terminal that the lines of flags are wrapped at. */
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
    // `npm run x --` needs the dashes only when something follows.
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

/** `lead` comes before the text, and later lines of the text begin below its end. */
type Row = readonly [name: string, what: string, lead?: string];

function rowsOf(name: string, { placeholder, what, notes, choices = {} }: Flag<unknown>): Row[] {
  const flag = placeholder === undefined ? `--${name}` : `--${name} ${placeholder}`;
  const width = Math.max(0, ...Object.keys(choices).map((choice) => choice.length)) + 2;
  return [
    [flag, notes.length > 0 ? `${what} (${notes.join('; ')})` : what],
    ...Object.entries(choices).map(([choice, meaning]): Row => ['', meaning, `  ${choice.padEnd(width)}`]),
  ];
}

/** Broken into lines between words; the second line and the next begin after `indent` spaces. */
function wrapped(line: string, indent: number): string {
  if (indent + line.length <= WIDTH) return line;
  const end = line.lastIndexOf(' ', WIDTH - indent);
  if (end <= 0) return line;
  return `${line.slice(0, end)}\n${' '.repeat(indent)}${wrapped(line.slice(end + 1), indent)}`;
}
