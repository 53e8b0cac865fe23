// `tenantry operators …`.
import type { CommandGroup } from '../terminal/cli-command.js';
import { operatorsCreate } from './operators-create.js';
import { operatorsDeactivate } from './operators-deactivate.js';
import { operatorsList } from './operators-list.js';
import { operatorsResetPassword } from './operators-reset-password.js';

export const operatorCommands: CommandGroup = {
  name: 'operators',
  about: 'The people and machines that run the platform.',
  commands: [operatorsList, operatorsCreate, operatorsResetPassword, operatorsDeactivate],
};
