// The kinds of flags that a command line can have, and how each reads its value (command-line.ts).

/** The command line is wrong. The message is one line, and is shown without a stack. */
export class UsageError extends Error {}

/** One flag. The functions below make flags. */
export interface Flag<T> {
  /** The placeholder of the value in the help, such as `N`; undefined for a flag that takes no value. */
  readonly placeholder: string | undefined;
  /** What the flag does, as the help shows it. */
  readonly what: string;
  /** Bounds and default, for the help. */
  readonly notes: readonly string[];
  /** If the values are few: each value with its meaning. */
  readonly choices?: Readonly<Record<string, string>>;
  /** A value for the example in the help. */
  readonly example: string | undefined;
  /**
   * @param given every value in its order; empty when the flag is absent, `['']` for a flag that takes no value
   * @throws UsageError
   */
  readonly read: (name: string, given: readonly string[]) => T;
}

export type Flags = Readonly<Record<string, Flag<unknown>>>;

export type ValuesOf<F extends Flags> = { readonly [Name in keyof F]: F[Name] extends Flag<infer T> ? T : never };

/** A flag without a value, which is present or absent: `--keep`. */
export function toggle({ what }: { readonly what: string }): Flag<boolean> {
  return { placeholder: undefined, what, notes: [], example: undefined, read: (_, given) => given.length > 0 };
}

interface ValueFlag<Value, Default> {
  readonly what: string;
  readonly default?: Default;
  /** The default in words, if the default has no value or differs from run to run. */
  readonly defaultText?: string;
  readonly example?: Value;
}

/** `--rounds 5`: digits only. Undefined if it is absent and has no default. If it is repeated, the last one counts. */
export function wholeNumber<Default extends number | undefined = undefined>(
  spec: ValueFlag<number, Default> & { readonly min: number; readonly max: number; readonly placeholder?: string },
): Flag<number | Default> {
  const { min, max, what, placeholder = 'N', example } = spec;
  return {
    placeholder,
    what,
    notes: [`${min} to ${max}`, ...defaultNote(spec)],
    example: example?.toString(),
    read: (name, given) => {
      const text = given.at(-1);
      if (text === undefined) return spec.default as Default;
      const value = /^\d{1,15}$/.test(text) ? Number(text) : NaN;
      if (value >= min && value <= max) return value;
      throw new UsageError(`--${name} must be a whole number from ${min} to ${max}, not ${quoted(text)}`);
    },
  };
}

/**
 * `--json FILE`: any text except the empty one. Undefined if it is absent and has no default. If it is repeated, the last one
 * counts.
 */
export function text<Default extends string | undefined = undefined>(
  spec: ValueFlag<string, Default> & { readonly placeholder: string },
): Flag<string | Default> {
  const { what, placeholder, example } = spec;
  return {
    placeholder,
    what,
    notes: defaultNote(spec),
    example,
    read: (name, given) => {
      if (given.at(-1) === '') throw new UsageError(`--${name} needs a value`);
      return given.at(-1) ?? (spec.default as Default);
    },
  };
}

/** `--scenario read,list`: some of the choices, separated by commas; by default all of them. */
export function someOf<Choice extends string>(
  choices: Readonly<Record<Choice, string>>,
  spec: { readonly what: string; readonly placeholder: string; readonly example?: string },
): Flag<readonly Choice[]> {
  const known = Object.keys(choices) as Choice[];
  const { what, placeholder, example } = spec;
  return {
    placeholder,
    what,
    notes: ['default: all'],
    choices,
    example,
    read: (name, given) => {
      const wanted =
        given
          .at(-1)
          ?.split(',')
          .map((each) => each.trim()) ?? known;
      const unknown = wanted.filter((each) => !(known as string[]).includes(each));
      if (unknown.length === 0) return wanted as Choice[];
      throw new UsageError(`--${name} has no ${unknown.map(quoted).join(', ')}; there are ${known.join(', ')}`);
    },
  };
}

/** `--env NAME=VALUE`: environment variables; can be repeated. The value of a wrong variable is not shown: it may be secret. */
export function variables(spec: { readonly what: string; readonly example?: string }): Flag<Record<string, string>> {
  const { what, example } = spec;
  return {
    placeholder: 'NAME=VALUE',
    what,
    notes: ['can be repeated'],
    example,
    read: (name, given) =>
      Object.fromEntries(
        given.map((each) => {
          const [, key, value] = /^([A-Z_][A-Z0-9_]*)=(.*)$/s.exec(each) ?? [];
          if (key === undefined || value === undefined)
            throw new UsageError(`--${name} must be NAME=VALUE${example === undefined ? '' : `, such as ${example}`}`);
          return [key, value] as const;
        }),
      ),
  };
}

/** Quotes typed text, so that a message stays on one line. */
export function quoted(typed: string): string {
  return JSON.stringify(typed);
}

function defaultNote(spec: {
  readonly default?: number | string | undefined;
  readonly defaultText?: string;
}): string[] {
  if (spec.defaultText !== undefined) return [`default: ${spec.defaultText}`];
  return spec.default === undefined ? [] : [`default ${String(spec.default)}`];
}
