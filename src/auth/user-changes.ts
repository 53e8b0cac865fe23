// Changes to users, with their rules. Roles must exist, no caller grants or changes more permissions than it holds, and the last
// active admin stays. The caller's rights are read in the transaction of the change. Each change is audited.
import type { Kysely, Transaction } from 'kysely';
import { transact } from '../../db/driver/transact.js';
import { insertAudit, type AuditEntry, type AuditOrigin } from '../../db/shared/audit-rows.js';
import { deleteSessionsOf, sessionsIn } from '../../db/shared/session-queries.js';
import type { ExpectedVersions } from '../../db/shared/row-version.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { countActiveAdmins, keepRoles, lockAdmins, setRoles } from '../../db/tenant/user-roles.js';
import { deleteUser, findStanding, findUser, insertUser, updateUser } from '../../db/tenant/user-queries.js';
import { changesBetween } from '../audit/changes.js';
import { changedFields } from '../audit/trail.js';
import { AppError } from '../errors.js';
import { demandVersion } from '../http/row-versions.js';
import { refuseOver } from '../tenants/tenant-limits.js';
import { auditWrite, lockCaller, refuseToGiveAs, refuseWithout, type Actor } from './caller.js';
import { refuseToTouch, type Caller } from './permissions.js';

/**
 * Adds a user with its roles and returns its id.
 *
 * @param limit users that the tenant may have; undefined for no limit
 * @throws AppError `unauthenticated`, `tenant-limit-exceeded`, `forbidden` (names the permissions that the caller does not hold),
 *   `confirmation-needed`, `invalid-request` (names the roles that the tenant does not have)
 */
export async function addUser(
  db: Kysely<TenantDatabase>,
  { roles, ...user }: Parameters<typeof insertUser>[1] & { readonly roles: readonly string[] },
  actor: Actor,
  origin: AuditOrigin,
  limit?: number,
): Promise<string> {
  return transact(db, async (trx) => {
    const { caller } = await lockCaller(trx, actor, undefined, () => keepRoles(trx, roles));
    refuseWithout(caller, 'users:write');
    await refuseOver(trx, 'users', limit);
    const id = await insertUser(trx, user);
    await assignRoles(trx, id, roles, actor, caller);
    await auditWrite(trx, actor, {
      ...origin,
      action: 'user.created',
      target: { kind: 'user', id },
      details: { roles, active: user.active ?? true },
    });
    return id;
  });
}

/**
 * Changes the given fields in one transaction. A new password or a deactivation ends the user's sessions.
 *
 * @param spared a session that does not end: the session of a user who changes its own password
 * @param expected versions that the user may have
 * @returns the ids of the ended sessions; undefined if there is no such user
 * @throws AppError `unauthenticated`, `wrong-password` if the caller's password has changed since it was confirmed, `last-admin`,
 *   `precondition-failed`, `forbidden` (names the permissions that the caller does not hold), `confirmation-needed`,
 *   `invalid-request` (names the roles that the tenant does not have)
 */
export async function changeUser(
  db: Kysely<TenantDatabase>,
  id: string,
  { roles, ...changes }: Parameters<typeof updateUser>[2] & { readonly roles?: readonly string[] | undefined },
  actor: Actor,
  origin: AuditOrigin,
  { spared, expected }: { readonly spared?: string | undefined; readonly expected?: ExpectedVersions } = {},
): Promise<readonly string[] | undefined> {
  return transact(db, async (trx) => {
    const mayEndAdmin = changes.active === false || (roles !== undefined && !roles.includes('admin'));
    if (mayEndAdmin) await lockAdmins(trx);
    const { caller, target } = await lockCaller(trx, actor, id, roles && (() => keepRoles(trx, roles)));
    const managed = id !== caller.userId || roles !== undefined || changes.active !== undefined;
    if (managed) refuseWithout(caller, 'users:write');
    if (!target) return undefined;
    await refuseTarget(trx, id, caller);
    demandVersion(target, expected);
    // For the audit. No names and addresses of people: a row cannot be erased.
    const managing = roles !== undefined || changes.active !== undefined;
    const before = managing ? await findUser(trx, id) : undefined;
    await updateUser(trx, id, changes);
    if (roles) await assignRoles(trx, id, roles, actor, caller);
    if (changes.active) refuseToGiveAs(actor, caller, await permissionsOf(trx, id));
    if (mayEndAdmin) await keepOneAdmin(trx);
    await auditWrite(trx, actor, {
      ...origin,
      action: 'user.updated',
      target: { kind: 'user', id },
      details: {
        fields: changedFields({ ...changes, roles }),
        changes: changesBetween(
          { ...before },
          {
            ...(roles && { roles: roles.toSorted() }),
            ...(changes.active !== undefined && { active: changes.active }),
          },
        ),
      },
    });
    if (changes.active === false) return deleteSessionsOf(sessionsIn(trx), id);
    return changes.passwordHash === undefined ? [] : deleteSessionsOf(sessionsIn(trx), id, spared);
  });
}

/**
 * Removes a user. Returns whether it existed.
 *
 * @param expected versions that the user may have
 * @throws AppError `unauthenticated`, `last-admin`, `precondition-failed`, `forbidden` (names the permissions that the caller does
 *   not hold)
 */
export async function removeUser(
  db: Kysely<TenantDatabase>,
  id: string,
  actor: Actor,
  origin: AuditOrigin,
  expected?: ExpectedVersions,
): Promise<boolean> {
  return transact(db, async (trx) => {
    await lockAdmins(trx);
    const { caller, target } = await lockCaller(trx, actor, id);
    refuseWithout(caller, 'users:write');
    if (!target) return false;
    await refuseTarget(trx, id, caller);
    demandVersion(target, expected);
    const { roles = [], active = false } = (await findUser(trx, id)) ?? {};
    await deleteUser(trx, id);
    await keepOneAdmin(trx);
    const entry: AuditEntry = {
      ...origin,
      action: 'user.deleted',
      target: { kind: 'user', id },
      details: { roles, active },
    };
    // If callers remove themselves, their sessions are already gone.
    if (id === caller.userId) await insertAudit(trx, entry);
    else await auditWrite(trx, actor, entry);
    return true;
  });
}

async function refuseTarget(trx: Transaction<TenantDatabase>, id: string, caller: Caller): Promise<void> {
  if (id !== caller.userId) refuseToTouch(caller, await permissionsOf(trx, id));
}

async function assignRoles(
  trx: Transaction<TenantDatabase>,
  userId: string,
  roles: readonly string[],
  actor: Actor,
  caller: Caller,
): Promise<void> {
  const unknown = await setRoles(trx, userId, roles);
  if (unknown.length > 0) {
    const issues = unknown.map((role) => ({
      path: `/roles/${roles.indexOf(role)}`,
      message: 'is not a role of this tenant',
    }));
    throw new AppError('invalid-request', { issues });
  }
  refuseToGiveAs(actor, caller, await permissionsOf(trx, userId));
}

/** The permissions of a user, as this transaction sees them, including its own changes. */
async function permissionsOf(trx: Transaction<TenantDatabase>, userId: string): Promise<readonly string[]> {
  return (await findStanding(trx, userId))?.permissions ?? [];
}

/** Call it after the change, under the lock: the error rolls the change back with the transaction. */
async function keepOneAdmin(trx: Transaction<TenantDatabase>): Promise<void> {
  if ((await countActiveAdmins(trx)) === 0) throw new AppError('last-admin');
}
