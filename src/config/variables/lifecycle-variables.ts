// Variables of a tenant's life: databases made ahead of time, repair, rotation of passwords, and the purge after deletion.
import { wholeNumber } from '../parsers/number-parsers.js';
import type { Variable } from './variable-types.js';

export const lifecycleVariables = {
  STANDBY_DATABASES: {
    schema: wholeNumber(0, 1_000),
    default: '2',
    unit: 'databases',
    description:
      'Databases kept ready for the next tenants on the default cluster ([provisioning.md](provisioning.md)). Each takes about 8 MB.',
  },
  RECONCILE_EVERY_MS: {
    schema: wholeNumber(100, 3_600_000),
    default: '15000',
    unit: 'ms',
    description: 'How often one replica looks for work that a crash left half-made, and finishes or undoes it.',
  },
  TENANT_DELETION_GRACE_MS: {
    schema: wholeNumber(0, 31_536_000_000),
    default: '604800000',
    unit: 'ms',
    description:
      'How long a deleted tenant can be restored. Then it is purged together with its database ([lifecycle.md](lifecycle.md)).',
  },
  DB_PASSWORD_ROTATE_AFTER_MS: {
    schema: wholeNumber(0, 315_360_000_000),
    default: '0',
    unit: 'ms',
    description:
      "The age at which the service changes a tenant's database password ([keys.md](keys.md)); 0 leaves rotation to operators.",
  },
} as const satisfies Record<string, Variable>;
