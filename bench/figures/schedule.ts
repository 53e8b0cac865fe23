// When an open-loop generator sends: at a constant rate, whatever became of the requests before. Each request has a time at
// which it should start, and its latency counts from there, so that one that had to wait for its turn is not measured as
// quick (coordinated omission).

export interface Schedule {
  /** Requests in all. */
  readonly total: number;
  /** The first request that is measured; those before it are warm-up. */
  readonly firstMeasured: number;
  /** When the request should start, in ms after the beginning. */
  startOf(index: number): number;
  /** How many requests should have started by `elapsed` (ms after the beginning). */
  dueBy(elapsed: number): number;
}

/**
 * @param rate requests a second, more than 0
 * @param warmup seconds, as `seconds` of what is measured
 */
export function constantRate(rate: number, warmup: number, seconds: number): Schedule {
  if (!(rate > 0)) throw new RangeError('a rate must be more than 0');
  const interval = 1_000 / rate;
  const firstMeasured = Math.round(rate * warmup);
  const total = firstMeasured + Math.max(1, Math.round(rate * seconds));
  return {
    total,
    firstMeasured,
    startOf: (index) => index * interval,
    // The quotient of two figures that are not exact may lie a hair below the whole number that is meant.
    dueBy: (elapsed) => (elapsed < 0 ? 0 : Math.min(total, Math.floor(elapsed / interval + 1e-9) + 1)),
  };
}
