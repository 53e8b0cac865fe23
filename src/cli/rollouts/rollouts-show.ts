// `tenantry rollouts show`.
import type { EngineCommand } from '../terminal/cli-command.js';
import { rolloutOperand, waitOption, type Waiting } from './rollout-options.js';

export const rolloutsShow: EngineCommand<Waiting> = {
  name: 'show',
  about: 'Shows a rollout and how far it is.',
  operands: [rolloutOperand],
  options: [waitOption()],
  example: '--wait',
  kind: 'reads',
  async run(given) {
    const { rolloutNamed } = await import('../terminal/named-rows.js');
    const { outputRollout } = await import('./shown-rollout.js');
    const { id } = await rolloutNamed(given.engine, given.operands[0]);
    return outputRollout(given, id);
  },
};
