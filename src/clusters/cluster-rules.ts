// The rules for changes to the registered clusters, each with the error for breaking the rule.
import type { Kysely } from 'kysely';
import {
  CLUSTER_NAME_CONSTRAINT,
  CLUSTER_PLACE_CONSTRAINT,
  loadOfClusters,
  type ClusterLoad,
  type ClusterValues,
} from '../../db/registry/cluster-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { violatedUniqueConstraint } from '../../db/driver/database-fault.js';
import { AppError } from '../errors.js';

/** A cluster as an operator describes it, with the password in plain text. */
export type NewCluster = ClusterValues;
export type ClusterChanges = {
  readonly [Key in keyof Omit<NewCluster, 'provisionerUser'>]?: NewCluster[Key] | undefined;
};

/** @throws AppError `cluster-host-not-allowed` */
export function demandAllowed(host: string, isAllowed: (host: string) => boolean): void {
  if (!isAllowed(host))
    throw new AppError('cluster-host-not-allowed', {
      detail: 'Register a host that CLUSTER_HOSTS lists, or the host of the default cluster.',
      issues: [{ path: '/host', message: 'is not on the list of allowed hosts' }],
    });
}

/**
 * Refuses changes that an update of a cluster never allows, whatever their values are.
 *
 * @throws AppError `default-cluster`, `provisioner-password-needed`
 */
export function demandChangeable(changes: ClusterChanges, isDefault: boolean): void {
  const given = (...keys: (keyof ClusterChanges)[]): boolean => keys.some((key) => changes[key] !== undefined);
  const enteredOtherwise = given('host', 'port', 'tls', 'tlsCa');
  if (isDefault && (enteredOtherwise || given('provisionerPassword', 'connectionBudget', 'connectionReserve')))
    throw new AppError('default-cluster', {
      detail: 'Change the connection and the budget of the default cluster in the configuration.',
    });
  // Otherwise an operator who changes a cluster's address could have its password sent to the new address.
  if (enteredOtherwise && !given('provisionerPassword'))
    throw new AppError('provisioner-password-needed', {
      issues: [{ path: '/provisionerPassword', message: 'is needed to change host, port, tls or tlsCa' }],
    });
}

/** The tenants and standby databases on a cluster. */
export async function loadOf(db: Kysely<Registry>, id: string): Promise<ClusterLoad> {
  return (await loadOfClusters(db, [id])).get(id) ?? { tenants: 0, standbyDatabases: 0 };
}

/** @throws AppError `cluster-in-use` */
export async function demandEmpty(db: Kysely<Registry>, id: string): Promise<void> {
  const { tenants, standbyDatabases } = await loadOf(db, id);
  if (tenants + standbyDatabases > 0)
    throw new AppError('cluster-in-use', {
      detail: `The cluster holds ${tenants} tenants and ${standbyDatabases} standby databases. It must be empty first.`,
    });
}

/** Runs a write to the clusters. @throws AppError `cluster-taken` if another cluster has the name or the place */
export async function demandUnique<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const constraint = violatedUniqueConstraint(error);
    if (constraint === CLUSTER_NAME_CONSTRAINT || constraint === CLUSTER_PLACE_CONSTRAINT)
      throw new AppError('cluster-taken');
    throw error;
  }
}
