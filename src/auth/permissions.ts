// The permissions, and the rules for granting them. Roles group permissions in each tenant's database.
import { AppError } from '../errors.js';

/** The actions of each resource. For a new permission, add it here. */
const actions = {
  users: ['read', 'write'],
  products: ['read', 'write'],
  roles: ['read', 'write'],
  tenant: ['read', 'write'],
  audit: ['read'],
} as const;

type Actions = typeof actions;

/** `resource:action`. */
export type Permission = { [Name in keyof Actions]: `${Name}:${Actions[Name][number]}` }[keyof Actions];

/** Every permission, in the order of the resources above. */
export const permissions = Object.entries(actions).flatMap(([name, can]) =>
  can.map((action) => `${name}:${action}`),
) as readonly Permission[];

/**
 * The caller of a change to users or roles, as the transaction of the change sees it. Permissions are the text in the tenant's
 * database. A newer build on another replica may know more permissions, and unknown permissions must still compare as equal.
 */
export interface Caller {
  readonly userId: string;
  readonly permissions: readonly string[];
}

/**
 * A caller cannot grant a permission that it does not hold.
 *
 * @param given the permissions that the change would grant
 * @throws AppError `forbidden`, which names the permissions that the caller does not hold
 */
export function refuseToGive(caller: Caller, given: readonly string[]): void {
  refuseBeyond(caller, given, 'You cannot grant permissions that you do not hold');
}

/**
 * A caller cannot change a user or role that holds more than the caller. Otherwise it could, for example, set an admin's password
 * and then act as the admin.
 *
 * @param held the permissions of the user or role that is to be changed or removed
 * @throws AppError `forbidden`, which names the permissions that the caller does not hold
 */
export function refuseToTouch(caller: Caller, held: readonly string[]): void {
  refuseBeyond(caller, held, 'You cannot change or remove a user or role with permissions that you do not hold');
}

function refuseBeyond(caller: Caller, held: readonly string[], sentence: string): void {
  const beyond = held.filter((permission) => !caller.permissions.includes(permission));
  if (beyond.length > 0) throw new AppError('forbidden', { detail: `${sentence}: ${beyond.join(', ')}.` });
}
