// The environment as typed values: every variable parsed by its own schema, or its documented default.
import type { z } from 'zod';
import { variables } from './variables/all-variables.js';
import type { Variable } from './variables/variable-types.js';

export type VariableName = keyof typeof variables;

/** Undefined: the variable is not set and has no default, or its text was refused. */
export type ParsedVariables = { [K in VariableName]: z.output<(typeof variables)[K]['schema']> | undefined };

/** Variables that always have a value. */
type DefaultedName = { [K in VariableName]: (typeof variables)[K]['default'] extends '' ? never : K }[VariableName];

/**
 * Parses every variable. An empty variable counts as not set.
 *
 * @param problems receives a sentence for each variable that is refused; no sentence repeats the text, which may be a secret
 */
export function parseVariables(env: NodeJS.ProcessEnv, problems: string[]): ParsedVariables {
  const values: Partial<Record<VariableName, unknown>> = {};
  const production = env['NODE_ENV'] === 'production';
  for (const [name, variable] of Object.entries(variables) as [VariableName, Variable][]) {
    const byDefault =
      typeof variable.default === 'string' ? variable.default : String(variable.default.derive(production));
    const text = env[name] === undefined || env[name] === '' ? byDefault : env[name];
    if (text === '') continue;
    const result = variable.schema.safeParse(text);
    if (result.success) values[name] = result.data;
    // Several bad entries of one list have the same message.
    else problems.push(...new Set(result.error.issues.map((issue) => `${name} ${issue.message}`)));
  }
  return values as ParsedVariables;
}

/** The documented defaults, parsed by the same schemas. */
const defaults = parseVariables({}, []);

/**
 * The value of a variable that has a default. A refused text counts as not set here, so that one bad variable does not cause
 * further problems.
 */
export function valueOf<K extends DefaultedName>(values: ParsedVariables, name: K): NonNullable<ParsedVariables[K]> {
  return (values[name] ?? defaults[name]) as NonNullable<ParsedVariables[K]>;
}
