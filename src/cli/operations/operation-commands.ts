// `tenantry operations …`.
import type { CommandGroup } from '../terminal/cli-command.js';
import { operationsAbandon } from './operations-abandon.js';
import { operationsList } from './operations-list.js';
import { operationsRetry } from './operations-retry.js';
import { operationsShow } from './operations-show.js';

export const operationCommands: CommandGroup = {
  name: 'operations',
  about: 'Work of more than one step, such as creating a tenant.',
  commands: [operationsList, operationsShow, operationsRetry, operationsAbandon],
};
