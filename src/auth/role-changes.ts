// Changes to roles, with their rules. Built-in roles cannot be changed, and roles that users hold cannot be removed. No caller
// makes or changes a role with more permissions than it holds. The caller's rights are read in the transaction of the change.
import type { Kysely, Transaction } from 'kysely';
import { transact } from '../../db/driver/transact.js';
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import { violatedUniqueConstraint } from '../../db/driver/database-fault.js';
import {
  countHolders,
  deleteRole,
  findRole,
  insertRole,
  lockRole,
  ROLE_NAME_CONSTRAINT,
  setPermissions,
  updateRole,
  type Role,
} from '../../db/tenant/role-queries.js';
import type { ExpectedVersions } from '../../db/shared/row-version.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { changesBetween } from '../audit/changes.js';
import { changedFields } from '../audit/trail.js';
import { AppError } from '../errors.js';
import { demandVersion } from '../http/row-versions.js';
import { auditWrite, lockCaller, refuseToGiveAs, refuseWithout, type Actor } from './caller.js';
import { refuseToTouch, type Caller, type Permission } from './permissions.js';

/**
 * Adds a role and returns its id.
 *
 * @throws AppError `unauthenticated`, `forbidden` (names the permissions that the caller does not hold), `confirmation-needed`,
 *   `role-taken`
 */
export async function addRole(
  db: Kysely<TenantDatabase>,
  { permissions, ...role }: Parameters<typeof insertRole>[1] & { readonly permissions: readonly Permission[] },
  actor: Actor,
  origin: AuditOrigin,
): Promise<string> {
  return nameTaken(
    transact(db, async (trx) => {
      const caller = await lockEditor(trx, actor);
      refuseToGiveAs(actor, caller, permissions);
      const id = await insertRole(trx, role);
      await setPermissions(trx, id, permissions);
      const details = { name: role.name, permissions };
      await auditWrite(trx, actor, { ...origin, action: 'role.created', target: { kind: 'role', id }, details });
      return id;
    }),
  );
}

/**
 * Changes the given fields in one transaction. Returns whether the role exists.
 *
 * @param expected versions that the role may have
 * @throws AppError `unauthenticated`, `built-in-role`, `forbidden` (names the permissions that the caller does not hold),
 *   `precondition-failed`, `confirmation-needed`, `role-taken`
 */
export async function changeRole(
  db: Kysely<TenantDatabase>,
  id: string,
  {
    permissions,
    ...changes
  }: Parameters<typeof updateRole>[2] & { readonly permissions?: readonly Permission[] | undefined },
  actor: Actor,
  origin: AuditOrigin,
  expected?: ExpectedVersions,
): Promise<boolean> {
  return nameTaken(
    transact(db, async (trx) => {
      const caller = await lockEditor(trx, actor, id);
      if (permissions) refuseToGiveAs(actor, caller, permissions);
      const before = await changeable(trx, id, caller, expected);
      if (!before) return false;
      await updateRole(trx, id, changes);
      if (permissions) await setPermissions(trx, id, permissions);
      const after = { name: changes.name ?? before.name, permissions: (permissions ?? before.permissions).toSorted() };
      const details = {
        fields: changedFields({ ...changes, permissions }),
        changes: changesBetween({ ...before }, after),
      };
      await auditWrite(trx, actor, { ...origin, action: 'role.updated', target: { kind: 'role', id }, details });
      return true;
    }),
  );
}

/**
 * Removes a role that no user holds. Returns whether it existed.
 *
 * @param expected versions that the role may have
 * @throws AppError `unauthenticated`, `built-in-role`, `role-in-use`, `precondition-failed`, `forbidden` (names the permissions that
 *   the caller does not hold)
 */
export async function removeRole(
  db: Kysely<TenantDatabase>,
  id: string,
  actor: Actor,
  origin: AuditOrigin,
  expected?: ExpectedVersions,
): Promise<boolean> {
  return transact(db, async (trx) => {
    const caller = await lockEditor(trx, actor, id);
    const role = await changeable(trx, id, caller, expected);
    if (!role) return false;
    // Removing a role from its users silently could leave a user without any role.
    const holders = await countHolders(trx, id);
    if (holders > 0)
      throw new AppError('role-in-use', {
        detail: `${holders} ${holders === 1 ? 'user holds' : 'users hold'} the role. Take it from them first.`,
      });
    await deleteRole(trx, id);
    const details = { name: role.name, permissions: role.permissions };
    await auditWrite(trx, actor, { ...origin, action: 'role.deleted', target: { kind: 'role', id }, details });
    return true;
  });
}

/** @param roleId the role that is to be changed or removed */
async function lockEditor(trx: Transaction<TenantDatabase>, actor: Actor, roleId?: string): Promise<Caller> {
  const { caller } = await lockCaller(trx, actor, undefined, async () => {
    // Other code locks the role `admin` before users. Locking a built-in role here, after the caller, could deadlock.
    if (roleId !== undefined && !(await findRole(trx, roleId))?.builtIn) await lockRole(trx, roleId);
  });
  refuseWithout(caller, 'roles:write');
  return caller;
}

/** The locked role. Refuses a role that the caller may not change, or that has another version. */
async function changeable(
  trx: Transaction<TenantDatabase>,
  id: string,
  caller: Caller,
  expected: ExpectedVersions,
): Promise<Role | undefined> {
  const role = await findRole(trx, id);
  if (!role) return undefined;
  if (role.builtIn) throw new AppError('built-in-role');
  refuseToTouch(caller, role.permissions);
  demandVersion(role, expected);
  return role;
}

async function nameTaken<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (violatedUniqueConstraint(error) === ROLE_NAME_CONSTRAINT) throw new AppError('role-taken');
    throw error;
  }
}
