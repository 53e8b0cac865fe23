// Sign-in: from tenant, e-mail address and password to a user, with one answer and the same hashing for every failure.
import type { Kysely } from 'kysely';
import type { AuditEntry, AuditOrigin } from '../../db/audit.js';
import { findOperatorByEmail } from '../../db/central/operators.js';
import type { Registry } from '../../db/central/schema.js';
import { findCredentials, type User } from '../../db/tenant/users.js';
import type { AuditTrail } from '../audit.js';
import { AppError } from '../errors.js';
import type { TenantDirectory } from '../tenancy/directory.js';
import type { TenantPools } from '../tenancy/pools.js';
import type { Passwords } from './passwords.js';

export interface SignIn {
  /**
   * A failure is audited after the answer, with its reason.
   *
   * @param tenant slug or id
   * @throws AppError `invalid-credentials` for an unknown or inactive tenant or user and for a wrong password alike
   * @throws DatabaseFault where the registry or the tenant's database does not answer
   */
  user(tenant: string, email: string, password: string, origin: AuditOrigin): Promise<{ tenantId: string; user: User }>;
  /** The same for operators. @throws AppError `invalid-credentials` */
  operator(email: string, password: string, origin: AuditOrigin): Promise<{ id: string; email: string }>;
}

export function createSignIn(deps: {
  registry: Kysely<Registry>;
  directory: TenantDirectory;
  pools: TenantPools;
  passwords: Passwords;
  audit: AuditTrail;
}): SignIn {
  const { registry, directory, pools, passwords, audit } = deps;
  return {
    async user(tenant, email, password, origin) {
      const record = await directory.findBySlugOrId(tenant);
      const found = record?.active ? await findCredentials(pools.database(record.id), { email }) : undefined;
      const matches = await passwords.verify(found?.passwordHash, password);
      if (!record || !found?.active || !matches) {
        const target = found && ({ kind: 'user', id: found.id } as const);
        // A suspended tenant's database is closed: the registry keeps it, as it does for a tenant that there is not.
        if (record?.active) audit.laterInTenant(record.id, failure(origin, reasonOf('user', found), target));
        else {
          const reason = record ? 'suspended-tenant' : 'unknown-tenant';
          audit.laterInRegistry({ ...failure(origin, reason), tenantId: record?.id });
        }
        throw new AppError('invalid-credentials');
      }
      const { passwordHash: _hash, ...user } = found;
      return { tenantId: record.id, user };
    },

    async operator(email, password, origin) {
      const found = await findOperatorByEmail(registry, email);
      const matches = await passwords.verify(found?.passwordHash, password);
      if (!found?.active || !matches) {
        const target = found && ({ kind: 'operator', id: found.id } as const);
        audit.laterInRegistry(failure(origin, reasonOf('operator', found), target));
        throw new AppError('invalid-credentials');
      }
      return { id: found.id, email: found.email };
    },
  };
}

/** The account that was found, and not what was typed: a password ends up in the wrong field now and then. */
function failure(origin: AuditOrigin, reason: string, target?: AuditEntry['target']): AuditEntry {
  return { ...origin, action: 'auth.login-failed', ...(target && { target }), details: { reason } };
}

function reasonOf(kind: 'user' | 'operator', found: { readonly active: boolean } | undefined): string {
  if (!found) return `unknown-${kind}`;
  return found.active ? 'wrong-password' : `inactive-${kind}`;
}
