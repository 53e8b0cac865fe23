// Sign-in: from tenant, e-mail address and password to a user, with one answer and the same hashing for every failure.
import type { Kysely } from 'kysely';
import { insertAudit, type AuditEntry, type AuditOrigin } from '../../db/audit.js';
import { findOperatorByEmail, findOperatorCredentials, updateOperatorPassword } from '../../db/central/operators.js';
import type { Registry } from '../../db/central/schema.js';
import { deleteSessionsOf, sessionsIn } from '../../db/sessions.js';
import { findCredentials, type User } from '../../db/tenant/users.js';
import type { AuditTrail } from '../audit.js';
import { AppError } from '../errors.js';
import type { TenantDirectory } from '../tenancy/directory.js';
import type { TenantPools } from '../tenancy/pools.js';
import type { Passwords } from './passwords.js';
import type { Sessions } from './sessions.js';
import type { Principal } from './tokens.js';
import { changeUser } from './users.js';

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
  /** Whether it is the password of whoever is signed in. @throws DatabaseFault */
  confirms(principal: Principal, password: string): Promise<boolean>;
  /** Changes it, and ends all other sessions, on every replica before it returns. @throws DatabaseFault */
  changePassword(principal: Principal, password: string, origin: AuditOrigin): Promise<void>;
}

export function createSignIn(deps: {
  registry: Kysely<Registry>;
  directory: TenantDirectory;
  pools: TenantPools;
  passwords: Passwords;
  sessions: Pick<Sessions, 'ended'>;
  audit: AuditTrail;
}): SignIn {
  const { registry, directory, pools, passwords, sessions, audit } = deps;
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

    async confirms(principal, password) {
      const found =
        principal.kind === 'user'
          ? await findCredentials(pools.database(principal.tenantId), { id: principal.userId })
          : await findOperatorCredentials(registry, principal.operatorId);
      return passwords.verify(found?.passwordHash, password);
    },

    async changePassword(principal, password, origin) {
      // Hashed before the transaction begins: a connection is not held while the processor works.
      const passwordHash = await passwords.hash(password);
      const ended =
        principal.kind === 'user'
          ? await changeUser(
              pools.database(principal.tenantId),
              principal.userId,
              { passwordHash },
              // The own account can be changed by whoever holds nothing.
              { userId: principal.userId, permissions: [] },
              origin,
              principal.sessionId,
            )
          : await changeOperatorPassword(registry, principal, passwordHash, origin);
      await sessions.ended(principal, ended ?? []);
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

function changeOperatorPassword(
  registry: Kysely<Registry>,
  { operatorId, sessionId }: Extract<Principal, { kind: 'operator' }>,
  passwordHash: string,
  origin: AuditOrigin,
): Promise<readonly string[]> {
  return registry.transaction().execute(async (trx) => {
    await updateOperatorPassword(trx, operatorId, passwordHash);
    await insertAudit(trx, {
      ...origin,
      action: 'operator.updated',
      target: { kind: 'operator', id: operatorId },
      details: { fields: ['password'] },
    });
    return deleteSessionsOf(sessionsIn(trx), operatorId, sessionId);
  });
}
