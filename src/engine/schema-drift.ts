// The comparison of tenants' schemas with the template, over the rooms of a replica.
import { createDrift, type Drift } from '../rollouts/drift.js';
import { createWaveCheck, type CompareTenants } from '../rollouts/wave-check.js';
import { createTemplateMaker, templateSiteAt } from '../operations/template/template-maker.js';
import { createTenantLocks } from '../tenants/tenant-locks.js';
import type { DataPlane } from './data-plane.js';
import type { Operations } from './operations.js';
import type { Replica } from './replica.js';

export interface SchemaDrift {
  readonly drift: Drift;
  /** Compares the tenants of a wave. */
  readonly compareTenants: CompareTenants;
}

/** Longest wait (ms) for another worker that makes a template. */
const TEMPLATE_PATIENCE = 15_000;

export function createSchemaDrift({
  registry,
  lockSession,
  installation,
  replicaId,
  clusterDirectory,
  provisioners,
  runner,
}: Pick<Replica, 'registry' | 'lockSession' | 'installation' | 'replicaId'> &
  Pick<DataPlane, 'clusterDirectory'> &
  Pick<Operations, 'provisioners' | 'runner'>): SchemaDrift {
  const locks = createTenantLocks(lockSession);
  const maker = createTemplateMaker({ registry, locks, runner, installation, worker: replicaId });
  const drift = createDrift({
    registry,
    locks,
    installation,
    enter: async (place) => ((await clusterDirectory.find(place)) ? provisioners.at(place) : undefined),
    ensureTemplate: async (server, place) =>
      maker.ensure(server, await templateSiteAt(registry, place), TEMPLATE_PATIENCE),
  });
  return { drift, compareTenants: createWaveCheck(drift) };
}
