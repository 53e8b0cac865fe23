// Audit rows: who did what to what, when, and from which address. The registry and every tenant's database have the table. The
// queries are in db/registry/registry-audit.ts and db/tenant/tenant-audit.ts. docs/guide/audit.md lists the actions.
//
// To audit an act, write its row in the transaction of the act. Then neither exists without the other:
//
//     await db.transaction().execute(async (trx) => {
//       await deleteRole(trx, id);
//       await insertAudit(trx, { ...origin, action: 'role.deleted', target: { kind: 'role', id } });
//     });
//
// `origin` is `request.auditOrigin` (plugins/caller/audit-origin.ts): the actor of the request and its address. An act that is
// not a write, such as a refused sign-in, goes to `app.engine.audit` (src/audit/trail.ts), which writes it after the answer.
import {
  sql,
  type InsertObject,
  type Kysely,
  type RawBuilder,
  type SelectQueryBuilder,
  type Transaction,
} from 'kysely';
import { plannedEachTime } from '../driver/statement-names.js';
import { newId } from './ids.js';
import type { Position } from './keyset.js';
import type { WithAudit } from './shared-tables.js';

/** Everything that is audited. Rows stay when an action is removed: never reuse its name for another action. */
export const auditActions = [
  'auth.login',
  'auth.login-failed',
  'auth.confirmed',
  'auth.confirmation-failed',
  'auth.throttled',
  'auth.refresh-reused',
  'auth.logout',
  'auth.logout-all',
  'session.revoked',
  'user.created',
  'user.updated',
  'user.deleted',
  'operator.created',
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
  'operation.retried',
  'operation.abandoned',
  'rollout.started',
  'rollout.paused',
  'rollout.resumed',
  'rollout.retried',
  'rollout.aborted',
  'keys.rotated',
  'doctor.repaired',
  'statement.run',
  'audit.dropped',
] as const;

export type AuditAction = (typeof auditActions)[number];

export type AuditActor =
  | { readonly kind: 'user'; readonly id: string }
  /**
   * `sessionId` is the session in which the operator acts, and `atCommandLine` is true for the `tenantry` command, which has no session:
   * the person who runs it can read the registry's password. Neither is stored. If neither is given, the act is refused.
   */
  | {
      readonly kind: 'operator';
      readonly id: string;
      readonly sessionId?: string | undefined;
      readonly atCommandLine?: boolean;
    }
  /** A client that is not signed in, or the service itself. */
  | { readonly kind: 'none' };

/** A request with an Idempotency-Key that may change the registry (db/registry/request-answers.ts). */
export interface RequestClaim {
  /** Hash of the caller, the method, the address and the key. */
  readonly id: Buffer;
  /** The caller's tenant; the nil UUID for operators. */
  readonly owner: string;
  /** Keyed hash of the content. */
  readonly requestHash: string;
  /** The random id of this attempt: of two attempts with one key, only one commits. */
  readonly claim: string;
}

/** The actor of a request, and the address it came from. */
export interface AuditOrigin {
  readonly actor: AuditActor;
  readonly address?: string | undefined;
  /** The name that the client gives itself, cut to the length that is stored. */
  readonly userAgent?: string | undefined;
  readonly requestId?: string | undefined;
  /** For the log only: the trace of the request. It is not stored. */
  readonly traceId?: string | undefined;
  /** Recorded in the transaction of the act, and not in the audit. */
  readonly claim?: RequestClaim | undefined;
}

/** From which value to which, by the name of the field. null: there was, or is, no value of its own. */
export type Changes = Readonly<Record<string, { readonly from: unknown; readonly to: unknown }>>;

export interface AuditEntry extends AuditOrigin {
  readonly action: AuditAction;
  /** The object of the action; `id` is a UUID. */
  readonly target?: {
    readonly kind: 'user' | 'role' | 'session' | 'tenant' | 'operator' | 'cluster' | 'operation' | 'rollout';
    readonly id: string;
  };
  /**
   * Short details: names of fields and roles, a reason, `changes` (src/audit/changes.ts). Never a secret, nor text that a person
   * typed into a field for a secret.
   */
  readonly details?: Readonly<Record<string, string | number | boolean | readonly string[] | Changes>>;
  /**
   * How long ago (ms) it happened, if the row is written later. The database dates every row. A row that is more than LATE has it as
   * a detail.
   */
  readonly age?: number;
}

/** A row as the queries return it. */
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

/** The order of lists with the newest row first. */
export const NEWEST_FIRST = { column: 'at', id: 'id', direction: 'desc', type: 'timestamptz' } as const;

/** A row, and its place in the order of `oldestFirst`: era and transaction. */
export type PlacedRecord = AuditRecord & { readonly place: string };

/** The position before all rows. */
export const BEFORE_ALL: Position = ['0 0', '00000000-0000-0000-0000-000000000000'];

/** A page with the oldest rows first. */
export interface FollowedPage<Row> {
  readonly rows: Row[];
  /** Where the next page begins. No row that is still to come is before it. */
  readonly position: Position;
  /** Whether the database places its rows. Until it does (the trigger `stamp_audit`), the next row may have any place. */
  readonly placed: boolean;
}

/**
 * One page of rows with the oldest first, for a reader that asks again and again and misses none: a row comes only when every
 * transaction that could still put a row before it has ended. Other transactions on the server delay rows too, and never lose one.
 * db/shared/audit-migrations.ts has the order.
 *
 * After a page that is not full, the next one begins where it would without the condition: no row is read for nothing twice. Both
 * places are from one statement, which sees the rows of one moment.
 *
 * @param query selects rows of the audit, with the columns of a row
 * @param condition which of these rows the page has
 */
export async function oldestFirst<DB, TB extends keyof DB, O>(
  db: Kysely<DB>,
  query: SelectQueryBuilder<DB, TB, O>,
  condition: RawBuilder<boolean>,
  after: Position,
  limit: number,
): Promise<FollowedPage<O & { place: string }>> {
  const [place, id] = after;
  const [era = '0', xid = '0'] = place.split(' ');
  const settled = query
    .select([sql`era`.as('era'), sql`xid`.as('xid')])
    .where(sql<boolean>`(era, xid, id) > (${era}::bigint, ${xid}::xid8, ${id}::uuid)`)
    .where(
      sql<boolean>`(xid < pg_snapshot_xmin(pg_current_snapshot())
        or server <> (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint)`,
    );
  const page = settled
    .where(condition)
    .orderBy(sql`era`)
    .orderBy(sql`xid`)
    .orderBy(sql`id`)
    .limit(limit);
  const newest = settled
    .orderBy(sql`era desc`)
    .orderBy(sql`xid desc`)
    .orderBy(sql`id desc`)
    .limit(1);
  // One row at least, which has only nulls of the page if the page is empty.
  const { rows: found } = await sql<
    O & { id: string | null; place: string; newestPlace: string; newestId: string | null; placed: boolean }
  >`
    with page as ${page}, newest as ${newest}
    select page.*, concat(page.era, ' ', page.xid) as place, concat(newest.era, ' ', newest.xid) as "newestPlace",
      newest.id as "newestId", database.placed
    from (select exists (
        select from pg_trigger where tgrelid = 'audit'::regclass and tgname = 'stamp_audit') as placed) as database
      left join newest on true left join page on true
    order by page.era, page.xid, page.id ${plannedEachTime}`.execute(db);
  const rows = found.filter((row) => row.id !== null);
  const [first] = found;
  const last = rows.length < limit ? undefined : rows.at(-1);
  const end: Position = first && first.newestId !== null ? [first.newestPlace, first.newestId] : after;
  return {
    rows,
    position: last && last.id !== null ? [last.place, last.id] : end,
    placed: first?.placed ?? false,
  };
}

export interface AuditFilters {
  readonly action?: AuditAction | undefined;
  readonly actor?: string | undefined;
  readonly target?: string | undefined;
  /** ISO 8601; the bound itself is included. */
  readonly from?: string | undefined;
  /** ISO 8601; the bound itself is excluded. */
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

/** Adds at least one row. If the act is a write, use the transaction of the act. */
export async function insertAudit<Database extends WithAudit>(
  db: Kysely<Database> | Transaction<Database>,
  ...entries: readonly AuditEntry[]
): Promise<void> {
  // Kysely cannot infer that `Database`, which extends WithAudit, has the audit table.
  await (db as unknown as Kysely<WithAudit>).insertInto('audit').values(entries.map(auditRow)).execute();
}

/** Rows are written a moment after their act (ms). A longer time is worth a detail. */
const LATE = 5_000;

/** An entry with the names of the columns. */
export function auditRow({
  actor,
  action,
  target,
  address,
  userAgent,
  requestId,
  details = {},
  age = 0,
}: AuditEntry): InsertObject<WithAudit, 'audit'> {
  return {
    // Databases with 0017_audit_stamp give another one.
    id: newId(),
    actor_kind: actor.kind,
    actor_id: actor.kind === 'none' ? null : actor.id,
    action,
    target_kind: target?.kind ?? null,
    target_id: target?.id ?? null,
    address: address ?? null,
    user_agent: userAgent ?? null,
    request_id: requestId ?? null,
    details: JSON.stringify(age < LATE ? details : { ...details, age: Math.round(age) }),
  };
}
