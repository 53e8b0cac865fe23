// What a tenant may set for its own pool: an allow-list of bounded integers. Other options of pg are refused.
import { z } from 'zod';
import type { PoolOptionChanges, StoredLimits, StoredPoolOptions } from '../../db/registry/registry-schema.js';
import type { PoolLimits } from '../../db/driver/client.js';
import { AppError } from '../errors.js';
import { inOurWords, inputIssues } from '../http/validation-words.js';

/** A whole number within bounds; null restores the key's default. */
const bounded = (minimum: number, maximum: number): z.ZodOptional<z.ZodNullable<z.ZodNumber>> =>
  z.number().min(minimum).max(maximum).int().nullable().optional();

/** Numbers of connections, and times in milliseconds. */
export const poolOptionsSchema = z.strictObject({
  max: bounded(1, 100).meta({ description: 'Connections at once.' }),
  acquireTimeout: bounded(100, 60_000).meta({ description: 'Longest wait for a connection, in ms.' }),
  timeout: bounded(100, 600_000).meta({ description: 'Longest run of a statement, in ms.' }),
  idleTimeoutMillis: bounded(100, 3_600_000).meta({ description: 'An idle connection closes after this many ms.' }),
});

/** @throws AppError `invalid-pool-options` (422) that names every key that is out of bounds or not known */
export function parsePoolOptions(input: unknown): PoolOptionChanges {
  const result = poolOptionsSchema.safeParse(input, { error: inOurWords });
  if (result.success) return result.data;
  const issues = inputIssues(result.error, 'is not a pool option').map(({ path, message }) => ({
    path: `/poolOptions${path}`,
    message,
  }));
  throw new AppError('invalid-pool-options', { issues });
}

/**
 * If a tenant's connections are limited, its unused connections close after this time (ms). All processes share the limit, so an
 * unused connection in one process may keep another process waiting.
 */
const GIVEN_BACK_AFTER = 1_000;

/**
 * The bounds of one tenant's pool: the tenant's own if set, otherwise the service's, and never beyond the tenant's limits.
 *
 * @param limits the limits in force
 */
export function poolLimits(own: StoredPoolOptions, defaults: PoolLimits, limits: StoredLimits = {}): PoolLimits {
  const wanted = { ...defaults, ...own };
  const { connections, statementTimeout } = limits;
  return {
    ...wanted,
    ...(connections !== undefined && {
      max: Math.min(wanted.max, connections),
      idleTimeoutMillis: Math.min(wanted.idleTimeoutMillis, GIVEN_BACK_AFTER),
    }),
    ...(statementTimeout !== undefined && { timeout: Math.min(wanted.timeout, statementTimeout) }),
  };
}
