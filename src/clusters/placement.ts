// Chooses the cluster for a new tenant: the accepting cluster with the fewest tenants for its weight.
import type { Kysely } from 'kysely';
import { listPlacements } from '../../db/registry/cluster-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { AppError } from '../errors.js';
import type { Place } from './provisioners.js';

export interface PlaceWish {
  readonly region?: string | undefined;
  readonly clusterId?: string | undefined;
}

/** A cluster of the registry. */
export interface ChosenPlace extends Place {
  readonly clusterId: string;
}

/**
 * The cluster for one more tenant. Two concurrent calls may choose the same cluster; the next call then chooses another.
 *
 * @param isDown whether a cluster is known not to answer; such a cluster is chosen only if no other is left
 * @throws AppError `no-cluster` if no cluster takes a tenant with this wish
 */
export async function choosePlace(
  registry: Kysely<Registry>,
  wish: PlaceWish,
  isDown: (place: Place) => boolean,
): Promise<ChosenPlace> {
  const candidates = await listPlacements(registry, wish);
  const chosen = candidates.find((candidate) => !isDown(candidate)) ?? candidates[0];
  if (!chosen) {
    const where = [
      wish.clusterId !== undefined && 'with this id',
      wish.region !== undefined && `in the region "${wish.region}"`,
    ].filter((part) => part !== false);
    throw new AppError('no-cluster', { detail: ['No cluster', ...where, 'accepts tenants.'].join(' ') });
  }
  const { id: clusterId, host, port } = chosen;
  return { clusterId, host, port };
}
