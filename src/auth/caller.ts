// The caller of a write that changes rights, read inside the transaction of that write. The request's own copy of the caller's
// rights may be outdated: they can be revoked while the request waits for its body, a hash or a connection.
import type { Transaction } from 'kysely';
import { insertAudit, type AuditEntry } from '../../db/shared/audit-rows.js';
import { findSession, sessionsIn } from '../../db/shared/session-queries.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import type { Versioned } from '../../db/shared/row-version.js';
import { findStanding, lockUsers } from '../../db/tenant/user-queries.js';
import { AppError } from '../errors.js';
import { refuseToGive, type Caller, type Permission } from './permissions.js';
import { refuseToGiveUnconfirmed } from './recent-sign-in.js';

/** The user and the session that ask for a write. */
export interface Actor {
  readonly userId: string;
  readonly sessionId: string;
  /** The hash of the caller's own password, if the request had to confirm the password. */
  readonly confirmedHash?: string | undefined;
  /** Whether the caller has proved its password recently. */
  readonly recent: boolean;
}

/**
 * Locks the caller and the target. The order of locks is: `lockAdmins` first, then these users in one statement, roles last.
 * Until the transaction ends, no other transaction deactivates, demotes or removes the caller or the target.
 *
 * @param targetId the existing user that the write changes, if there is one
 * @param lockRoles locks the roles that the write needs. The caller is read after that wait, because one of the caller's roles
 *   can lose permissions meanwhile
 * @returns the caller with its current permissions, and the version of the target; no target if it does not exist
 * @throws AppError `unauthenticated` if the caller is gone or not active, or its session has ended; `wrong-password` if the
 *   caller's password has changed since it was confirmed
 */
export async function lockCaller(
  trx: Transaction<TenantDatabase>,
  { userId, sessionId, confirmedHash }: Actor,
  targetId = userId,
  lockRoles?: () => Promise<unknown>,
): Promise<{ caller: Caller; target: Versioned | undefined }> {
  const locked = await lockUsers(trx, [userId, targetId]);
  await lockRoles?.();
  // Reads after the lock see the newest data: each statement sees every commit before its start.
  const standing = await findStanding(trx, userId);
  if (!standing?.active) {
    throw new AppError('unauthenticated', {
      detail: 'The account of this access token is not active.',
      event: { name: 'inactive-account-used' },
    });
  }
  // Before the session: a password reset ends the session too, and the client must learn of the reset.
  if (confirmedHash !== undefined && locked.get(userId)?.passwordHash !== confirmedHash)
    throw new AppError('wrong-password');
  await refuseEnded(trx, { userId, sessionId });
  return { caller: { userId, permissions: standing.permissions }, target: locked.get(targetId) };
}

/**
 * Audits a write in its transaction, and refuses the write if the caller's session has ended since `lockCaller`. Call it last,
 * after everything that the transaction waits for. A sign-out does not lock the user, so that a sign-out never waits for a write.
 *
 * @throws AppError `unauthenticated`, which rolls the write back
 */
export async function auditWrite(trx: Transaction<TenantDatabase>, actor: Actor, entry: AuditEntry): Promise<void> {
  await refuseEnded(trx, actor);
  await insertAudit(trx, entry);
}

/**
 * @param given the permissions that the write gives to a user or a role
 * @throws AppError `forbidden`, which names the permissions that the caller does not hold; `confirmation-needed`
 */
export function refuseToGiveAs(actor: Actor, caller: Caller, given: readonly string[]): void {
  refuseToGive(caller, given);
  refuseToGiveUnconfirmed(actor.recent || actor.confirmedHash !== undefined, given);
}

/** @throws AppError `forbidden`, which names the permission that the caller does not hold */
export function refuseWithout({ permissions }: Caller, needed: Permission): void {
  if (!permissions.includes(needed)) {
    throw new AppError('forbidden', { detail: `You need the permission "${needed}".` });
  }
}

async function refuseEnded(
  trx: Transaction<TenantDatabase>,
  { userId, sessionId }: Pick<Actor, 'userId' | 'sessionId'>,
): Promise<void> {
  const session = await findSession(sessionsIn(trx), sessionId);
  if (session?.accountId !== userId) {
    throw new AppError('unauthenticated', {
      detail: 'The session of this access token has ended. Sign in again.',
      event: { name: 'ended-session-used' },
    });
  }
}
