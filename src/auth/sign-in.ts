// Sign-in: from tenant, e-mail address and password to a user, with one answer, the same hashing and the same time for every
// failure, and a limit on how often it may fail.
import type { Kysely } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { findOperatorByEmail } from '../../db/central/operators.js';
import type { Registry } from '../../db/central/schema.js';
import { findCredentials, type User } from '../../db/tenant/users.js';
import { AppError } from '../errors.js';
import type { TenantDirectory } from '../tenancy/directory.js';
import type { TenantPools } from '../tenancy/pools.js';
import type { Passwords } from './passwords.js';
import type { Throttle } from './throttle.js';

export interface SignIn {
  /**
   * @param tenant slug or id
   * @param address the client's
   * @throws AppError `invalid-credentials` for an unknown or inactive tenant or user and for a wrong password alike, or
   *   `rate-limited` after too many of them
   * @throws DatabaseFault where the registry or the tenant's database does not answer
   */
  user(
    tenant: string,
    email: string,
    password: string,
    address: string,
  ): Promise<{ readonly tenantId: string; readonly user: User }>;
  /** @throws AppError `invalid-credentials` or `rate-limited` */
  operator(email: string, password: string, address: string): Promise<{ id: string; email: string }>;
  /** Confirms the password of a user who is signed in. @throws AppError `wrong-password` or `rate-limited` */
  confirm(tenantId: string, userId: string, password: string): Promise<void>;
}

export function createSignIn(deps: {
  registry: Kysely<Registry>;
  directory: TenantDirectory;
  pools: TenantPools;
  passwords: Passwords;
  throttle: Throttle;
}): SignIn {
  const { registry, directory, pools, passwords, throttle } = deps;
  return {
    user: (tenant, email, password, address) =>
      throttle.user({ tenant, email, address }, (resolved) =>
        failingInStep(async () => {
          const record = await directory.findBySlugOrId(tenant);
          await resolved(record);
          const found = record?.active
            ? await findCredentials(pools.database(record.id), { email })
            : await findNobody(registry, email);
          const matches = await passwords.verify(found?.passwordHash, password);
          if (!record || !found?.active || !matches) throw new AppError('invalid-credentials');
          const { passwordHash: _hash, ...user } = found;
          return { tenantId: record.id, user };
        }),
      ),

    operator: (email, password, address) =>
      throttle.operator({ email, address }, () =>
        failingInStep(async () => {
          const found = await findOperatorByEmail(registry, email);
          const matches = await passwords.verify(found?.passwordHash, password);
          if (!found?.active || !matches) throw new AppError('invalid-credentials');
          return { id: found.id, email: found.email };
        }),
      ),

    confirm: (tenantId, userId, password) =>
      throttle.confirmation(tenantId, userId, async () => {
        const found = await findCredentials(pools.database(tenantId), { id: userId });
        if (!(await passwords.verify(found?.passwordHash, password))) throw new AppError('wrong-password');
      }),
  };
}

/** Where there is no database to ask, another is asked for as much: one look-up by an e-mail address. */
async function findNobody(registry: Kysely<Registry>, email: string): ReturnType<typeof findCredentials> {
  await findOperatorByEmail(registry, email);
  return undefined;
}

/** ms. A hash and the look-ups fit into one step, also where a connection must be opened first or the machine is busy. */
const STEP = 250;

/**
 * Lets a failure to sign in take a full number of steps since it began. One database is never quite as quick as another, and
 * of a tenant that nobody has used for a while the connection must be opened: the clock would tell.
 */
async function failingInStep<T>(work: () => Promise<T>): Promise<T> {
  const begunAt = performance.now();
  try {
    return await work();
  } catch (error) {
    if (error instanceof AppError && error.code === 'invalid-credentials') {
      await sleep(STEP - ((performance.now() - begunAt) % STEP));
    }
    throw error;
  }
}
