// Clusters as people see them: in the answers of the API and at the command line.
import type { Kysely } from 'kysely';
import { loadOfClusters, type ClusterRecord } from '../../db/registry/cluster-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import type { ClusterFindings } from './cluster-fitness.js';
import type { ClusterRegistration } from './register-cluster.js';

export interface ShownCluster {
  id: string;
  name: string;
  host: string;
  port: number;
  region: string | null;
  isDefault: boolean;
  provisionerUser: string;
  tls: 'off' | 'verify-full';
  connectionBudget: number;
  connectionReserve: number;
  weight: number;
  accepting: boolean;
  standbyTarget: number;
  tenants: number;
  standbyDatabases: number;
  createdAt: string;
  updatedAt: string;
}

/** Whether a server can hold tenants. `clockSkew`: ms by which its clock is ahead of this process's. */
export interface ShownCheck {
  usable: boolean;
  problems: string[];
  warnings: string[];
  version: string | null;
  clockSkew: number | null;
}

/** Clusters with what they hold. The configuration has the settings of the default cluster. No secret. */
export async function showClusters(
  registry: Kysely<Registry>,
  registration: Pick<ClusterRegistration, 'settings'>,
  clusters: readonly ClusterRecord[],
): Promise<ShownCluster[]> {
  const loads = await loadOfClusters(
    registry,
    clusters.map(({ id }) => id),
  );
  return clusters.map((row) => {
    const { id, name, host, port, region, weight, accepting, standbyTarget, createdAt, updatedAt } = row;
    const { isDefault, tls, budget, user } = registration.settings(row);
    return {
      id,
      name,
      host,
      port,
      region,
      isDefault,
      provisionerUser: user,
      tls: tls === false ? 'off' : 'verify-full',
      connectionBudget: budget.tenants,
      connectionReserve: budget.reserve,
      weight,
      accepting,
      standbyTarget,
      tenants: loads.get(id)?.tenants ?? 0,
      standbyDatabases: loads.get(id)?.standbyDatabases ?? 0,
      createdAt,
      updatedAt,
    };
  });
}

export function showCheck({ problems, warnings, inspection }: ClusterFindings): ShownCheck {
  return {
    usable: problems.length === 0,
    problems: [...problems],
    warnings: [...warnings],
    version: inspection?.version ?? null,
    clockSkew: inspection?.clockSkew ?? null,
  };
}
