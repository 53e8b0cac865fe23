// Counts the runs of background jobs.
import type { createHousekeeping } from '../../jobs/housekeeping.js';
import type { Instruments } from '../../observability/instruments.js';

/** For the options of `createHousekeeping`. */
export function jobCounts({
  jobRuns,
  jobDuration,
}: Instruments): Pick<Parameters<typeof createHousekeeping>[0], 'onAdded' | 'onRun'> {
  return {
    onAdded: (job) => {
      // Otherwise Prometheus would not see the first failure as a change.
      for (const outcome of ['success', 'failed']) jobRuns.inc({ job, outcome }, 0);
    },
    onRun: (job, outcome, seconds) => {
      jobRuns.inc({ job, outcome });
      if (seconds !== undefined) jobDuration.observe({ job }, seconds);
    },
  };
}
