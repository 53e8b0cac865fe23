// Queries on the answers to requests with an Idempotency-Key.
import { sql, type Kysely } from 'kysely';
import { shortRead } from '../driver/statement.js';
import type { TenantDatabase } from './tenant-schema.js';

export interface StoredAnswer {
  readonly requestHash: string;
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  readonly announcements: readonly unknown[];
}

/** How long an answer is kept, as an interval of PostgreSQL. */
const KEPT_FOR = sql`interval '24 hours'`;

/** Expired answers that one write removes. */
const REMOVED_AT_ONCE = 10;

/**
 * Answers are counted in one of 64 equal parts of their ids, which are hashes: counting all of them would cost each write up to
 * 10 ms. The parts fill evenly, so that the first one is full when about 94 % of all answers are there.
 */
const PARTS = 64;

/** The first and the last id of the part that has this id. */
function partOf(id: Buffer): { readonly first: Buffer; readonly last: Buffer } {
  const [start = 0] = id;
  const size = 256 / PARTS;
  const first = Buffer.alloc(id.length, 0);
  const last = Buffer.alloc(id.length, 0xff);
  first[0] = start - (start % size);
  last[0] = first[0] + size - 1;
  return { first, last };
}

const unexpired = shortRead((db: Kysely<TenantDatabase>, { id }: { id: Buffer }) =>
  db
    .selectFrom('idempotency_keys')
    .select(['request_hash as requestHash', 'status', 'headers', 'body', 'announcements'])
    .where('id', '=', id)
    .where(sql<boolean>`created_at >= now() - ${KEPT_FOR}`),
);

export async function findStoredAnswer(db: Kysely<TenantDatabase>, id: Buffer): Promise<StoredAnswer | undefined> {
  const [found] = await unexpired(db, { id });
  return found;
}

/**
 * Takes the lock of a key until the transaction ends, or not at all: a request that waited for it would hold a connection.
 *
 * @returns whether this transaction has it
 */
export async function tryLockKey(db: Kysely<TenantDatabase>, id: Buffer): Promise<boolean> {
  const { rows } = await sql<{ locked: boolean }>`
    select pg_try_advisory_xact_lock(${id.readBigInt64BE().toString()}::bigint) as locked`.execute(db);
  return rows[0]?.locked ?? false;
}

/**
 * Stores the answer, and removes some expired ones. The lock of the key must be held.
 *
 * @param most answers that a tenant can have at most
 * @returns whether there was room
 */
export async function storeAnswer(
  db: Kysely<TenantDatabase>,
  id: Buffer,
  { requestHash, status, headers, body, announcements }: StoredAnswer,
  most: number,
): Promise<boolean> {
  const { first, last } = partOf(id);
  const room = Math.floor(most / PARTS);
  await sql`
    delete from idempotency_keys where id in (
      select id from idempotency_keys where created_at < now() - ${KEPT_FOR}
      order by created_at limit ${REMOVED_AT_ONCE} for update skip locked)`.execute(db);
  const { rows } = await sql`
    insert into idempotency_keys (id, request_hash, status, headers, body, announcements)
      select ${id}::bytea, ${requestHash}::text, ${status}::smallint, ${JSON.stringify(headers)}::jsonb, ${body}::text,
        ${JSON.stringify(announcements)}::jsonb
      where (select count(*) from (
        select from idempotency_keys where id between ${first} and ${last} limit ${room}) as counted) < ${room}
    on conflict (id) do update set request_hash = excluded.request_hash, status = excluded.status,
      headers = excluded.headers, body = excluded.body, announcements = excluded.announcements, created_at = now()
    returning id`.execute(db);
  return rows.length === 1;
}
