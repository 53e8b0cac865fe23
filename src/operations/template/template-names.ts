// The names of templates. A template is empty, migrated and closed to connections. Databases of new tenants are copies of it, so
// that making a tenant runs no migration. The mark proves a template; the name alone does not.
import { createHash, randomBytes } from 'node:crypto';
import type { Migrations } from '../../../db/shared/migrator.js';

const PREFIX = 'tenantry_template_';

/** Begins the name of a template that is being built. */
export const BUILDING_PREFIX = 'tenantry_building_';

/** Whether the service uses such names for templates. A database with such a name is not adopted. */
export function isTemplateName(name: string): boolean {
  return name.startsWith(PREFIX) || name.startsWith(BUILDING_PREFIX);
}

/**
 * The template's name for a set of migrations and an owner. So a build never copies a template of another schema version, or of
 * another installation on the cluster.
 */
export function templateName(migrations: Migrations, owner: string): string {
  return nameForVersions(Object.keys(migrations).sort(), owner);
}

/** The template's name for the names of migrations, in order. */
export function nameForVersions(versions: readonly string[], owner: string): string {
  const stamp = createHash('sha256')
    .update(JSON.stringify([owner, ...versions]))
    .digest('hex');
  return PREFIX + stamp.slice(0, 16);
}

/** A new name, under which one attempt builds a template. */
export function newBuildingName(): string {
  return BUILDING_PREFIX + randomBytes(8).toString('hex');
}
