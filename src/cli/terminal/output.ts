// Where a command writes: its result to standard output, as text for people or as JSON for programs, and everything else to standard
// error.

export interface Output {
  /** Whether the result is JSON. */
  readonly json: boolean;
  /** Writes the result. A command does so once. @param text the same for people, for a terminal of this width; undefined: any */
  show(value: unknown, text: (width: number | undefined) => string): void;
  /** Writes a part of a result that is lines of JSON, as soon as it is known. */
  line(value: unknown): void;
  /** A line for people, beside the result. */
  note(line: string): void;
}

export function outputOf(json: boolean): Output {
  return {
    json,
    show(value, text) {
      const { isTTY, columns } = process.stdout;
      process.stdout.write(json ? `${escaped(JSON.stringify(value, null, 2))}\n` : text(isTTY ? columns : undefined));
    },
    line(value) {
      process.stdout.write(`${escaped(JSON.stringify(value))}\n`);
    },
    note(line) {
      if (!json) process.stderr.write(`${line}\n`);
    },
  };
}

/** JSON itself escapes only the first control characters. The others would steer a terminal too. */
function escaped(text: string): string {
  return text.replaceAll(/[\u007f-\u009f\p{Cf}\p{Zl}\p{Zp}]/gu, (character) =>
    character
      .split('')
      .map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
      .join(''),
  );
}
