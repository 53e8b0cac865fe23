// A new password for an operator whose password is lost: for a person with access to the registry, without a sign-in.
import type { Kysely } from 'kysely';
import { findOperatorByEmail, listOperators, replaceOperatorPassword } from '../../../db/registry/operator-queries.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import type { AuditOrigin } from '../../../db/shared/audit-rows.js';
import { deleteSessionsOf, sessionsIn } from '../../../db/shared/session-queries.js';
import { auditAct, SERVICE } from '../../audit/operator-act.js';
import { PlainError } from '../../jobs/plain-words.js';
import { weaknessOf } from '../common-passwords.js';
import { OPERATORS, type Passwords } from '../passwords.js';
import type { Sessions } from '../session-rules.js';

interface ResetDeps {
  readonly registry: Kysely<Registry>;
  readonly passwords: Pick<Passwords, 'hash'>;
  readonly sessions: Pick<Sessions, 'ended'>;
}

/** An act on an operator that is refused as it is. The message is a part of a sentence. */
export class OperatorRefusal extends PlainError {
  override readonly name = 'OperatorRefusal';
}

/** The bounds of every new password. */
const SHORTEST = 12;
const LONGEST = 200;

/** Operators that a message names. */
const MOST_NAMED = 10;

/**
 * The operator whose password is to be set.
 *
 * @param email undefined: the only operator that there is
 * @throws OperatorRefusal if there is no such operator, it is not active, or several exist and none is named
 */
export async function operatorToReset(
  registry: Kysely<Registry>,
  email: string | undefined,
): Promise<{ id: string; email: string }> {
  const operator = email === undefined ? await onlyOperator(registry) : await findOperatorByEmail(registry, email);
  if (!operator) throw new OperatorRefusal(`there is no operator with the e-mail address ${email ?? ''}`);
  if (!operator.active) throw new OperatorRefusal(`the operator ${operator.email} is not active`);
  return operator;
}

async function onlyOperator(registry: Kysely<Registry>): Promise<{ id: string; email: string; active: boolean }> {
  const [first, ...more] = await listOperators(registry, MOST_NAMED);
  if (!first)
    throw new OperatorRefusal('there is no operator: start the service with OPERATOR_EMAIL and OPERATOR_PASSWORD');
  if (more.length === 0) return first;
  const names = [first, ...more].map(({ email }) => email).join(', ');
  throw new OperatorRefusal(`there are several operators (${names}): name one`);
}

/** Why a password cannot be an operator's, in words that continue "The password …"; undefined if it can. */
export function refusalOf(password: string, email: string): string | undefined {
  // As it is hashed.
  const { length } = password.normalize('NFKC');
  if (length < SHORTEST || length > LONGEST) return `must have ${SHORTEST} to ${LONGEST} characters`;
  if (password.includes('\0') || !password.isWellFormed()) return 'must not contain NUL or lone surrogates';
  return weaknessOf(password, [email]);
}

/**
 * Sets the password, and ends every session of the operator, on every replica before it returns. Audited.
 *
 * @param password one that `refusalOf` does not refuse
 * @param origin who acts; without one the act is audited without an actor
 * @returns the number of sessions that were ended
 * @throws OperatorRefusal if the operator is not active any more
 */
export async function resetOperatorPassword(
  { registry, passwords, sessions }: ResetDeps,
  operator: { readonly id: string; readonly email: string },
  password: string,
  origin: AuditOrigin = { ...SERVICE, userAgent: 'operator:reset-password' },
): Promise<number> {
  const passwordHash = await passwords.hash(password, OPERATORS);
  const ended = await registry.transaction().execute(async (trx) => {
    if (!(await replaceOperatorPassword(trx, operator.id, passwordHash)))
      throw new OperatorRefusal(`the operator ${operator.email} is not active`);
    const target = { kind: 'operator', id: operator.id } as const;
    await auditAct(trx, { ...origin, action: 'operator.updated', target, details: { fields: ['password'] } });
    return deleteSessionsOf(sessionsIn(trx), operator.id);
  });
  await sessions.ended({ kind: 'operator' }, ended);
  return ended.length;
}
