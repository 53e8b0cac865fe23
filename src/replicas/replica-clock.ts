// The clock of this replica, compared with the registry's. While they agree, the replica's own time counts. While the
// replica's clock is wrong, the registry's time counts, which all replicas share.
import { duration } from '../lib/duration-words.js';
import type { RegistryClock } from './feed.js';

export interface ReplicaClock {
  /** The time (ms since 1970) that decides whether a token is valid, and that new tokens get. */
  readonly now: () => number;
  /**
   * Compares the clocks. ms by which this replica's is ahead of the registry's, as far as that is certain: 0 if the difference is
   * smaller than the time that the last question to the registry took. Undefined while the feed is not live.
   */
  readonly compare: () => number | undefined;
  /** What is wrong with the clock, by the last comparison in which that was certain; undefined if nothing is. */
  readonly problem: string | undefined;
}

/**
 * @param deps.registryClock the registry's time; undefined while the feed is not live
 * @param deps.wallClock this replica's time (ms since 1970)
 * @param deps.tolerance a clock that differs by more than this (ms) is wrong
 * @param deps.onChange called when the clock becomes wrong, with the problem, and when it is right again, without
 */
export function createReplicaClock(deps: {
  readonly registryClock: () => RegistryClock | undefined;
  readonly wallClock: () => number;
  readonly tolerance: number;
  readonly onChange: (problem: string | undefined) => void;
}): ReplicaClock {
  const { registryClock, wallClock, tolerance, onChange } = deps;
  let problem: string | undefined;
  /** The registry's time less performance.now(), while this replica's clock is wrong. */
  let base: number | undefined;

  return {
    now: () => (base === undefined ? wallClock() : base + performance.now()),
    get problem() {
      return problem;
    },
    compare() {
      const known = registryClock();
      if (!known) return undefined;
      const skew = skewOf(wallClock(), known);
      const wasWrong = problem !== undefined;
      const isWrong = Math.abs(skew) > tolerance;
      base = isWrong ? (known.earliest + known.latest) / 2 - performance.now() : undefined;
      problem = isWrong
        ? `its clock is ${duration(Math.abs(skew))} ${skew > 0 ? 'ahead of' : 'behind'} the registry's`
        : undefined;
      if (isWrong !== wasWrong) onChange(problem);
      return skew;
    },
  };
}

function skewOf(own: number, { earliest, latest }: RegistryClock): number {
  // `own` has no fraction: the time is up to one ms later.
  if (own + 1 < earliest) return own + 1 - earliest;
  return own > latest ? own - latest : 0;
}
