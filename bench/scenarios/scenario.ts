// What a scenario is.
import type { Measurement } from '../measure.js';
import type { Stage } from '../stage.js';
import type { TenantRound } from './tenant.js';

export type Side = 'service' | 'floor';

interface Named<Name extends string> {
  readonly name: Name;
  /** For the help and the table. */
  readonly what: string;
}

/** Measures the service and, in the same round, the least that does the same. */
export interface ComparedScenario<Name extends string = string> extends Named<Name> {
  readonly kind: 'compared';
  /** @throws Error where the two sides do not do the same */
  check(stage: Stage): Promise<void>;
  /** @throws Error where anything was answered that is no success */
  measure(stage: Stage, side: Side, round: number): Promise<Measurement>;
}

/** Measures the service alone, one request or a few at a time. */
export interface TenantScenario<Name extends string = string> extends Named<Name> {
  readonly kind: 'tenant';
  run(stage: Stage): Promise<TenantRound>;
}

export type Scenario = ComparedScenario | TenantScenario;

export interface ComparedRound {
  readonly service: Measurement;
  readonly floor: Measurement;
}
