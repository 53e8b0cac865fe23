// Reports databases that are left as they are because the evidence does not allow what their row requires. Each is logged once.
//
// The registry keeps the reports, and not this process: the job that makes them runs on one replica at a time, and every replica
// must give the same answer. Presence writes them with its beats (src/replicas/presence.ts), many in one statement.
import { recentMap } from '../lib/recent-map.js';
import type { BeatReport } from '../../db/registry/replica-rows.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';

/** Reports that are remembered. A forgotten report is logged again. */
const MAX_REPORTED = 10_000;

/** @param why a part of a sentence, for example: `it carries no mark` */
export type ReportLeft = (tenant: Pick<TenantRecord, 'id' | 'dbName' | 'generation'>, why: string) => void;

export interface Reports {
  /** A tenant's database that is left as it is. */
  readonly left: ReportLeft;
  /** Whether this process has reported the tenant's database. Then the security event is recorded already. */
  isReported(tenantId: string): boolean;
  /** A database or a role that may belong to a tenant, and that no row names. Returns whether it is new. */
  orphan(
    orphan: { readonly clusterId: string; readonly tenantId: string; readonly name: string },
    why: string,
  ): boolean;
  /**
   * Reports that the registry does not have yet, or that were made again since it got them some time ago. They count as written
   * unless `failed` is called.
   */
  unwritten(): { readonly reports: readonly BeatReport[]; failed(): void };
}

/** The most reports in one beat. If a registry is restored to an earlier moment, there may be one for each tenant. */
const WRITTEN_AT_ONCE = 1_000;

/** A report that is made again is written again after this time (ms). */
const WRITE_EVERY = 60_000;

interface Noted {
  readonly report: BeatReport;
  /** When the registry got it; -Infinity if it has not. */
  readonly writtenAt: number;
  /** Whether it was made since. */
  readonly again: boolean;
}

/**
 * The error of something that is left as it is for want of evidence. It is reported, and does not stop the work.
 *
 * @param cause the error for a person who asks
 */
export function leftAsItIs(message: string, cause?: Error): Error {
  return Object.assign(new Error(message, { cause }), { name: LEFT });
}

export function isLeftAsItIs(error: unknown): error is Error {
  return error instanceof Error && error.name === LEFT;
}

const LEFT = 'LeftAsItIs';

const keyOf = ({ kind, subject }: Pick<BeatReport, 'kind' | 'subject'>): string => `${kind} ${subject}`;

export function createReports(
  onError: (error: unknown, context: { tenantId: string; name: string; step: string }) => void,
): Reports {
  const noted = recentMap<string, Noted>(MAX_REPORTED);
  const logged = recentMap<string, true>(MAX_REPORTED);

  /** @returns whether it was not made before */
  function note(report: BeatReport): boolean {
    const key = keyOf(report);
    const known = noted.get(key);
    // A report of an earlier generation does not count any more: the registry must get this one soon.
    const writtenAt = known?.report.generation === report.generation ? known?.writtenAt : undefined;
    noted.set(key, { report, writtenAt: writtenAt ?? -Infinity, again: true });
    const isNew = !logged.has(`${key} ${report.why}`);
    logged.set(`${key} ${report.why}`, true);
    return isNew;
  }

  return {
    left({ id, dbName, generation }, why) {
      const report = { kind: 'evidence', subject: id, tenantId: id, generation, database: dbName, why } as const;
      if (!note(report)) return;
      const error = leftAsItIs(`the database of a tenant is left as it is: ${why}`);
      onError(error, { tenantId: id, name: dbName, step: 'evidence' });
    },

    isReported: (tenantId) => noted.peek(keyOf({ kind: 'evidence', subject: tenantId })) !== undefined,

    orphan: ({ clusterId, tenantId, name }, why) =>
      note({
        kind: 'orphan',
        subject: `${clusterId} ${name}`,
        tenantId,
        generation: undefined,
        database: name,
        why,
      }),

    unwritten() {
      const now = performance.now();
      const keys: string[] = [];
      for (const [key, { writtenAt, again }] of noted.entries()) {
        if (keys.length >= WRITTEN_AT_ONCE) break;
        if (again && now - writtenAt >= WRITE_EVERY) keys.push(key);
      }
      const before = keys.map((key) => noted.peek(key)).filter((entry) => entry !== undefined);
      before.forEach(({ report }, index) => {
        noted.set(keys[index] ?? '', { report, writtenAt: now, again: false });
      });
      return {
        reports: before.map(({ report }) => report),
        failed: () => {
          before.forEach((entry, index) => noted.set(keys[index] ?? '', entry));
        },
      };
    },
  };
}
