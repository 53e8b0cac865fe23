// The common part of the scripts.
/** Exit codes of a run that checks promises. 2 is a wrong command line (src/lib/command-line.ts). */
export const exitCodes = { kept: 0, broken: 1, failed: 3 } as const;

export function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
