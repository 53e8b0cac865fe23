// The operator who runs a command. A person who can run it can read the registry's password, and so has every right already: no
// password is asked for. The audit needs to know who it was, so the operator must exist and be active.
import type { Kysely } from 'kysely';
import { findOperatorByEmail, listOperators } from '../../../db/registry/operator-queries.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import type { AuditOrigin } from '../../../db/shared/audit-rows.js';
import { CommandError, EXIT } from './exit-codes.js';
import { visible } from './shown-text.js';

/** Operators that a message names. */
const MOST_NAMED = 10;

export interface ActingAs {
  /** The e-mail address of --as, or of TENANTRY_OPERATOR. */
  readonly email: string | undefined;
  /** The command, as the audit shows it: `tenantry tenants suspend`. */
  readonly command: string;
  /** Whether the act is possible while there is no active operator. It is then audited without an actor. */
  readonly first?: boolean;
}

/**
 * The origin of an act at the command line.
 *
 * @throws CommandError if there is no such operator, it is not active, or several are and none is named
 */
export async function originAtCommandLine(
  registry: Kysely<Registry>,
  { email, command, first = false }: ActingAs,
): Promise<AuditOrigin> {
  const operator = email === undefined ? await onlyActive(registry, first) : await named(registry, email);
  if (operator === undefined) return { actor: { kind: 'none' }, userAgent: command };
  return { actor: { kind: 'operator', id: operator.id, atCommandLine: true }, userAgent: command };
}

async function named(registry: Kysely<Registry>, email: string): Promise<{ id: string }> {
  const operator = await findOperatorByEmail(registry, email.toLowerCase());
  const shown = visible(email).slice(0, 254);
  if (!operator) throw new CommandError(EXIT.refused, `There is no operator with the e-mail address "${shown}".`);
  if (!operator.active) throw new CommandError(EXIT.refused, `The operator ${operator.email} is not active.`);
  return operator;
}

async function onlyActive(registry: Kysely<Registry>, first: boolean): Promise<{ id: string } | undefined> {
  const [one, ...more] = await listOperators(registry, MOST_NAMED, { active: true });
  if (!one && first) return undefined;
  if (!one)
    throw new CommandError(EXIT.refused, 'There is no active operator. Create one with: tenantry operators create');
  if (more.length === 0) return one;
  const names = [one, ...more].map(({ email }) => email).join(', ');
  throw new CommandError(
    EXIT.usage,
    `There are several operators (${names}). Name the one who acts with --as or TENANTRY_OPERATOR.`,
  );
}
