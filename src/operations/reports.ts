// Reports databases that are left as they are because the evidence does not allow what their row requires. Each is logged once.
import { recentMap } from '../lib/recent-map.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';

/** Reports that are remembered. A forgotten report is logged again. */
const MAX_REPORTED = 10_000;

/** @param why a part of a sentence, for example: `it carries no mark` */
export type ReportLeft = (tenant: Pick<TenantRecord, 'id' | 'dbName'>, why: string) => void;

/** @returns a function that returns true for each key that it has not seen */
export function createOnce(): (key: string) => boolean {
  const seen = recentMap<string, true>(MAX_REPORTED);
  return (key) => {
    if (seen.has(key)) return false;
    seen.set(key, true);
    return true;
  };
}

export function createReports(
  onError: (error: unknown, context: { tenantId: string; name: string; step: string }) => void,
): ReportLeft {
  const isNew = createOnce();
  return ({ id, dbName }, why) => {
    if (!isNew(`${id} ${why}`)) return;
    const error = new Error(`the database of a tenant is left as it is: ${why}`);
    onError(error, { tenantId: id, name: dbName, step: 'evidence' });
  };
}
