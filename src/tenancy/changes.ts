// Changes to a tenant's row, by the rules of its status.
import type { Kysely } from 'kysely';
import type { Registry } from '../../db/central/schema.js';
import { findTenant, TENANT_SLUG_CONSTRAINT, updateTenant, type TenantRecord } from '../../db/central/tenants.js';
import { violatedUniqueConstraint } from '../../db/errors.js';
import { AppError } from '../errors.js';

/**
 * Changes what is given. A tenant that is being made or removed cannot be changed.
 *
 * @throws AppError `not-found`, `slug-taken`, `tenant-state`
 */
export async function changeTenant(
  registry: Kysely<Registry>,
  id: string,
  changes: Parameters<typeof updateTenant>[2],
): Promise<TenantRecord> {
  try {
    const tenant = await updateTenant(registry, id, changes, ['active', 'suspended']);
    if (tenant) return tenant;
  } catch (error) {
    if (violatedUniqueConstraint(error) === TENANT_SLUG_CONSTRAINT) throw new AppError('slug-taken');
    throw error;
  }
  const existing = await findTenant(registry, id);
  if (!existing) throw new AppError('not-found');
  throw new AppError('tenant-state', { detail: `The tenant is ${existing.status}.` });
}
