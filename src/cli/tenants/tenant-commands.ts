// `tenantry tenants …`.
import type { CommandGroup } from '../terminal/cli-command.js';
import { tenantsCreate } from './tenants-create.js';
import { tenantsDelete } from './tenants-delete.js';
import { tenantsList } from './tenants-list.js';
import { tenantsPurge } from './tenants-purge.js';
import { tenantsRestore } from './tenants-restore.js';
import { tenantsResume } from './tenants-resume.js';
import { tenantsShow } from './tenants-show.js';
import { tenantsSuspend } from './tenants-suspend.js';

export const tenantCommands: CommandGroup = {
  name: 'tenants',
  about: 'Tenants and their lifecycle.',
  commands: [
    tenantsList,
    tenantsShow,
    tenantsCreate,
    tenantsSuspend,
    tenantsResume,
    tenantsDelete,
    tenantsRestore,
    tenantsPurge,
  ],
};
