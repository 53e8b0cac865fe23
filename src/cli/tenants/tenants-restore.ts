// `tenantry tenants restore`.
import { lifecycleAct } from './lifecycle-act.js';

export const tenantsRestore = lifecycleAct('restore', 'Restores a deleted tenant to the status that it had before.');
