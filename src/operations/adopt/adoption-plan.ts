// The plan of an adoption, from its row and its operation.
import { findCluster } from '../../../db/registry/cluster-queries.js';
import type { OperationRecord } from '../../../db/registry/operations/operation-rows.js';
import { deleteTenantRow, findSettledTenant } from '../../../db/registry/tenant-status-queries.js';
import { changeMark, findMarks, markText } from '../../../db/server/marks.js';
import type { Plan } from '../runner/operation-kinds.js';
import type { AdoptionDeps, AdoptionInput } from './adoption-input.js';
import { Adopting, FIRST } from './adoption-steps.js';

/** The plan of an adoption, as far as it is not done or undone yet. */
export async function planAdoption(
  deps: AdoptionDeps,
  operation: OperationRecord,
  input: AdoptionInput | undefined,
): Promise<Plan | 'done' | 'undone'> {
  const { registry, provisioners } = deps;
  const tenant = await findSettledTenant(registry, operation.subject);
  const installation = await deps.installation();
  if (!tenant) {
    await forgetMark(deps, operation, installation);
    return 'undone';
  }
  const { adopts, dbHost: host, dbPort: port } = tenant;
  if (adopts === null) return tenant.status === 'provisioning' ? 'undone' : 'done';
  const provisioner = await provisioners.at({ host, port });
  const steps = new Adopting(deps, operation, input, { ...tenant, adopts }, provisioner, installation).steps();
  return { steps, undone: (trx) => deleteTenantRow(trx, tenant.id) };
}

/** Another worker undid the adoption while this one was paused. This one may have marked the database since. */
async function forgetMark(
  { registry, provisioners }: AdoptionDeps,
  { subject: id, clusterId, claim, details }: OperationRecord,
  installation: string,
): Promise<void> {
  const { database } = details;
  const placed = clusterId === null ? undefined : await findCluster(registry, clusterId);
  if (!placed || claim === null || typeof database !== 'string') return;
  const { cluster } = await provisioners.at(placed);
  const mark = markText({ installation, id, state: 'adopted', claim, generation: FIRST });
  const [found] = await findMarks(cluster, [database]);
  if (found?.text === mark) await changeMark(cluster, { database, from: [mark], to: null });
}
