// The caller of a write that gives or takes rights, read inside the transaction of that write. The request's own copy of the
// caller's rights may be old: they can be revoked while the request waits for its body, a hash or a connection.
import type { Transaction } from 'kysely';
import { insertAudit, type AuditEntry } from '../../db/shared/audit-rows.js';
import { findSession, sessionsIn } from '../../db/shared/session-queries.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { findStanding, lockUsers } from '../../db/tenant/user-queries.js';
import { AppError } from '../errors.js';
import type { Caller, Permission } from './permissions.js';

/** Who asks for a write. */
export interface Actor {
  readonly userId: string;
  readonly sessionId: string;
  /** The hash of the caller's own password, if the request had to confirm the password. */
  readonly confirmedHash?: string | undefined;
}

/**
 * Locks the caller and the target, in this order of locks: `lockAdmins` first, then these users in one statement, roles last.
 * Until the transaction ends no other transaction deactivates, demotes or removes either of them.
 *
 * @param targetId the user that the write changes, if it changes one that exists
 * @param lockRoles locks the roles that the write needs: the caller is read after that wait, because a role of its own can permit
 * less meanwhile
 * @returns the caller with its permissions of now, and whether the target exists
 * @throws AppError `unauthenticated` if the caller is gone or not active, or its session has ended; `wrong-password` if the
 * caller's password has changed since it was confirmed
 */
export async function lockCaller(
  trx: Transaction<TenantDatabase>,
  { userId, sessionId, confirmedHash }: Actor,
  targetId = userId,
  lockRoles?: () => Promise<unknown>,
): Promise<{ caller: Caller; targetExists: boolean }> {
  const locked = await lockUsers(trx, [userId, targetId]);
  await lockRoles?.();
  // What is read after the lock is new: each statement sees what was committed before it began.
  const standing = await findStanding(trx, userId);
  if (!standing?.active) {
    throw new AppError('unauthenticated', { detail: 'The account of this access token is not active.' });
  }
  // Before the session: a reset of the password ends the session too, and the client must learn of the reset.
  if (confirmedHash !== undefined && locked.get(userId) !== confirmedHash) throw new AppError('wrong-password');
  await refuseEnded(trx, { userId, sessionId });
  return { caller: { userId, permissions: standing.permissions }, targetExists: locked.has(targetId) };
}

/**
 * Audits a write in its transaction, and refuses it if the caller's session has ended since `lockCaller`. To be called last: what
 * the transaction waits for comes before it. A sign-out does not lock the user, so that it never waits for a write.
 *
 * @throws AppError `unauthenticated`, which rolls the write back
 */
export async function auditWrite(trx: Transaction<TenantDatabase>, actor: Actor, entry: AuditEntry): Promise<void> {
  await refuseEnded(trx, actor);
  await insertAudit(trx, entry);
}

/** @throws AppError `forbidden` naming the permission that the caller does not hold */
export function refuseWithout({ permissions }: Caller, needed: Permission): void {
  if (!permissions.includes(needed)) {
    throw new AppError('forbidden', { detail: `You need the permission "${needed}".` });
  }
}

async function refuseEnded(trx: Transaction<TenantDatabase>, { userId, sessionId }: Actor): Promise<void> {
  const session = await findSession(sessionsIn(trx), sessionId);
  if (session?.accountId !== userId) {
    throw new AppError('unauthenticated', { detail: 'The session of this access token has ended. Sign in again.' });
  }
}
