// Operands and options that several commands on rollouts have.
import { Option } from 'commander';
import type { Operand } from '../terminal/cli-command.js';
import { wholeFrom } from '../terminal/common-options.js';

export const rolloutOperand: Operand = {
  name: 'rollout',
  what: 'its id (default: the one under way, or else the newest)',
  optional: true,
};

export interface Waiting {
  readonly wait?: boolean;
}

export function waitOption(): Option {
  return new Option(
    '--wait',
    'wait until the rollout has ended, is paused or has stopped, and show its progress meanwhile',
  );
}

export function fullSpeedOption(): Option {
  return new Option('--full-speed', 'do not give way to the requests of tenants');
}

export function budgetOption(what: string): Option {
  return new Option('--budget <n>', what).argParser(wholeFrom(0, 1_000_000));
}
