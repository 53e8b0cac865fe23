// Recent sign-in: acts that give away everything need a caller who proved the password a short time ago. A stolen access token
// alone is then not enough. The time is the claim `auth_time` of the token:
//
// - A sign-in and POST /auth/confirm give a token with the present time.
// - A refresh gives a token with the time of the sign-in, so no number of refreshes makes it recent.
// - A confirmation is in the token that it answers, and nowhere else. Another holder of a token of the same session gains nothing.
//
// The signing replica computes the claim from an age by the database's clock. So the claim is compared with a replica's clock in
// the same way as `iat` and `exp`.
import { AppError } from '../errors.js';
import type { Permission } from './permissions.js';

/** How long (seconds) a sign-in or a confirmation is recent. */
export const RECENT = 300;

/** A user who holds one of these can give itself and others more: such a permission is given only after a recent sign-in. */
export const managing: readonly Permission[] = ['users:write', 'roles:write'];

/**
 * @param signedInAt seconds since 1970; undefined if the token does not say
 * @param now ms since 1970, of the clock by which tokens are signed
 */
export function isRecent(signedInAt: number | undefined, now: number): boolean {
  return signedInAt !== undefined && now / 1_000 - signedInAt < RECENT;
}

/** The refusal of an act that needs a recent sign-in. */
export function confirmationNeeded(): AppError {
  return new AppError('confirmation-needed', {
    detail: `This act needs a sign-in or a confirmation of the last ${RECENT / 60} minutes. Send your password to POST /auth/confirm, then send the request again with the new access token.`,
  });
}

/**
 * @param given the permissions that a change gives to a user or a role
 * @throws AppError `confirmation-needed` if one of them manages users or roles, and the caller has not proved its password recently
 */
export function refuseToGiveUnconfirmed(recent: boolean, given: readonly string[]): void {
  if (!recent && managing.some((permission) => given.includes(permission))) throw confirmationNeeded();
}
