// Operators are created and deactivated at the command line: for a person with access to the registry.
import type { Kysely } from 'kysely';
import {
  deactivateOperator,
  findOperator,
  insertOperator,
  lockActiveOperators,
  type OperatorRecord,
} from '../../../db/registry/operator-queries.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import type { AuditOrigin } from '../../../db/shared/audit-rows.js';
import { deleteSessionsOf, sessionsIn } from '../../../db/shared/session-queries.js';
import { changesBetween } from '../../audit/changes.js';
import { auditAct } from '../../audit/operator-act.js';
import { AppError } from '../../errors.js';
import { OperatorRefusal } from './operator-reset.js';
import { OPERATORS, type Passwords } from '../passwords.js';
import type { Sessions } from '../session-rules.js';

interface AccountDeps {
  readonly registry: Kysely<Registry>;
  readonly passwords: Pick<Passwords, 'hash'>;
  readonly sessions: Pick<Sessions, 'ended'>;
}

/**
 * Creates an operator. Audited.
 *
 * @param account its address in lower case, and a password that `refusalOf` (operator-reset.ts) does not refuse
 * @throws AppError `email-taken`, `unauthenticated`
 */
export async function createOperator(
  { registry, passwords }: Pick<AccountDeps, 'registry' | 'passwords'>,
  account: { readonly email: string; readonly password: string },
  origin: AuditOrigin,
): Promise<OperatorRecord> {
  const passwordHash = await passwords.hash(account.password, OPERATORS);
  return registry.transaction().execute(async (trx) => {
    const id = await insertOperator(trx, { email: account.email, passwordHash });
    const made = id === undefined ? undefined : await findOperator(trx, id);
    if (!made) throw new AppError('email-taken');
    await auditAct(trx, { ...origin, action: 'operator.created', target: { kind: 'operator', id: made.id } });
    return made;
  });
}

/**
 * Deactivates an operator, and ends all of its sessions, on every replica before it returns. Audited.
 *
 * @returns the number of sessions that were ended
 * @throws OperatorRefusal if the operator is not active, or is the last one that is; AppError `unauthenticated`
 */
export async function deactivateAccount(
  { registry, sessions }: Pick<AccountDeps, 'registry' | 'sessions'>,
  { id, email }: Pick<OperatorRecord, 'id' | 'email'>,
  origin: AuditOrigin,
): Promise<number> {
  const ended = await registry.transaction().execute(async (trx) => {
    const active = await lockActiveOperators(trx);
    if (!active.includes(id)) throw new OperatorRefusal(`the operator ${email} is not active`);
    if (active.length === 1)
      throw new OperatorRefusal(`${email} is the last active operator: create another one first`);
    // Before the change: an operator may deactivate itself.
    await auditAct(trx, {
      ...origin,
      action: 'operator.updated',
      target: { kind: 'operator', id },
      details: { fields: ['active'], changes: changesBetween({ active: true }, { active: false }) },
    });
    await deactivateOperator(trx, id);
    return deleteSessionsOf(sessionsIn(trx), id);
  });
  await sessions.ended({ kind: 'operator' }, ended);
  return ended.length;
}
