// What a tenant may set of its own pool: an allow-list of bounded integers, and nothing that pg would read besides.
import { z } from 'zod';
import type { PoolOptionChanges, StoredLimits, StoredPoolOptions } from '../../db/registry/registry-schema.js';
import type { PoolLimits } from '../../db/driver/client.js';
import { AppError } from '../errors.js';

/** A whole number within bounds; null gives the key its default back. */
const bounded = (minimum: number, maximum: number): z.ZodOptional<z.ZodNullable<z.ZodInt>> =>
  z.int().min(minimum).max(maximum).nullable().optional();

/** Connections, and milliseconds. */
export const poolOptionsSchema = z.strictObject({
  max: bounded(1, 100).meta({ description: 'Connections at once.' }),
  acquireTimeout: bounded(100, 60_000).meta({ description: 'Longest wait for a connection, in ms.' }),
  timeout: bounded(100, 600_000).meta({ description: 'Longest run of a statement, in ms.' }),
  idleTimeoutMillis: bounded(100, 3_600_000).meta({ description: 'An idle connection closes after this many ms.' }),
});

/** @throws AppError `invalid-pool-options` (422) naming every key that is out of bounds or not known */
export function parsePoolOptions(input: unknown): PoolOptionChanges {
  const result = poolOptionsSchema.safeParse(input);
  if (result.success) return result.data;
  const issues = result.error.issues.flatMap((issue) => {
    const keys = issue.code === 'unrecognized_keys' ? issue.keys : [issue.path.map(String).join('/')];
    const message = issue.code === 'unrecognized_keys' ? 'is not a pool option' : issue.message;
    return keys.map((key) => ({ path: `/poolOptions/${key}`, message }));
  });
  throw new AppError('invalid-pool-options', { issues });
}

/**
 * An unused connection of a tenant whose connections are limited closes after this time (ms): all processes share the limit,
 * and what one keeps for nothing another may wait for.
 */
const GIVEN_BACK_AFTER = 1_000;

/**
 * The bounds of one tenant's pool: its own where it has them, the service's otherwise, and never beyond its limits.
 *
 * @param limits those in force
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
