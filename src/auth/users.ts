// Changes to users that a rule watches over: roles must exist, the last active admin stays, and each change is audited.
import type { Kysely, Transaction } from 'kysely';
import type { AuditOrigin } from '../../db/audit.js';
import { insertAudit } from '../../db/tenant/audit.js';
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
 * Changes what is given, in one transaction. Returns whether the user exists.
 *
 * @throws AppError `last-admin`, or `invalid-request` naming roles that the tenant does not have
 */
export async function changeUser(
  db: Kysely<TenantDatabase>,
  id: string,
  { roles, ...changes }: Parameters<typeof updateUser>[2] & { readonly roles?: readonly string[] | undefined },
  origin: AuditOrigin,
): Promise<boolean> {
  return db.transaction().execute(async (trx) => {
    const mayEndAdmin = changes.active === false || (roles !== undefined && !roles.includes('admin'));
    if (mayEndAdmin) await lockAdmins(trx);
    if (!(await updateUser(trx, id, changes))) return false;
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
    return true;
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
