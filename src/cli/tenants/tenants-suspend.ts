// `tenantry tenants suspend`.
import { lifecycleAct } from './lifecycle-act.js';

export const tenantsSuspend = lifecycleAct(
  'suspend',
  'Suspends a tenant: its users get 403, and PostgreSQL ends their connections.',
);
