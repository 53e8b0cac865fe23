// A write with an Idempotency-Key: its changes and its answer are committed together, or neither is.
//
//     known? ── yes ──> the stored answer
//       └ no ─> first query: begin, lock of the key, known? ─> the write ─> store the answer ─> commit ─> answer
//                                    └ taken: 409 at once
//
// Only an answer that was committed is repeated: an error frees the key.
import { createHash } from 'node:crypto';
import type { Kysely } from 'kysely';
import type { LazyTransaction } from '../../db/driver/lazy-transaction.js';
import { findStoredAnswer, storeAnswer, tryLockKey, type StoredAnswer } from '../../db/tenant/idempotency-queries.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { AppError } from '../errors.js';

/** What makes two requests the same one, besides their content. */
export interface KeyedRequest {
  /** The id of the caller. */
  readonly caller: string;
  readonly method: string;
  /** The pattern of the route and its parameters: one address can be spelled in several ways. */
  readonly route: string;
  readonly params: unknown;
  readonly key: string;
}

/** Answers that a tenant may have stored. */
const MOST_ANSWERS = 100_000;

/** Thrown by the first query of a write whose answer another request has stored meanwhile. */
export class AlreadyAnswered extends Error {
  constructor(readonly answer: StoredAnswer) {
    super('the request was answered before');
  }
}

/** Compares the content of requests. */
export interface ContentHash {
  /** Of this request. */
  readonly hash: string;
  /** Whether a stored hash is the hash of this request. */
  readonly matches: (stored: string) => boolean;
}

export interface KeyedWrite {
  readonly db: Kysely<TenantDatabase>;
  /** What must be told to the other replicas: stored with the answer. */
  readonly announced: unknown[];
  /** What happens after the commit, in this order. */
  readonly afterCommit: (() => void | Promise<void>)[];
  /**
   * Stores the answer, commits, and does what happens after the commit.
   *
   * @throws AppError `too-many-idempotency-keys`; the errors of the database, and of what happens after the commit
   */
  commit(answer: Pick<StoredAnswer, 'status' | 'headers' | 'body'>): Promise<void>;
  /** Never rejects. */
  rollback(): Promise<void>;
}

/** The answer that is known already. @throws AppError `idempotency-key-reused` if it is another request's */
export async function findEarlierAnswer(
  db: Kysely<TenantDatabase>,
  request: KeyedRequest,
  content: ContentHash,
): Promise<StoredAnswer | undefined> {
  return ofSameRequest(await findStoredAnswer(db, idOfRequest(request)), content);
}

/** @param begin begins a transaction lazily (db/driver/lazy-transaction.ts) */
export function beginKeyedWrite(
  begin: (began: (db: Kysely<TenantDatabase>) => Promise<void>) => LazyTransaction<TenantDatabase>,
  request: KeyedRequest,
  content: ContentHash,
): KeyedWrite {
  const id = idOfRequest(request);
  const transaction = begin(async (db) => {
    if (!(await tryLockKey(db, id))) throw new AppError('idempotency-key-in-use', { retryAfter: 1 });
    const known = ofSameRequest(await findStoredAnswer(db, id), content);
    if (known) throw new AlreadyAnswered(known);
  });
  const announced: unknown[] = [];
  const afterCommit: KeyedWrite['afterCommit'] = [];
  return {
    db: transaction.db,
    announced,
    afterCommit,
    rollback: () => transaction.rollback(),
    async commit(answer) {
      const stored = { ...answer, requestHash: content.hash, announcements: announced };
      try {
        if (!(await storeAnswer(transaction.db, id, stored, MOST_ANSWERS)))
          throw new AppError('too-many-idempotency-keys', { retryAfter: 60 });
      } catch (error) {
        await transaction.rollback();
        throw error;
      }
      await transaction.commit();
      for (const work of afterCommit) await work();
    },
  };
}

function ofSameRequest(known: StoredAnswer | undefined, { matches }: ContentHash): StoredAnswer | undefined {
  if (known && !matches(known.requestHash)) throw new AppError('idempotency-key-reused');
  return known;
}

/** The id of the row that such a request has. */
export function idOfRequest({ caller, method, route, params, key }: KeyedRequest): Buffer {
  return createHash('sha256')
    .update(JSON.stringify([caller, method, route, params, key]))
    .digest();
}
