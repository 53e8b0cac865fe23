// What an audit row is: who did what to what, when and from where. The registry and every tenant's database have the table;
// the queries are in db/registry/registry-audit.ts and db/tenant/tenant-audit.ts, and docs/guide/audit.md lists the actions.
//
// To have an act audited, write its row in the transaction of the act, so that neither is there without the other:
//
//     await db.transaction().execute(async (trx) => {
//       await deleteRole(trx, id);
//       await insertAudit(trx, { ...origin, action: 'role.deleted', target: { kind: 'role', id } });
//     });
//
// `origin` is `request.auditOrigin` (plugins/caller/audit-origin.ts): who makes the request, and from where. What is no write itself, such
// as a refused sign-in, goes to `app.audit` (src/audit/trail.ts), which writes it after the answer.
import { sql, type InsertObject, type Kysely, type RawBuilder, type Transaction } from 'kysely';
import { newId } from './ids.js';
import type { WithAudit } from './shared-tables.js';

/** Everything that is audited. Rows stay when an action goes: never give its name to something else. */
export const auditActions = [
  'auth.login',
  'auth.login-failed',
  'auth.confirmation-failed',
  'auth.throttled',
  'auth.refresh-reused',
  'auth.logout',
  'auth.logout-all',
  'session.revoked',
  'user.created',
  'user.updated',
  'user.deleted',
  'operator.updated',
  'role.created',
  'role.updated',
  'role.deleted',
  'tenant.created',
  'tenant.updated',
  'tenant.suspended',
  'tenant.resumed',
  'tenant.signed-out',
  'tenant.password-rotated',
  'tenant.deleted',
  'tenant.restored',
  'tenant.purged',
  'cluster.registered',
  'cluster.updated',
  'cluster.drained',
  'cluster.removed',
  'audit.dropped',
] as const;

export type AuditAction = (typeof auditActions)[number];

export type AuditActor =
  | { readonly kind: 'user'; readonly id: string }
  /** `sessionId` is the session that the act is made in. It is not written down; without it an act is refused. */
  | { readonly kind: 'operator'; readonly id: string; readonly sessionId?: string | undefined }
  /** Nobody who is signed in, or the service itself. */
  | { readonly kind: 'none' };

/** Who makes a request, and from where. */
export interface AuditOrigin {
  readonly actor: AuditActor;
  readonly address?: string | undefined;
  /** As the client names itself, cut to a length that is kept. */
  readonly userAgent?: string | undefined;
  readonly requestId?: string | undefined;
}

export interface AuditEntry extends AuditOrigin {
  readonly action: AuditAction;
  /** What it was done to; `id` is a UUID. */
  readonly target?: {
    readonly kind: 'user' | 'role' | 'session' | 'tenant' | 'operator' | 'cluster';
    readonly id: string;
  };
  /** A few words on how: names of fields and roles, a reason. Never a secret, nor what somebody typed for one. */
  readonly details?: Readonly<Record<string, string | number | boolean | readonly string[]>>;
  /** How long ago (ms) it happened, if it is written later. The database's clock dates every row: its rows have one order. */
  readonly age?: number;
}

/** A row as it is read. */
export interface AuditRecord {
  readonly id: string;
  readonly at: string;
  readonly actorKind: AuditActor['kind'];
  readonly actorId: string | null;
  readonly action: string;
  readonly targetKind: string | null;
  readonly targetId: string | null;
  readonly address: string | null;
  readonly userAgent: string | null;
  readonly requestId: string | null;
  readonly details: Readonly<Record<string, unknown>>;
}

export const auditColumns = [
  'id',
  'at',
  'actor_kind as actorKind',
  'actor_id as actorId',
  'action',
  'target_kind as targetKind',
  'target_id as targetId',
  'address',
  'user_agent as userAgent',
  'request_id as requestId',
  'details',
] as const;

/** The one order in which rows are listed: the newest first. */
export const AUDIT_ORDER = { column: 'at', id: 'id', direction: 'desc', type: 'timestamptz' } as const;

export interface AuditFilters {
  readonly action?: AuditAction | undefined;
  readonly actor?: string | undefined;
  readonly target?: string | undefined;
  /** ISO 8601; the bound itself is included. */
  readonly from?: string | undefined;
  /** ISO 8601; the bound itself is left out. */
  readonly to?: string | undefined;
}

export function auditCondition({ action, actor, target, from, to }: AuditFilters): RawBuilder<boolean> {
  const conditions = [
    action !== undefined && sql`action = ${action}`,
    actor !== undefined && sql`actor_id = ${actor}`,
    target !== undefined && sql`target_id = ${target}`,
    from !== undefined && sql`at >= ${from}`,
    to !== undefined && sql`at < ${to}`,
  ].filter((condition) => condition !== false);
  return conditions.length === 0 ? sql<boolean>`true` : sql<boolean>`${sql.join(conditions, sql` and `)}`;
}

/** Adds at least one row: in the transaction of the act, where the act is a write. */
export async function insertAudit<Database extends WithAudit>(
  db: Kysely<Database> | Transaction<Database>,
  ...entries: readonly AuditEntry[]
): Promise<void> {
  // Kysely cannot see that a database which has the table is one that has it among others.
  await (db as unknown as Kysely<WithAudit>).insertInto('audit').values(entries.map(auditRow)).execute();
}

/** An entry under its columns' names. */
export function auditRow({
  actor,
  action,
  target,
  address,
  userAgent,
  requestId,
  details = {},
  age,
}: AuditEntry): InsertObject<WithAudit, 'audit'> {
  return {
    id: newId(),
    ...(age !== undefined && { at: sql<string>`now() - ${age} * interval '1 millisecond'` }),
    actor_kind: actor.kind,
    actor_id: actor.kind === 'none' ? null : actor.id,
    action,
    target_kind: target?.kind ?? null,
    target_id: target?.id ?? null,
    address: address ?? null,
    user_agent: userAgent ?? null,
    request_id: requestId ?? null,
    details: JSON.stringify(details),
  };
}
