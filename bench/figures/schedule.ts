// When an open-loop generator sends: at a constant rate, independent of earlier requests. A latency counts from the time at which
// the request should start. Otherwise a request that waited for its turn would look quick (coordinated omission).

export interface Schedule {
  /** Requests in total, warm-up included. */
  readonly total: number;
  /** Index of the first measured request; earlier requests are warm-up. */
  readonly firstMeasured: number;
  /** When the request should start, in ms after the beginning. */
  startOf(index: number): number;
  /** How many requests should have started by `elapsed` (ms after the beginning). */
  dueBy(elapsed: number): number;
}

/**
 * @param rate requests a second, more than 0
 * @param warmup seconds
 * @param seconds measured seconds
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
    // Rounding may put the quotient slightly below the intended whole number.
    dueBy: (elapsed) => (elapsed < 0 ? 0 : Math.min(total, Math.floor(elapsed / interval + 1e-9) + 1)),
  };
}
