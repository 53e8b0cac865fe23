// The settings of a tenant that a request asks for.
import type { PlaceWish } from '../../clusters/placement.js';
import type { LimitChanges, PoolOptionChanges } from '../../../db/registry/registry-schema.js';
import type { GivenKey } from './earlier-requests.js';

/** The settings of a new tenant, and its first admin. */
export interface NewTenant {
  readonly name: string;
  readonly slug: string;
  readonly poolOptions: PoolOptionChanges;
  readonly limits?: LimitChanges | undefined;
  /** The wished place of the database; without it any cluster is possible. */
  readonly wish?: PlaceWish;
  /** The Idempotency-Key of the request. */
  readonly requestKey?: GivenKey | undefined;
  readonly admin: {
    readonly email: string;
    /** Awaited as late as possible: the hash is computed while the database is made. */
    readonly passwordHash: string | Promise<string>;
    readonly firstName: string;
    readonly lastName: string;
  };
}
