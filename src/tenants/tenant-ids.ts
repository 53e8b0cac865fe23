// The ids, database names, passwords and slugs of tenants.
import { randomBytes } from 'node:crypto';
import { validate } from 'uuid';

export { newId as newTenantId } from '../../db/shared/ids.js';

/** A canonical UUID: lower case, with dashes, without braces. */
export function isTenantId(text: string): boolean {
  return validate(text) && text === text.toLowerCase();
}

/** The prefix of the names of tenants' databases and roles. */
export const DATABASE_PREFIX = 'tn_';

/** A name for a tenant's database and role. Every role of a cluster can read both, so the name says nothing about the tenant. */
export function newDatabaseName(): string {
  return DATABASE_PREFIX + randomBytes(16).toString('hex');
}

/** Whether a name has the form of `newDatabaseName`. */
export function isOwnName(name: string): boolean {
  return /^tn_[0-9a-f]{32}$/.test(name);
}

/** A password for a tenant's role: 256 random bits. */
export function newDatabasePassword(): string {
  return randomBytes(32).toString('base64url');
}

/**
 * SCRAM rounds for the verifier of such a password. Many rounds make a weak password expensive to guess. This password cannot be
 * guessed, and each new connection would pay for the rounds on the threads that hash passwords.
 */
export const TENANT_SCRAM_ITERATIONS = 1;

/** A slug from a name: `Acme GmbH & Co.` becomes `acme-gmbh-co`. Empty if the name has no letter or digit to keep. */
export function slugify(name: string): string {
  return name
    .normalize('NFKD')
    .replace(/\p{M}/gu, '')
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .slice(0, 63)
    .replace(/^-|-$/g, '');
}
