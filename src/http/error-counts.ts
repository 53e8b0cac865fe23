// Counts error answers: each by its code, and each 429 by the limit that was reached.
import { AppError, catalogue, RateLimited, type ErrorCode } from '../errors.js';
import type { Instruments } from '../observability/instruments.js';

/** @param error the error that was answered, whatever was thrown */
export type CountError = (error: unknown, code: ErrorCode, status: number) => void;

export function createErrorCounts({
  httpErrors,
  rateLimited,
}: Pick<Instruments, 'httpErrors' | 'rateLimited'>): CountError {
  const byCode = new Map((Object.keys(catalogue) as ErrorCode[]).map((code) => [code, httpErrors.labels(code)]));
  return (error, code, status) => {
    byCode.get(code)?.inc();
    if (status === 429) rateLimited.inc({ limit: limitOf(error) });
  };
}

/** A tenant's own limits, by their names in the API. Only those that waiting helps answer 429. */
const tenantLimits: Readonly<Record<string, string>> = {
  requestsPerSecond: 'tenant-requests',
  connections: 'tenant-connections',
};

function limitOf(error: unknown): string {
  if (error instanceof RateLimited) return error.reached;
  const name = error instanceof AppError ? error.limit?.name : undefined;
  return tenantLimits[name ?? ''] ?? 'other';
}
