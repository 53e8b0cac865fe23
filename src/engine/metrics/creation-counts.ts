// Counts the tenants that are made, from a standby database, from the template or by adoption.
import type { Instruments } from '../../observability/instruments.js';
import { AppError } from '../../errors.js';
import type { Adoption } from '../../operations/adopt/adoption.js';
import type { ProvisioningDeps } from '../../operations/create/create-tenant.js';

type Counted = Pick<Instruments, 'tenantCreations' | 'tenantCreationDuration'>;

/** For the options of `createProvisioning`. */
export function creationCounts({ tenantCreations, tenantCreationDuration }: Counted): ProvisioningDeps['onOutcome'] {
  return (source, outcome, seconds) => {
    tenantCreations.inc({ source, outcome });
    if (outcome === 'success') tenantCreationDuration.observe({ source }, seconds);
  };
}

/** A request that could never succeed, such as one for a database that is not fit, is no failure. */
export function countAdoptions(adoption: Adoption, { tenantCreations, tenantCreationDuration }: Counted): Adoption {
  const source = 'adoption';
  return {
    async adopt(...request) {
      const begunAt = performance.now();
      try {
        const adopted = await adoption.adopt(...request);
        tenantCreations.inc({ source, outcome: 'success' });
        tenantCreationDuration.observe({ source }, (performance.now() - begunAt) / 1_000);
        return adopted;
      } catch (error) {
        if (!(error instanceof AppError) || error.code === 'adoption-failed')
          tenantCreations.inc({ source, outcome: 'failed' });
        throw error;
      }
    },
  };
}
