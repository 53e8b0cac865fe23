// Sign-in: from tenant, e-mail address and password to a user, with one answer and the same hashing for every failure.
import type { Kysely } from 'kysely';
import { findOperatorByEmail } from '../../db/central/operators.js';
import type { Registry } from '../../db/central/schema.js';
import { findCredentials, type User } from '../../db/tenant/users.js';
import { AppError } from '../errors.js';
import type { TenantDirectory } from '../tenancy/directory.js';
import type { TenantPools } from '../tenancy/pools.js';
import type { Passwords } from './passwords.js';

export interface SignIn {
  /**
   * @param tenant slug or id
   * @throws AppError `invalid-credentials` for an unknown or inactive tenant or user and for a wrong password alike
   * @throws DatabaseFault where the registry or the tenant's database does not answer
   */
  user(tenant: string, email: string, password: string): Promise<{ tenantId: string; user: User }>;
  /** @throws AppError `invalid-credentials` */
  operator(email: string, password: string): Promise<{ id: string; email: string }>;
}

export function createSignIn(deps: {
  registry: Kysely<Registry>;
  directory: TenantDirectory;
  pools: TenantPools;
  passwords: Passwords;
}): SignIn {
  const { registry, directory, pools, passwords } = deps;
  return {
    async user(tenant, email, password) {
      const record = await directory.findBySlugOrId(tenant);
      const found = record?.active ? await findCredentials(pools.database(record.id), { email }) : undefined;
      const matches = await passwords.verify(found?.passwordHash, password);
      if (!record || !found?.active || !matches) throw new AppError('invalid-credentials');
      const { passwordHash: _hash, ...user } = found;
      return { tenantId: record.id, user };
    },

    async operator(email, password) {
      const found = await findOperatorByEmail(registry, email);
      const matches = await passwords.verify(found?.passwordHash, password);
      if (!found?.active || !matches) throw new AppError('invalid-credentials');
      return { id: found.id, email: found.email };
    },
  };
}
