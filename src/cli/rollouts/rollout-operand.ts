// How a command line names a rollout: by its id, or not at all, because only one is under way.
import type { Operand } from '../terminal/cli-command.js';

export const rolloutOperand: Operand = { name: 'rollout', what: 'its id (default: the newest)', optional: true };
