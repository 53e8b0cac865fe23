// The statistics that the figures need.

/** The value that a share (0 to 1) of all values does not exceed, by the nearest rank. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
}

/** The middle value; for an even number of values, the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  const sorted = Float64Array.from(values).sort();
  const upper = sorted.length >> 1;
  const high = sorted[upper] ?? Number.NaN;
  return sorted.length % 2 === 1 ? high : ((sorted[upper - 1] ?? Number.NaN) + high) / 2;
}

/** The medians of each side over the rounds. */
export function mediansOfSides<Side extends string, T extends { readonly [K in keyof T]: number }>(
  sides: readonly Side[],
  rounds: readonly Readonly<Record<Side, T>>[],
): Record<Side, T> {
  return Object.fromEntries(sides.map((side) => [side, medians(rounds.map((round) => round[side]))])) as Record<
    Side,
    T
  >;
}

/** The median of each figure over the rows, which all have the same figures. */
export function medians<T extends { readonly [K in keyof T]: number }>(rows: readonly T[]): T {
  const keys = Object.keys(rows[0] ?? {}) as (keyof T)[];
  return Object.fromEntries(keys.map((key) => [key, median(rows.map((row) => row[key]))])) as T;
}
