// Sign-in: from tenant, e-mail address and password to a user, with one answer and the same hashing for every failure.
import type { Kysely } from 'kysely';
import { findOperatorByEmail, findOperatorCredentials, updateOperatorPassword } from '../../db/central/operators.js';
import type { Registry } from '../../db/central/schema.js';
import { deleteSessionsOf, sessionsIn } from '../../db/sessions.js';
import { findCredentials, type User } from '../../db/tenant/users.js';
import { AppError } from '../errors.js';
import type { TenantDirectory } from '../tenancy/directory.js';
import type { TenantPools } from '../tenancy/pools.js';
import type { Passwords } from './passwords.js';
import type { Sessions } from './sessions.js';
import type { Principal } from './tokens.js';
import { changeUser } from './users.js';

export interface SignIn {
  /**
   * @param tenant slug or id
   * @throws AppError `invalid-credentials` for an unknown or inactive tenant or user and for a wrong password alike
   * @throws DatabaseFault where the registry or the tenant's database does not answer
   */
  user(tenant: string, email: string, password: string): Promise<{ tenantId: string; user: User }>;
  /** @throws AppError `invalid-credentials` */
  operator(email: string, password: string): Promise<{ id: string; email: string }>;
  /** Whether it is the password of whoever is signed in. @throws DatabaseFault */
  confirms(principal: Principal, password: string): Promise<boolean>;
  /** Changes it, and ends all other sessions, on every replica before it returns. @throws DatabaseFault */
  changePassword(principal: Principal, password: string): Promise<void>;
}

export function createSignIn(deps: {
  registry: Kysely<Registry>;
  directory: TenantDirectory;
  pools: TenantPools;
  passwords: Passwords;
  sessions: Pick<Sessions, 'ended'>;
}): SignIn {
  const { registry, directory, pools, passwords, sessions } = deps;
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

    async confirms(principal, password) {
      const found =
        principal.kind === 'user'
          ? await findCredentials(pools.database(principal.tenantId), { id: principal.userId })
          : await findOperatorCredentials(registry, principal.operatorId);
      return passwords.verify(found?.passwordHash, password);
    },

    async changePassword(principal, password) {
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
              principal.sessionId,
            )
          : await changeOperatorPassword(registry, principal, passwordHash);
      await sessions.ended(principal, ended ?? []);
    },
  };
}

function changeOperatorPassword(
  registry: Kysely<Registry>,
  { operatorId, sessionId }: Extract<Principal, { kind: 'operator' }>,
  passwordHash: string,
): Promise<readonly string[]> {
  return registry.transaction().execute(async (trx) => {
    await updateOperatorPassword(trx, operatorId, passwordHash);
    return deleteSessionsOf(sessionsIn(trx), operatorId, sessionId);
  });
}
