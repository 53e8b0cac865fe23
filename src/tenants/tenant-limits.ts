// What a tenant may use: an allow-list of bounded integers, the tenant's own values over the service's. Also makes the refusal,
// which names the limit that is reached.
import type { Kysely, Transaction } from 'kysely';
import { z } from 'zod';
import { transact } from '../../db/driver/transact.js';
import type { LimitChanges, StoredLimits } from '../../db/registry/registry-schema.js';
import { countUpTo, type CountedTable } from '../../db/tenant/usage-queries.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { AppError } from '../errors.js';
import { inOurWords, inputIssues } from '../http/validation-words.js';

/** Every limit, with its smallest and largest value. */
export const limitBounds = {
  requestsPerSecond: [1, 100_000],
  connections: [1, 400],
  statementTimeout: [100, 600_000],
  users: [1, 1_000_000],
  products: [1, 100_000_000],
  storageBytes: [1_048_576, 2 ** 50],
} as const satisfies Record<keyof StoredLimits, readonly [minimum: number, maximum: number]>;

export type LimitName = keyof typeof limitBounds;

/**
 * Connections that a tenant's role may have in all if the tenant has no limit. It is enough for many replicas with the largest
 * pool that a tenant may have.
 */
export const STANDARD_CONNECTIONS = 400;

/** A whole number within bounds; null restores the key's default. */
const bounded = ([minimum, maximum]: readonly [number, number]): z.ZodOptional<z.ZodNullable<z.ZodNumber>> =>
  z.number().min(minimum).max(maximum).int().nullable().optional();

const limitsSchema = z.strictObject(forEachLimit((name) => bounded(limitBounds[name])));

/** @throws AppError `invalid-limits` (422) that names every key that is out of bounds or not known */
export function parseLimits(input: unknown): LimitChanges {
  const result = limitsSchema.safeParse(input, { error: inOurWords });
  if (result.success) return result.data;
  const issues = inputIssues(result.error, 'is not a limit').map(({ path, message }) => ({
    path: `/limits${path}`,
    message,
  }));
  throw new AppError('invalid-limits', { issues });
}

/** The limits in force: the tenant's own if set, otherwise the service's. An absent key is not limited. */
export function limitsInForce(own: StoredLimits, defaults: StoredLimits): StoredLimits {
  return { ...defaults, ...own };
}

/** Every limit by its name; null means not limited. */
export function limitsShown(limits: StoredLimits): Record<LimitName, number | null> {
  return forEachLimit((name) => limits[name] ?? null);
}

/**
 * The refusal of a request that exceeds a limit. It names the limit.
 *
 * @param retryAfter seconds; given if waiting helps: then 429 instead of 403
 */
export function limitExceeded(name: LimitName, value: number, retryAfter?: number): AppError {
  return new AppError('tenant-limit-exceeded', {
    detail: details[name](value.toLocaleString('en-US')),
    limit: { name, value },
    ...(retryAfter !== undefined && { retryAfter }),
  });
}

/** @param value the limit, with thousands separated: `10,000` */
const details: Readonly<Record<LimitName, (value: string) => string>> = {
  requestsPerSecond: (value) => `The tenant has reached its limit of ${value} requests per second.`,
  connections: (value) => `The tenant has reached its limit of ${value} connections. Try again when one is free.`,
  statementTimeout: (value) =>
    `The database needed longer than the tenant's limit of ${value} ms. Request less at once.`,
  users: (value) => `The tenant has reached its limit of ${value} users.`,
  products: (value) => `The tenant has reached its limit of ${value} products.`,
  storageBytes: (value) =>
    `The tenant's database is larger than its limit of ${value} bytes. Reading and deleting still work.`,
};

/**
 * Inserts into a table whose rows a limit counts. The count is exact, however many requests insert at the same time. Without a
 * limit this is the insert alone. With a limit it is a transaction that takes turns with the others.
 *
 * @throws AppError `tenant-limit-exceeded` if the table is full
 */
export async function insertWithin<T>(
  db: Kysely<TenantDatabase>,
  table: CountedTable & LimitName,
  limit: number | undefined,
  insert: (db: Kysely<TenantDatabase>) => Promise<T>,
): Promise<T> {
  if (limit === undefined) return insert(db);
  return transact(db, async (trx) => {
    await refuseOver(trx, table, limit);
    return insert(trx);
  });
}

/**
 * The same inside a running transaction. Call this before anything is inserted, since it waits for its turn.
 *
 * @throws AppError `tenant-limit-exceeded` if the table is full
 */
export async function refuseOver(
  trx: Transaction<TenantDatabase>,
  table: CountedTable & LimitName,
  limit: number | undefined,
): Promise<void> {
  if (limit !== undefined && (await countUpTo(trx, table, limit)) >= limit) throw limitExceeded(table, limit);
}

/** Makes one value for each limit. */
export function forEachLimit<T>(make: (name: LimitName) => T): Record<LimitName, T> {
  const names = Object.keys(limitBounds) as LimitName[];
  return Object.fromEntries(names.map((name) => [name, make(name)])) as Record<LimitName, T>;
}
