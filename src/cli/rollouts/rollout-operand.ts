// How a command line names a rollout: by its id, or not at all.
import type { Operand } from '../terminal/cli-command.js';

export const rolloutOperand: Operand = {
  name: 'rollout',
  what: 'its id (default: the one under way, or else the newest)',
  optional: true,
};
