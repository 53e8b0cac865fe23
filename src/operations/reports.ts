// Reports databases that are left as they are because the evidence does not allow what their row requires. Each is logged once.
import { LRUCache } from 'lru-cache';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';

/** Reports that are remembered. A forgotten report is logged again. */
const MAX_REPORTED = 10_000;

/** @param why a part of a sentence, for example: `it carries no mark` */
export type ReportLeft = (tenant: Pick<TenantRecord, 'id' | 'dbName'>, why: string) => void;

/** @returns a function that returns true for each key that it has not seen */
export function createOnce(): (key: string) => boolean {
  const seen = new LRUCache<string, true>({ max: MAX_REPORTED });
  return (key) => {
    if (seen.has(key)) return false;
    seen.set(key, true);
    return true;
  };
}

/** The error of something that is left as it is for want of evidence. It is reported, and does not stop the work. */
export function leftAsItIs(message: string): Error {
  return Object.assign(new Error(message), { name: LEFT });
}

export function isLeftAsItIs(error: unknown): boolean {
  return error instanceof Error && error.name === LEFT;
}

const LEFT = 'LeftAsItIs';

export function createReports(
  onError: (error: unknown, context: { tenantId: string; name: string; step: string }) => void,
): ReportLeft {
  const isNew = createOnce();
  return ({ id, dbName }, why) => {
    if (!isNew(`${id} ${why}`)) return;
    onError(leftAsItIs(`the database of a tenant is left as it is: ${why}`), {
      tenantId: id,
      name: dbName,
      step: 'evidence',
    });
  };
}
