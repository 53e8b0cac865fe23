// `tenantry rollouts …`.
import type { CommandGroup } from '../terminal/cli-command.js';
import { rolloutsItems } from './rollouts-items.js';
import { rolloutsList } from './rollouts-list.js';
import { rolloutsShow } from './rollouts-show.js';
import { rolloutsStart } from './rollouts-start.js';
import { rolloutsAbort, rolloutsPause, rolloutsResume, rolloutsRetry } from './steer-rollout.js';

export const rolloutCommands: CommandGroup = {
  name: 'rollouts',
  about: "Schema changes over all tenants' databases. One at a time is under way.",
  commands: [
    rolloutsList,
    rolloutsShow,
    rolloutsItems,
    rolloutsStart,
    rolloutsPause,
    rolloutsResume,
    rolloutsRetry,
    rolloutsAbort,
  ],
};
