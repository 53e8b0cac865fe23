// Changes to users that a rule watches over: roles must exist, the last active admin stays, and each change is audited.
import type { Kysely, Transaction } from 'kysely';
import { insertAudit, type AuditOrigin } from '../../db/audit.js';
import { deleteSessionsOf, sessionsIn } from '../../db/sessions.js';
import type { TenantDatabase } from '../../db/tenant/schema.js';
import { countActiveAdmins, deleteUser, insertUser, lockAdmins, setRoles, updateUser } from '../../db/tenant/users.js';
import { AppError } from '../errors.js';

/**
 * Adds a user with its roles and returns its id.
 *
 * @throws AppError `invalid-request` naming roles that the tenant does not have
 */
export async function addUser(
  db: Kysely<TenantDatabase>,
  { roles, ...user }: Parameters<typeof insertUser>[1] & { readonly roles: readonly string[] },
  origin: AuditOrigin,
): Promise<string> {
  return db.transaction().execute(async (trx) => {
    const id = await insertUser(trx, user);
    await assignRoles(trx, id, roles);
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
 * @throws AppError `last-admin`, or `invalid-request` naming roles that the tenant does not have
 */
export async function changeUser(
  db: Kysely<TenantDatabase>,
  id: string,
  { roles, ...changes }: Parameters<typeof updateUser>[2] & { readonly roles?: readonly string[] | undefined },
  origin: AuditOrigin,
  spared?: string,
): Promise<readonly string[] | undefined> {
  return db.transaction().execute(async (trx) => {
    const mayEndAdmin = changes.active === false || (roles !== undefined && !roles.includes('admin'));
    if (mayEndAdmin) await lockAdmins(trx);
    if (!(await updateUser(trx, id, changes))) return undefined;
    if (roles) await assignRoles(trx, id, roles);
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

/** Removes a user. Returns whether it existed. @throws AppError `last-admin` */
export async function removeUser(db: Kysely<TenantDatabase>, id: string, origin: AuditOrigin): Promise<boolean> {
  return db.transaction().execute(async (trx) => {
    await lockAdmins(trx);
    if (!(await deleteUser(trx, id))) return false;
    await keepOneAdmin(trx);
    await insertAudit(trx, { ...origin, action: 'user.deleted', target: { kind: 'user', id } });
    return true;
  });
}

async function assignRoles(trx: Transaction<TenantDatabase>, userId: string, roles: readonly string[]): Promise<void> {
  const unknown = await setRoles(trx, userId, roles);
  if (unknown.length === 0) return;
  const issues = unknown.map((role) => ({ path: '/roles', message: `there is no role "${role}"` }));
  throw new AppError('invalid-request', { issues });
}

/** To be called behind the change, under the lock: the error takes the change back with the transaction. */
async function keepOneAdmin(trx: Transaction<TenantDatabase>): Promise<void> {
  if ((await countActiveAdmins(trx)) === 0) throw new AppError('last-admin');
}

/** Names of what is given, as the API calls them; never the values. */
function changedFields({ passwordHash, ...changes }: Readonly<Record<string, unknown>>): string[] {
  const names = Object.keys(changes).filter((name) => changes[name] !== undefined);
  return passwordHash === undefined ? names : [...names, 'password'];
}
