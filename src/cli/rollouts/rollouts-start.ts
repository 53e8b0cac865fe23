// `tenantry rollouts start`.
import { InvalidArgumentError, Option } from 'commander';
import type { Canary } from '../../rollouts/rollout-plan.js';
import { canaryOf, wavesOf } from '../rollout-flags.js';
import type { EngineCommand } from '../terminal/cli-command.js';
import { budgetOption, fullSpeedOption, waitOption, type Waiting } from './rollout-options.js';

interface Plan extends Waiting {
  readonly canary?: Canary;
  readonly waves?: readonly number[];
  readonly budget?: number;
  readonly fullSpeed?: boolean;
}

export const rolloutsStart: EngineCommand<Plan> = {
  name: 'start',
  about: "Records a rollout of this build's schema to the tenants that are behind.",
  options: [
    new Option('--canary <which>', 'these tenants first: a number, a percentage, or ids with commas between').argParser(
      read(canaryOf),
    ),
    new Option('--waves <percentages>', 'then the others in waves: cumulative percentages, such as 10,50').argParser(
      read(wavesOf),
    ),
    budgetOption('stop when more tenants than this have failed'),
    fullSpeedOption(),
    waitOption(),
  ],
  example: '--canary 5% --waves 10,50 --budget 3',
  notes:
    'Replicas of the same build do the work. Without one, tenantry migrate does it: it works until the rollout has ended.',
  kind: 'acts',
  inputNames: { '/canary': '--canary', '/waves': '--waves', '/budget': '--budget' },
  async run(given) {
    const { outputRollout } = await import('./shown-rollout.js');
    const { engine, options } = given;
    const { canary, waves, budget, fullSpeed = false } = options;
    const pace = fullSpeed ? 'full' : 'gentle';
    const { id } = await engine.rollouts.start({ canary, waves, budget, pace }, await given.origin());
    return outputRollout(given, id);
  },
};

/** The flag of `npm run migrate`, with its error as this command line shows it. */
function read<Value>(parse: (text: string) => Value): (text: string) => Value {
  return (text) => {
    try {
      return parse(text);
    } catch (error) {
      throw new InvalidArgumentError(`It ${(error as Error).message.replace(/^--\w+ /, '')}.`);
    }
  };
}
