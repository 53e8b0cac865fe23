// Changes to users that a rule watches over: roles must exist, nobody gives or changes what holds more than itself, and the
// last active admin stays. Each change is audited.
import type { Kysely, Transaction } from 'kysely';
import { insertAudit, type AuditOrigin } from '../../db/audit.js';
import { deleteSessionsOf, sessionsIn } from '../../db/sessions.js';
import type { TenantDatabase } from '../../db/tenant/schema.js';
import {
  countActiveAdmins,
  deleteUser,
  findStanding,
  insertUser,
  lockAdmins,
  lockUser,
  setRoles,
  updateUser,
} from '../../db/tenant/users.js';
import { changedFields } from '../audit.js';
import { AppError } from '../errors.js';
import { refuseOver } from '../tenancy/limits.js';
import { refuseToGive, refuseToTouch, type Caller } from './permissions.js';

/**
 * Adds a user with its roles and returns its id.
 *
 * @param limit users that the tenant may have; undefined where it may have any number
 * @throws AppError `tenant-limit-exceeded`, `forbidden` naming what the caller does not hold, or `invalid-request` naming roles that the tenant does
 * not have
 */
export async function addUser(
  db: Kysely<TenantDatabase>,
  { roles, ...user }: Parameters<typeof insertUser>[1] & { readonly roles: readonly string[] },
  caller: Caller,
  origin: AuditOrigin,
  limit?: number,
): Promise<string> {
  return db.transaction().execute(async (trx) => {
    await refuseOver(trx, 'users', limit);
    const id = await insertUser(trx, user);
    await assignRoles(trx, id, roles, caller);
    await insertAudit(trx, {
      ...origin,
      action: 'user.created',
      target: { kind: 'user', id },
      details: { roles, active: user.active ?? true },
    });
    return id;
  });
}

/**
 * Changes what is given, in one transaction. A new password, and the end of being active, end the user's sessions.
 *
 * @param spared a session that goes on all the same: the one of a user who changes its own password
 * @returns the ids of the sessions that were ended, undefined where there is no such user
 * @throws AppError `last-admin`, `forbidden` naming what the caller does not hold, or `invalid-request` naming roles that
 * the tenant does not have
 */
export async function changeUser(
  db: Kysely<TenantDatabase>,
  id: string,
  { roles, ...changes }: Parameters<typeof updateUser>[2] & { readonly roles?: readonly string[] | undefined },
  caller: Caller,
  origin: AuditOrigin,
  spared?: string,
): Promise<readonly string[] | undefined> {
  return db.transaction().execute(async (trx) => {
    const mayEndAdmin = changes.active === false || (roles !== undefined && !roles.includes('admin'));
    if (mayEndAdmin) await lockAdmins(trx);
    if (!(await takeUser(trx, id, caller))) return undefined;
    await updateUser(trx, id, changes);
    if (roles) await assignRoles(trx, id, roles, caller);
    if (mayEndAdmin) await keepOneAdmin(trx);
    await insertAudit(trx, {
      ...origin,
      action: 'user.updated',
      target: { kind: 'user', id },
      details: {
        fields: changedFields({ ...changes, roles }),
        ...(roles && { roles }),
        ...(changes.active !== undefined && { active: changes.active }),
      },
    });
    if (changes.active === false) return deleteSessionsOf(sessionsIn(trx), id);
    return changes.passwordHash === undefined ? [] : deleteSessionsOf(sessionsIn(trx), id, spared);
  });
}

/**
 * Removes a user. Returns whether it existed.
 *
 * @throws AppError `last-admin`, or `forbidden` naming what the caller does not hold
 */
export async function removeUser(
  db: Kysely<TenantDatabase>,
  id: string,
  caller: Caller,
  origin: AuditOrigin,
): Promise<boolean> {
  return db.transaction().execute(async (trx) => {
    await lockAdmins(trx);
    if (!(await takeUser(trx, id, caller))) return false;
    await deleteUser(trx, id);
    await keepOneAdmin(trx);
    await insertAudit(trx, { ...origin, action: 'user.deleted', target: { kind: 'user', id } });
    return true;
  });
}

/** Locks a user that the caller may change. Returns whether it exists. */
async function takeUser(trx: Transaction<TenantDatabase>, id: string, caller: Caller): Promise<boolean> {
  if (!(await lockUser(trx, id))) return false;
  // What the caller itself holds may have grown a moment ago.
  if (id !== caller.userId) refuseToTouch(caller, await permissionsOf(trx, id));
  return true;
}

async function assignRoles(
  trx: Transaction<TenantDatabase>,
  userId: string,
  roles: readonly string[],
  caller: Caller,
): Promise<void> {
  const unknown = await setRoles(trx, userId, roles);
  if (unknown.length > 0) {
    const issues = unknown.map((role) => ({ path: '/roles', message: `there is no role "${role}"` }));
    throw new AppError('invalid-request', { issues });
  }
  refuseToGive(caller, await permissionsOf(trx, userId));
}

/** What a user holds, as this transaction sees it: also what it has just been given. */
async function permissionsOf(trx: Transaction<TenantDatabase>, userId: string): Promise<readonly string[]> {
  return (await findStanding(trx, userId))?.permissions ?? [];
}

/** To be called behind the change, under the lock: the error takes the change back with the transaction. */
async function keepOneAdmin(trx: Transaction<TenantDatabase>): Promise<void> {
  if ((await countActiveAdmins(trx)) === 0) throw new AppError('last-admin');
}
