// The exit codes of `tenantry`, the same for every command.

export const EXIT = { done: 0, failed: 1, usage: 2, incomplete: 3, refused: 4, interrupted: 130 } as const;

export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/** For the help and for docs/reference/tenantry.md. */
export const exitMeanings: Readonly<Record<ExitCode, string>> = {
  [EXIT.done]: 'done',
  [EXIT.failed]: 'it failed, and may work later',
  [EXIT.usage]: 'the command line or the input is wrong',
  [EXIT.incomplete]: 'it is not finished: the service goes on with it, or tenants are missing',
  [EXIT.refused]: 'there is no such thing, or it is refused as it is',
  [EXIT.interrupted]: 'interrupted by Ctrl-C',
};

/** An error that is shown as its message: a sentence with its full stop. */
export class CommandError extends Error {
  override readonly name = 'CommandError';

  constructor(
    readonly exit: ExitCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}
