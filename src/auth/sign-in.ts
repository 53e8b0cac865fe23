// Sign-in: from tenant, e-mail address and password to a session. Every failure has the same answer, the same hashing and the
// same time, and the number of failures is limited.
import type { Wait } from './attempts.js';
import type { Kysely } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { insertAudit, type AuditEntry, type AuditOrigin } from '../../db/shared/audit-rows.js';
import {
  findOperator,
  findOperatorByEmail,
  findOperatorCredentials,
  updateOperatorPassword,
} from '../../db/registry/operator-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import { deleteSessionsOf, findSession, sessionsIn } from '../../db/shared/session-queries.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { findCredentials, type User } from '../../db/tenant/user-queries.js';
import type { AuditTrail } from '../audit/trail.js';
import { AppError } from '../errors.js';
import type { RecordEvent } from '../observability/security-events.js';
import type { TenantDirectory } from '../tenants/tenant-directory.js';
import type { Requester } from '../lib/requester.js';
import type { TenantPools } from '../connections/tenant-pools.js';
import { NO_TENANT, OPERATORS, payerOf, type Passwords } from './passwords.js';
import type { Grant, Sessions } from './session-rules.js';
import { Throttled, type Throttle } from './throttle.js';
import type { Principal } from './tokens.js';
import { changeUser } from './user-changes.js';

/** The origin of a sign-in, with the client's address. */
type SignInOrigin = AuditOrigin & { readonly address: string };

export interface SignIn {
  /**
   * With a requester, these throw ClientLeft if it leaves before the password is checked: then nothing was tried.
   *
   * Failures are audited after the answer, with the reason. Of the attempts that are refused before the password is checked, only
   * the first of each wait is audited.
   *
   * @param tenant slug or id
   * @throws AppError `invalid-credentials` for an unknown or inactive tenant or user, and for a wrong password; `rate-limited`
   *   after too many of them
   * @throws DatabaseFault if the registry or the tenant's database does not answer
   */
  user(
    tenant: string,
    email: string,
    password: string,
    origin: SignInOrigin,
    requester?: Requester,
  ): Promise<Grant & { readonly user: User }>;
  /** As `user`, for operators. @throws AppError `invalid-credentials` or `rate-limited` */
  operator(
    email: string,
    password: string,
    origin: SignInOrigin,
    requester?: Requester,
  ): Promise<Grant & { readonly operator: { readonly id: string; readonly email: string } }>;
  /**
   * Confirms the caller's own password. @throws AppError `wrong-password` or `rate-limited`
   *
   * @returns the hash that the password matched: a change that needed the confirmation is made only if the account still has this
   *   hash
   */
  confirm(principal: Principal, password: string, origin: AuditOrigin, requester?: Requester): Promise<string>;
  /**
   * Changes the caller's password, and ends all its other sessions, on every replica before it returns.
   *
   * @param tenantDb the database of a user's request
   * @throws AppError `wrong-password` if the account's hash is no longer `confirmedHash`, `unauthenticated` if the account is not
   *   active or the session has ended
   * @throws DatabaseFault
   */
  changePassword(
    principal: Principal,
    confirmedHash: string,
    password: string,
    origin: AuditOrigin,
    tenantDb?: Kysely<TenantDatabase>,
    requester?: Requester,
  ): Promise<void>;
}

export function createSignIn(deps: {
  registry: Kysely<Registry>;
  directory: TenantDirectory;
  pools: TenantPools;
  passwords: Passwords;
  throttle: Throttle;
  sessions: Pick<Sessions, 'begin' | 'ended'>;
  audit: AuditTrail;
  record: RecordEvent;
}): SignIn {
  const { registry, directory, pools, passwords, throttle, sessions, audit, record } = deps;
  return {
    user: (tenant, email, password, origin, requester) => {
      const attempt = throttle.user({ tenant, email, address: origin.address }, (resolved) =>
        failingInStep(async (afterwards) => {
          const record = await directory.findBySlugOrId(tenant);
          await resolved(record);
          const found = record?.active
            ? await findCredentials(pools.database(record.id), { email })
            : await findNobody(registry, email);
          const matches = await passwords.verify(found?.passwordHash, password, record?.id ?? NO_TENANT, requester);
          const grant =
            record && found?.active && matches
              ? await sessions.begin(
                  { kind: 'user', tenantId: record.id, userId: found.id },
                  { passwordHash: found.passwordHash, generation: record.sessionsGeneration },
                  origin,
                )
              : undefined;
          if (!found || !grant) {
            const target = found && ({ kind: 'user', id: found.id } as const);
            const reason = record?.active ? reasonOf('user', found, matches) : reasonWithout(record);
            // The database of a suspended tenant is closed, so the registry stores the entry. The same holds for an unknown
            // tenant.
            afterwards(() => {
              if (record?.active) audit.laterInTenant(record.id, failure(origin, reason, target));
              else audit.laterInRegistry({ ...failure(origin, reason), tenantId: record?.id });
            });
            throw new AppError('invalid-credentials');
          }
          const { passwordHash: _hash, ...user } = found;
          return { ...grant, user };
        }),
      );
      return tellingOfWaits(attempt, (wait) => {
        audit.laterAtTenant(tenant, throttled(origin, 'login', wait));
      });
    },

    operator: (email, password, origin, requester) => {
      const attempt = throttle.operator({ email, address: origin.address }, () =>
        failingInStep(async (afterwards) => {
          const found = await findOperatorByEmail(registry, email);
          const matches = await passwords.verify(found?.passwordHash, password, OPERATORS, requester);
          const grant =
            found?.active && matches
              ? await sessions.begin(
                  { kind: 'operator', operatorId: found.id },
                  { passwordHash: found.passwordHash, generation: null },
                  origin,
                )
              : undefined;
          if (!found || !grant) {
            const target = found && ({ kind: 'operator', id: found.id } as const);
            afterwards(() => {
              audit.laterInRegistry(failure(origin, reasonOf('operator', found, matches), target));
            });
            throw new AppError('invalid-credentials');
          }
          return { ...grant, operator: { id: found.id, email: found.email } };
        }),
      );
      return tellingOfWaits(attempt, (wait) => {
        audit.laterInRegistry(throttled(origin, 'login', wait));
      });
    },

    confirm(principal, password, origin, requester) {
      const [realm, id] =
        principal.kind === 'user' ? [principal.tenantId, principal.userId] : ['operators', principal.operatorId];
      const later = (entry: AuditEntry): void => {
        if (principal.kind === 'user') audit.laterInTenant(principal.tenantId, entry);
        else audit.laterInRegistry(entry);
      };
      const attempt = throttle.confirmation(realm, id, async () => {
        const found =
          principal.kind === 'user'
            ? await findCredentials(pools.database(principal.tenantId), { id })
            : await findOperatorCredentials(registry, id);
        const matches = await passwords.verify(found?.passwordHash, password, payerOf(principal), requester);
        if (found && matches) return found.passwordHash;
        later({ ...origin, action: 'auth.confirmation-failed' });
        throw new AppError('wrong-password');
      });
      return tellingOfWaits(attempt, (wait) => {
        later(throttled(origin, 'confirmation', wait));
      });
    },

    async changePassword(principal, confirmedHash, password, origin, tenantDb, requester) {
      // Hashed before the transaction begins, so that no connection is held while the processor works.
      const passwordHash = await passwords.hash(password, payerOf(principal), requester);
      const ended =
        principal.kind === 'user'
          ? await changeUser(
              tenantDb ?? pools.database(principal.tenantId),
              principal.userId,
              { passwordHash },
              { ...principal, confirmedHash, recent: false },
              origin,
              { spared: principal.sessionId },
            )
          : await changeOperatorPassword(registry, principal, { confirmed: confirmedHash, next: passwordHash }, origin);
      record('password-changed', { tenantId: principal.kind === 'user' ? principal.tenantId : undefined }, origin);
      await sessions.ended(principal, ended ?? []);
    },
  };
}

/** Contains the account that was found, never the typed text: users sometimes type a password into the wrong field. */
function failure(origin: AuditOrigin, reason: string, target?: AuditEntry['target']): AuditEntry {
  return { ...origin, action: 'auth.login-failed', ...(target && { target }), details: { reason } };
}

function reasonOf(
  kind: 'user' | 'operator',
  found: { readonly active: boolean } | undefined,
  matches: boolean,
): string {
  if (!found) return `unknown-${kind}`;
  if (!found.active) return `inactive-${kind}`;
  // The password was right when it was verified, but no longer when the session was to begin.
  return matches ? 'changed-meanwhile' : 'wrong-password';
}

/** The reason of a failed sign-in to a tenant that is not active. */
function reasonWithout(record: TenantRecord | undefined): string {
  if (!record) return 'unknown-tenant';
  return record.status === 'deleted' ? 'deleted-tenant' : 'suspended-tenant';
}

function throttled(origin: AuditOrigin, attempt: 'login' | 'confirmation', { on }: Wait): AuditEntry {
  return { ...origin, action: 'auth.throttled', details: { attempt, on } };
}

/** Only the first refusal of each wait is reported: a client can send any number of others. */
async function tellingOfWaits<T>(attempt: Promise<T>, tell: (wait: Wait) => void): Promise<T> {
  try {
    return await attempt;
  } catch (error) {
    if (error instanceof Throttled && error.wait.first) tell(error.wait);
    throw error;
  }
}

function changeOperatorPassword(
  registry: Kysely<Registry>,
  { operatorId, sessionId }: Extract<Principal, { kind: 'operator' }>,
  hashes: Parameters<typeof updateOperatorPassword>[2],
  origin: AuditOrigin,
): Promise<readonly string[]> {
  return registry.transaction().execute(async (trx) => {
    if (!(await updateOperatorPassword(trx, operatorId, hashes))) {
      const operator = await findOperator(trx, operatorId);
      throw operator?.active
        ? new AppError('wrong-password')
        : new AppError('unauthenticated', { event: { name: 'inactive-account-used' } });
    }
    const session = await findSession(sessionsIn(trx), sessionId);
    if (session?.accountId !== operatorId)
      throw new AppError('unauthenticated', { event: { name: 'ended-session-used' } });
    await insertAudit(trx, {
      ...origin,
      action: 'operator.updated',
      target: { kind: 'operator', id: operatorId },
      details: { fields: ['password'] },
    });
    return deleteSessionsOf(sessionsIn(trx), operatorId, sessionId);
  });
}

/** If there is no tenant database to query, the registry does the same work: one look-up by e-mail address. */
async function findNobody(registry: Kysely<Registry>, email: string): ReturnType<typeof findCredentials> {
  await findOperatorByEmail(registry, email);
  return undefined;
}

/** Time (ms). A hash and the look-ups fit into one step, even if a connection must be opened first or the machine is busy. */
const STEP = 250;

/** Random delay (ms): about a hundred times the difference that remains after a step. */
const CHANCE = 25;

/**
 * Makes a failed sign-in last a whole number of steps. One database is never exactly as fast as another, and an idle tenant's
 * connection must be opened first. Without the steps, the duration would reveal this.
 *
 * @param work passes a report to `afterwards`. The report runs when the time is over, so that it does not change the duration
 *   either
 */
async function failingInStep<T>(work: (afterwards: (report: () => void) => void) => Promise<T>): Promise<T> {
  const begunAt = performance.now();
  let report: (() => void) | undefined;
  try {
    return await work((given) => (report = given));
  } catch (error) {
    if (error instanceof AppError && error.code === 'invalid-credentials') {
      // The random delay hides the small differences after the step: a timer's milliseconds, the way to the socket.
      await sleep(STEP - ((performance.now() - begunAt) % STEP) + Math.random() * CHANCE);
    }
    report?.();
    throw error;
  }
}
