// What a command of `tenantry` is: one file describes it, and says what it does with an engine. Loading a description loads nothing of
// the service, so that `--help` answers at once; what a command needs is imported when it runs.
import type { Option } from 'commander';
import type { AuditOrigin } from '../../../db/shared/audit-rows.js';
import type { Settings } from '../../config/index.js';
import type { Engine } from '../../engine/index.js';
import type { ExitCode } from './exit-codes.js';
import type { Output } from './output.js';

interface Described {
  readonly name: string;
  /** A sentence or two, for the help. */
  readonly about: string;
  readonly operands?: readonly Operand[];
  readonly options?: readonly Option[];
  /** What follows the command's name in the example of the help. The example is accepted as it is. */
  readonly example: string;
  /** Paragraphs after the options. */
  readonly notes?: string;
}

export interface Operand {
  readonly name: string;
  readonly what: string;
  readonly optional?: boolean;
}

/** A command on the engine. */
export interface EngineCommand<Options = object> extends Described {
  /** `acts` changes something and is audited: it has --as. `asks` also has a question and --yes. */
  readonly kind: 'reads' | 'acts' | 'asks';
  /**
   * Names of input at the command line, by its path in the API's body, where it is not `--like-the-path`. A path that ends in a
   * slash is that of everything below it.
   */
  readonly inputNames?: Readonly<Record<string, string>>;
  /** Answers without an engine. @returns undefined if the command needs an engine */
  answer?(options: Options, out: Output): Promise<ExitCode | undefined>;
  /** Shows why no engine could be opened. @returns undefined if the usual sentence shows it */
  unopened?(error: unknown, out: Output): Promise<ExitCode | undefined>;
  /** @returns the exit code; none means done */
  run(given: Given<Options>): Promise<ExitCode | undefined>;
}

/** A command that is a process of its own: it reads its arguments and sets its exit code itself. */
export interface ProcessCommand extends Described {
  start(args: readonly string[]): Promise<void>;
}

export interface Given<Options> {
  readonly engine: Engine;
  readonly settings: Settings;
  readonly environment: NodeJS.ProcessEnv;
  readonly operands: readonly string[];
  readonly options: Options;
  readonly out: Output;
  /** Who acts, for the audit. @param first as in acting-operator.ts */
  origin(first?: boolean): Promise<AuditOrigin>;
  /** Resolves if the person agrees, or gave --yes. */
  ask(question: string): Promise<void>;
}

/** Commands on one kind of thing. */
export interface CommandGroup {
  readonly name: string;
  readonly about: string;
  readonly commands: readonly EngineCommand<never>[];
}

/** The first operand; '' if it is not given. */
export function operand({ operands }: Pick<Given<object>, 'operands'>): string {
  return operands[0] ?? '';
}
