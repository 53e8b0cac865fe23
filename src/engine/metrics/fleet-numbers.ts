// The numbers of the whole fleet, which only the registry knows. However often they are asked for, the registry is asked seldom,
// with a deadline, and by one question at a time.
import type { Kysely } from 'kysely';
import {
  countStandby,
  countTenants,
  countUnfinished,
  listReports,
  type StandbyCount,
  type TenantCount,
  type UnfinishedWork,
} from '../../../db/registry/status-queries.js';
import { countRolloutUnderWay, type RolloutNumbers } from '../../../db/registry/rollouts/rollout-numbers.js';
import { listJobs, type JobRow } from '../../../db/registry/job-rows.js';
import type { ReportKind } from '../../../db/registry/fleet/fleet-tables.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import { within } from '../../lib/deadline.js';
import { UNFINISHED_FOR } from '../../status/fleet-status.js';

export interface FleetCounts {
  readonly tenants: readonly TenantCount[];
  readonly standby: readonly StandbyCount[];
  readonly unfinished: readonly UnfinishedWork[];
  /** Databases that were left as they are, because only a person may decide. */
  readonly reports: ReadonlyMap<ReportKind, number>;
  readonly jobs: readonly JobRow[];
  /** Undefined if none is under way. */
  readonly rollout: RolloutNumbers | undefined;
}

export interface FleetNumbers {
  /**
   * Undefined if the registry has not answered for `USED_FOR`. Never rejects, and never waits longer than `DEADLINE`.
   */
  read(): Promise<FleetCounts | undefined>;
}

/** There are about fifteen. */
const MOST_JOBS = 200;

/** Numbers that are younger than this (ms) are used again. */
const FRESH_FOR = 30_000;

/**
 * Numbers that are younger than this (ms) are used while the registry has not answered yet: six questions to a registry that is
 * far away take longer than a scrape waits.
 */
const USED_FOR = 45_000;

/** After a failure the registry is asked again after this time (ms). */
const RETRY_AFTER = 5_000;

/** Longest wait (ms) for the registry. The scrape has a deadline too, which is later. */
const DEADLINE = 1_500;

/**
 * @param version the schema version of this build
 * @param grace time (ms) from the deletion of a tenant until its purge
 */
export function createFleetNumbers(registry: Kysely<Registry>, version: string, grace: number): FleetNumbers {
  let known: { readonly fleet: FleetCounts | undefined; readonly until: number } | undefined;
  let readAt = -Infinity;
  let asking: Promise<void> | undefined;

  async function ask(): Promise<void> {
    let fleet: FleetCounts | undefined;
    const askedAt = performance.now();
    try {
      // One after the other: the scrape needs one connection of the pool, not six.
      const tenants = await countTenants(registry);
      const standby = await countStandby(registry, version);
      const unfinished = await countUnfinished(registry, { grace, ...UNFINISHED_FOR });
      const { counts: reports } = await listReports(registry, 1);
      const jobs = await listJobs(registry, MOST_JOBS);
      const rollout = await countRolloutUnderWay(registry);
      fleet = { tenants, standby, unfinished, reports, jobs, rollout };
      readAt = askedAt;
    } catch {
      // `tenantry_fleet_readable` says so.
    }
    known = { fleet, until: performance.now() + (fleet ? FRESH_FOR : RETRY_AFTER) };
  }

  return {
    async read() {
      if (known && performance.now() < known.until) return known.fleet;
      // A question that a scrape no longer waits for goes on. No other is asked meanwhile.
      asking ??= ask().finally(() => (asking = undefined));
      try {
        await within(asking, DEADLINE, () => new Error('the registry did not answer in time'));
      } catch {
        return performance.now() - readAt < USED_FOR ? known?.fleet : undefined;
      }
      return known?.fleet;
    },
  };
}
