// What a tenant may use: an allow-list of bounded integers, its own over the service's, and the refusal that names the one that
// is reached.
import type { Kysely, Transaction } from 'kysely';
import { z } from 'zod';
import type { LimitChanges, StoredLimits } from '../../db/registry/registry-schema.js';
import { countUpTo, type CountedTable } from '../../db/tenant/usage-queries.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { AppError } from '../errors.js';

/** Every limit there is, with the least and the most that it can be set to. */
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
 * Connections that a tenant's role may have in all where the tenant has no limit: room for many replicas, at the largest pool
 * that a tenant may have.
 */
export const STANDARD_CONNECTIONS = 400;

/** A whole number within bounds; null gives the key its default back. */
const bounded = ([minimum, maximum]: readonly [number, number]): z.ZodOptional<z.ZodNullable<z.ZodInt>> =>
  z.int().min(minimum).max(maximum).nullable().optional();

const limitsSchema = z.strictObject(forEachLimit((name) => bounded(limitBounds[name])));

/** @throws AppError `invalid-limits` (422) naming every key that is out of bounds or not known */
export function parseLimits(input: unknown): LimitChanges {
  const result = limitsSchema.safeParse(input);
  if (result.success) return result.data;
  const issues = result.error.issues.flatMap((issue) => {
    const keys = issue.code === 'unrecognized_keys' ? issue.keys : [issue.path.map(String).join('/')];
    const message = issue.code === 'unrecognized_keys' ? 'is not a limit' : issue.message;
    return keys.map((key) => ({ path: `/limits/${key}`, message }));
  });
  throw new AppError('invalid-limits', { issues });
}

/** The limits in force: the tenant's own where it has them, the service's otherwise. What is absent is not limited. */
export function limitsInForce(own: StoredLimits, defaults: StoredLimits): StoredLimits {
  return { ...defaults, ...own };
}

/** Every limit by its name; null is not limited. */
export function limitsShown(limits: StoredLimits): Record<LimitName, number | null> {
  return forEachLimit((name) => limits[name] ?? null);
}

/**
 * The refusal of what a limit does not allow, naming it.
 *
 * @param retryAfter seconds, where waiting helps: 429 instead of 403
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
 * Inserts into a table that a limit counts, exactly, however many do at once. Without a limit this is the insert alone; with
 * one it is a transaction that takes turns with the others.
 *
 * @throws AppError `tenant-limit-exceeded` where the table is full
 */
export async function insertWithin<T>(
  db: Kysely<TenantDatabase>,
  table: CountedTable & LimitName,
  limit: number | undefined,
  insert: (db: Kysely<TenantDatabase>) => Promise<T>,
): Promise<T> {
  if (limit === undefined) return insert(db);
  return db.transaction().execute(async (trx) => {
    await refuseOver(trx, table, limit);
    return insert(trx);
  });
}

/**
 * The same inside a transaction that is under way: to be called before anything is inserted, since it waits its turn.
 *
 * @throws AppError `tenant-limit-exceeded` where the table is full
 */
export async function refuseOver(
  trx: Transaction<TenantDatabase>,
  table: CountedTable & LimitName,
  limit: number | undefined,
): Promise<void> {
  if (limit !== undefined && (await countUpTo(trx, table, limit)) >= limit) throw limitExceeded(table, limit);
}

/** One value for each limit there is. */
export function forEachLimit<T>(make: (name: LimitName) => T): Record<LimitName, T> {
  const names = Object.keys(limitBounds) as LimitName[];
  return Object.fromEntries(names.map((name) => [name, make(name)])) as Record<LimitName, T>;
}
