// What a scenario is, and how its rounds are measured.
import type { Flags } from '../flags.js';
import { progress, type ScenarioReport } from '../report.js';
import type { Stages } from '../stage/stages.js';

export interface Scenario<Name extends string = string> {
  readonly name: Name;
  /** For the help. */
  readonly what: string;
  /** Rounds, unless the command line gives another number. */
  readonly rounds: number;
  /** @throws Error if nothing was measured, or if the figures cannot be trusted */
  run(bench: Bench): Promise<ScenarioReport>;
}

/** The context of a scenario. */
export interface Bench {
  readonly flags: Flags;
  readonly stages: Stages;
  readonly rounds: number;
}

/** Measures the rounds one after the other. */
export async function eachRound<Round>(
  { rounds }: Bench,
  name: string,
  measure: (round: number, tell: (step: string) => void) => Promise<Round>,
): Promise<Round[]> {
  const all: Round[] = [];
  for (let round = 1; round <= rounds; round += 1) {
    all.push(
      await measure(round, (step) => {
        progress(`${name} ${round}/${rounds} ${step}`.trimEnd());
      }),
    );
  }
  return all;
}

/** `medians of 3 rounds` */
export function mediansOf({ rounds }: Bench): string {
  return `medians of ${rounds} ${rounds === 1 ? 'round' : 'rounds'}`;
}

/** `medians of 3 rounds of 8 s after 2 s` */
export function timedMediansOf(bench: Bench): string {
  return `${mediansOf(bench)} of ${bench.flags.seconds} s after ${bench.flags.warmup} s`;
}

/** A ratio, and in parentheses the ratio of each round. */
export function ratioWithRounds(middle: number, rounds: readonly number[]): string {
  return `${middle.toFixed(2)} (${rounds.map((ratio) => ratio.toFixed(2)).join(' ')})`;
}

export function wholeNumber(value: number): string {
  return Math.round(value).toLocaleString('en');
}
