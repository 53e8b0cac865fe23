// The shapes of audit entries in requests and answers, and the two ways to read them: the newest first page by page, and the
// oldest first for a program that asks again and again.
/* eslint @typescript-eslint/explicit-module-boundary-types: off -- the types are what zod infers; written out they would repeat the schemas */
import { z } from 'zod';
import {
  auditActions,
  BEFORE_ALL,
  type AuditRecord,
  type FollowedPage,
  type PlacedRecord,
} from '../../db/shared/audit-rows.js';
import type { Position } from '../../db/shared/keyset.js';
import type { Cursors } from '../../src/http/cursors.js';
import { answerId, id, timestamp } from './fields.js';
import { cursor, limit, pageOf, readPage } from './lists.js';

export const AuditAnswer = z
  .object({
    id: answerId,
    at: timestamp,
    actor: z.object({
      kind: z.enum(['user', 'operator', 'none']),
      id: answerId.nullable(),
    }),
    action: z.string(),
    target: z.object({ kind: z.string(), id: answerId }).nullable(),
    address: z.string().nullable(),
    userAgent: z.string().nullable(),
    requestId: z.string().nullable(),
    details: z.record(z.string(), z.unknown()),
  })
  .meta({ id: 'AuditEntry' });

export const CentralAuditAnswer = AuditAnswer.extend({
  tenantId: answerId
    .nullable()
    .meta({ description: 'The tenant that the act concerns, which may be removed already.' }),
}).meta({ id: 'OperatorAuditEntry' });

/** A page of entries. With `order=asc`, `nextCursor` is never null: it is the `after` of the next request. */
export const auditPageOf = pageOf;

/** Bounded, because PostgreSQL does not parse a time of any length, or a time of the year 0. */
const time = z.iso
  .datetime({ abort: true })
  .max(30)
  .refine((value) => value >= '1970', 'must not be before 1970');

export const auditFilters = {
  action: z.enum(auditActions).optional(),
  actor: id.optional().meta({ description: 'The id of the user or operator that acted.' }),
  from: time.optional().meta({ description: 'Only entries at this time or later.' }),
  to: time.optional().meta({ description: 'Only entries before this time.' }),
};

export const targetFilter = {
  target: id.optional().meta({ description: 'The id of the object that was acted on.' }),
};

/** The query of a list of entries. @param filters the list's filters by name */
export function auditQuery<Filters extends z.ZodRawShape>(filters: Filters) {
  return z
    .strictObject({
      limit,
      cursor,
      order: z.enum(['asc', 'desc']).default('desc').meta({
        description:
          '`desc`: the newest entries first, page by page. `asc`: the oldest first, for a program that asks again and again: no entry is missed, however late its transaction is committed.',
      }),
      after: cursor.meta({
        description:
          'With `order=asc`: the `nextCursor` of the last answer. Without it, the answer begins with the oldest entry.',
      }),
      ...filters,
    })
    .refine((query) => orderOf(query) === 'desc' || !has(query, 'cursor'), {
      path: ['cursor'],
      error: 'must not come with order=asc: send it as after',
    })
    .refine((query) => orderOf(query) === 'asc' || !has(query, 'after'), {
      path: ['after'],
      error: 'must come with order=asc',
    });
}

const orderOf = (query: object): unknown => (query as Partial<AuditListQuery>).order;
const has = (query: object, name: 'cursor' | 'after'): boolean => (query as AuditListQuery)[name] !== undefined;

interface AuditListQuery {
  readonly limit: number;
  readonly order: 'asc' | 'desc';
  readonly cursor?: string | undefined;
  readonly after?: string | undefined;
}

/**
 * Reads one page, the newest or the oldest first.
 *
 * @param owner the owner of the list: a tenant's id, or the operators
 * @throws AppError `invalid-cursor`
 */
export async function readAudit<Row extends AuditRecord, Query extends AuditListQuery>(
  cursors: Cursors,
  owner: readonly [owner: string, list: string],
  query: Query,
  read: {
    readonly newestFirst: (page: Omit<Query, 'after' | 'cursor'> & { after: Position | undefined }) => Promise<Row[]>;
    readonly oldestFirst: (
      page: Omit<Query, 'after' | 'cursor'> & { after: Position },
    ) => Promise<FollowedPage<NoInfer<Row> & PlacedRecord>>;
  },
): Promise<{ data: Row[]; nextCursor: string | null }> {
  const { after: given, ...rest } = query;
  if (query.order === 'desc')
    return readPage(cursors, owner, { ...rest, sort: { name: 'at', direction: 'desc' } as const }, (page) =>
      read.newestFirst(page as never),
    );
  const { limit, order, cursor: _cursor, ...filters } = rest;
  const context = [...owner, `${order} place`, filters] as const;
  const after = given === undefined ? BEFORE_ALL : cursors.decode(given, context);
  const { rows, position } = await read.oldestFirst({ ...rest, limit, after } as never);
  return { data: rows, nextCursor: cursors.encode(position, context) };
}

export function auditAnswer({
  id,
  at,
  action,
  address,
  userAgent,
  requestId,
  details,
  ...row
}: AuditRecord): z.output<typeof AuditAnswer> {
  const target = row.targetKind !== null && row.targetId !== null ? { kind: row.targetKind, id: row.targetId } : null;
  return {
    id,
    at,
    actor: { kind: row.actorKind, id: row.actorId },
    action,
    target,
    address,
    userAgent,
    requestId,
    details: { ...details },
  };
}

/** An entry as the tenant's users see it: where an operator sits is the operator's own affair. */
export function shownToTenant(entry: z.output<typeof AuditAnswer>): z.output<typeof AuditAnswer> {
  if (entry.actor.kind !== 'operator') return entry;
  return { ...entry, address: null, userAgent: null, requestId: null };
}
