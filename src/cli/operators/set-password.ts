// Sets the new password of an operator: for `tenantry operators reset-password` and `npm run operator:reset-password`.
import { rm } from 'node:fs/promises';
import path from 'node:path';
import type { AuditOrigin } from '../../../db/shared/audit-rows.js';
import { operatorToReset, refusalOf, resetOperatorPassword } from '../../auth/operators/operator-reset.js';
import { SIGN_IN_FILE } from '../../boot/operator-sign-in.js';
import type { Engine } from '../../engine/index.js';
import { newPassword, type NewPassword, type PasswordSource } from '../new-password.js';

export interface PasswordSet {
  readonly operator: { readonly id: string; readonly email: string };
  readonly made: NewPassword;
  /** Sessions that have ended. */
  readonly ended: number;
}

/**
 * @param wanted.email undefined: the only operator
 * @param wanted.origin undefined: audited without an actor
 * @throws OperatorRefusal, UnusablePassword
 */
export async function setPassword(
  engine: Engine,
  dataDir: string,
  wanted: {
    readonly email: string | undefined;
    readonly source: PasswordSource;
    readonly origin?: AuditOrigin;
  },
): Promise<PasswordSet> {
  const operator = await operatorToReset(engine.registry, wanted.email?.toLowerCase());
  const made = await newPassword(wanted.source, (candidate) => refusalOf(candidate, operator.email));
  const ended = await resetOperatorPassword(engine, operator, made.password, wanted.origin);
  // It has the former password.
  await rm(path.join(dataDir, SIGN_IN_FILE), { force: true });
  return { operator, made, ended };
}
