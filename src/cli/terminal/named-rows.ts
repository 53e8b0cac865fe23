// Finds what a person names: a tenant by its slug or id, a cluster by its name or id, an operation or a rollout by its id.
import type { Kysely } from 'kysely';
import { listAllClusters, type ClusterRecord } from '../../../db/registry/cluster-queries.js';
import { findOperation, type OperationRecord } from '../../../db/registry/operations/operation-rows.js';
import { findRolloutUnderWay } from '../../../db/registry/rollouts/rollout-rows.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import { findTenant, findTenantBySlug, type TenantRecord } from '../../../db/registry/tenant-queries.js';
import type { RolloutActs, RolloutRecord } from '../../rollouts/rollout-acts.js';
import { isTenantId } from '../../tenants/tenant-ids.js';
import { CommandError, EXIT } from './exit-codes.js';
import { visible } from './shown-text.js';

/** @throws CommandError */
export async function tenantNamed(registry: Kysely<Registry>, name: string): Promise<TenantRecord> {
  // No slug looks like an id.
  const find = isTenantId(name) ? findTenant : findTenantBySlug;
  return (await find(registry, name)) ?? none('tenant', name);
}

/** @throws CommandError */
export async function clusterNamed(registry: Kysely<Registry>, name: string): Promise<ClusterRecord> {
  const clusters = await listAllClusters(registry);
  return clusters.find(({ id }) => id === name) ?? clusters.find((each) => each.name === name) ?? none('cluster', name);
}

/** @throws CommandError */
export async function operationNamed(registry: Kysely<Registry>, id: string): Promise<OperationRecord> {
  return (isTenantId(id) ? await findOperation(registry, id) : undefined) ?? none('operation', id);
}

/** @param id undefined for the rollout under way, or else the newest. @throws CommandError */
export async function rolloutNamed(
  {
    registry,
    rollouts,
  }: { readonly registry: Kysely<Registry>; readonly rollouts: Pick<RolloutActs, 'find' | 'list'> },
  id: string | undefined,
): Promise<RolloutRecord> {
  if (id !== undefined) return (isTenantId(id) ? await rollouts.find(id) : undefined) ?? none('rollout', id);
  const [newest] = await rollouts.list({ direction: 'desc', limit: 1 });
  const found = (await findRolloutUnderWay(registry)) ?? newest;
  if (!found) throw new CommandError(EXIT.refused, 'There is no rollout.');
  return found;
}

/** The names of clusters by their ids. */
export async function clusterNames(registry: Kysely<Registry>): Promise<ReadonlyMap<string | null, string>> {
  return new Map((await listAllClusters(registry)).map(({ id, name }) => [id, name]));
}

function none(kind: string, name: string): never {
  throw new CommandError(EXIT.refused, `There is no ${kind} "${visible(name).slice(0, 100)}".`);
}
