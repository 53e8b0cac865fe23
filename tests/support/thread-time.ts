// How long a thread has computed: unlike time on a clock, this does not grow while other processes use the processors.
import { readFileSync } from 'node:fs';
import { performance } from 'node:perf_hooks';

/** The time on a processor in ns comes first (Documentation/scheduler/sched-stats.rst of Linux). */
const STATISTICS = '/proc/thread-self/schedstat';

/**
 * For how long this thread has computed, in ms since some moment. Without such a count (systems other than Linux), for how long its
 * event loop was not idle, which is more.
 */
export function threadTime(): number {
  const statistics = text();
  if (statistics === undefined) return performance.eventLoopUtilization().active;
  return Number(statistics.split(' ')[0]) / 1e6;
}

function text(): string | undefined {
  try {
    return readFileSync(STATISTICS, 'utf8');
  } catch {
    return undefined;
  }
}
