// The permissions that exist, and what whoever holds some of them may hand on. Roles group them, in each tenant's database.
import { AppError } from '../errors.js';

/** What can be done with each resource. A route that needs more than there is adds a line here. */
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
 * Who changes users or roles, as the transaction of the change sees it. Permissions are text as the tenant's database holds it: a newer build that runs beside
 * this one may know more of them, and what both sides of a comparison do not know must still be equal.
 */
export interface Caller {
  readonly userId: string;
  readonly permissions: readonly string[];
}

/**
 * Nobody gives away what it does not hold.
 *
 * @param given what somebody would hold by this
 * @throws AppError `forbidden` naming what the caller does not hold
 */
export function refuseToGive(caller: Caller, given: readonly string[]): void {
  refuseBeyond(caller, given, 'You cannot grant permissions that you do not hold');
}

/**
 * Nobody changes who or what holds more: with the password of an admin, say, it would soon hold that too.
 *
 * @param held what the user or role holds that is to be changed or removed
 * @throws AppError `forbidden` naming what the caller does not hold
 */
export function refuseToTouch(caller: Caller, held: readonly string[]): void {
  refuseBeyond(caller, held, 'You cannot change or remove a user or role with permissions that you do not hold');
}

function refuseBeyond(caller: Caller, held: readonly string[], sentence: string): void {
  const beyond = held.filter((permission) => !caller.permissions.includes(permission));
  if (beyond.length > 0) throw new AppError('forbidden', { detail: `${sentence}: ${beyond.join(', ')}.` });
}
