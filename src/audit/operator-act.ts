// Checks the operator of an act when the act is decided. The request's own check may be outdated: the operator can be deactivated
// or signed out while the act waits for a lock, a hash or a server.
import type { Kysely, Transaction } from 'kysely';
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import { insertAudit, type CentralAuditEntry } from '../../db/registry/registry-audit.js';
import { findOperator, lockOperator } from '../../db/registry/operator-queries.js';
import { insertRequest } from '../../db/registry/request-answers.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findSession, sessionsIn } from '../../db/shared/session-queries.js';
import { AppError } from '../errors.js';

/** The origin of what the service does by itself: it has no actor. */
export const SERVICE: AuditOrigin = { actor: { kind: 'none' } };

/** The id of the operator who acts; undefined for everyone else. */
export function operatorIdOf({ actor }: AuditOrigin): string | undefined {
  return actor.kind === 'operator' ? actor.id : undefined;
}

/** The origin of what a worker finishes without the request that began it: the operator is known, and the address is not. */
export function originOf({ operatorId }: { readonly operatorId: string | null }): AuditOrigin {
  return operatorId === null ? SERVICE : { actor: { kind: 'operator', id: operatorId } };
}

/**
 * Audits an act in its transaction, and refuses it if its operator may not act any more. Call it last, after everything that the
 * transaction waits for. From then until the transaction ends, no other transaction deactivates the operator.
 *
 * @param operation the operation that the act began, as for `recordRequest`
 * @throws AppError `unauthenticated` and `idempotency-key-in-use`, which roll the act back
 */
export async function auditAct(
  trx: Transaction<Registry>,
  entry: CentralAuditEntry,
  operation?: { readonly id: string },
): Promise<void> {
  if (entry.actor.kind === 'operator') {
    const active = await lockOperator(trx, entry.actor.id);
    await refuseUnless(active, trx, entry);
  }
  await recordRequest(trx, entry, operation);
  await insertAudit(trx, entry);
}

/**
 * Records the request of an act in the act's transaction, if the request has an Idempotency-Key: then the act is not done again.
 *
 * @param operation the operation that the act began: a repeated request waits for its end
 * @throws AppError `idempotency-key-in-use` if the act of another attempt at the request is committed; it rolls this one back
 */
export async function recordRequest(
  trx: Transaction<Registry>,
  { claim, target, tenantId }: Pick<CentralAuditEntry, 'claim' | 'target' | 'tenantId'>,
  operation?: { readonly id: string },
): Promise<void> {
  if (!claim) return;
  const act = {
    targetId: target?.id ?? null,
    clusterId: target?.kind === 'cluster' ? target.id : null,
    tenantId: tenantId ?? null,
    operationId: operation?.id ?? null,
  };
  if (!(await insertRequest(trx, claim, act))) throw new AppError('idempotency-key-in-use', { retryAfter: 1 });
}

/**
 * The same check before a step that is no transaction of the registry. Callers that are not operators always pass.
 *
 * @throws AppError `unauthenticated`
 */
export async function confirmOperator(registry: Kysely<Registry>, origin: AuditOrigin): Promise<void> {
  if (origin.actor.kind !== 'operator') return;
  const operator = await findOperator(registry, origin.actor.id);
  await refuseUnless(operator?.active ?? false, registry, origin);
}

async function refuseUnless(active: boolean, registry: Kysely<Registry>, { actor }: AuditOrigin): Promise<void> {
  const { id, sessionId, atCommandLine = false } = actor.kind === 'operator' ? actor : {};
  if (!active)
    throw new AppError('unauthenticated', {
      detail: atCommandLine ? 'The operator is not active.' : 'The account of this access token is not active.',
      event: { name: 'inactive-account-used' },
    });
  if (atCommandLine) return;
  const session = sessionId === undefined ? undefined : await findSession(sessionsIn(registry), sessionId);
  if (session?.accountId !== id || id === undefined)
    throw new AppError('unauthenticated', {
      detail: 'The session of this access token has ended. Sign in again.',
      event: { name: 'ended-session-used' },
    });
}
