// How an environment variable is described: for the parser and for docs/reference/configuration.md.
import type { z } from 'zod';

/** One environment variable. */
export interface Variable {
  /** From the text to the value. Its messages follow the variable's name: "PORT must be a whole number". */
  readonly schema: z.ZodType;
  /** The text that counts if the variable is not set; '' if there is no default. */
  readonly default: string | DerivedDefault;
  readonly unit: string;
  /** The meaning, in Markdown. */
  readonly description: string;
  /** Whether a file can hold the value; the variable's name with `_FILE` then names the file. */
  readonly secret?: true;
}

/** A default that depends on the machine or on NODE_ENV. The documentation shows the rule, not the value of one machine. */
export interface DerivedDefault {
  readonly rule: string;
  readonly derive: (production: boolean) => number;
}

/** Variables about one subject: one section of docs/reference/configuration.md. */
export interface VariableGroup {
  readonly subject: string;
  readonly variables: Readonly<Record<string, Variable>>;
}
