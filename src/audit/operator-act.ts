// Checks the operator of an act when the act is decided. The request's own check may be outdated: the operator can be deactivated
// or signed out while the act waits for a lock, a hash or a server.
import type { Kysely, Transaction } from 'kysely';
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import { insertAudit, type CentralAuditEntry } from '../../db/registry/registry-audit.js';
import { findOperator, lockOperator } from '../../db/registry/operator-queries.js';
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
 * @throws AppError `unauthenticated`, which rolls the act back
 */
export async function auditAct(trx: Transaction<Registry>, entry: CentralAuditEntry): Promise<void> {
  if (entry.actor.kind === 'operator') {
    const active = await lockOperator(trx, entry.actor.id);
    await refuseUnless(active, trx, entry);
  }
  await insertAudit(trx, entry);
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
  if (!active)
    throw new AppError('unauthenticated', {
      detail: 'The account of this access token is not active.',
      event: { name: 'inactive-account-used' },
    });
  const { id, sessionId } = actor.kind === 'operator' ? actor : {};
  const session = sessionId === undefined ? undefined : await findSession(sessionsIn(registry), sessionId);
  if (session?.accountId !== id || id === undefined)
    throw new AppError('unauthenticated', {
      detail: 'The session of this access token has ended. Sign in again.',
      event: { name: 'ended-session-used' },
    });
}
