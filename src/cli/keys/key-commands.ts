// `tenantry keys …`.
import type { CommandGroup } from '../terminal/cli-command.js';
import { keysRotate } from './keys-rotate.js';
import { keysStatus } from './keys-status.js';

export const keyCommands: CommandGroup = {
  name: 'keys',
  about: 'The keys that encrypt database passwords.',
  commands: [keysStatus, keysRotate],
};
