// `tenantry tenants resume`.
import { lifecycleAct } from './lifecycle-act.js';

export const tenantsResume = lifecycleAct('resume', 'Resumes a suspended tenant.');
