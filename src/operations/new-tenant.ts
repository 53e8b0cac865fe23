// A tenant that is asked for.
import type { PlaceWish } from '../clusters/placement.js';
import type { LimitChanges, PoolOptionChanges } from '../../db/registry/registry-schema.js';
import type { GivenKey } from './earlier-requests.js';

/** The settings of a new tenant, and its first admin. */
export interface NewTenant {
  readonly name: string;
  readonly slug: string;
  readonly poolOptions: PoolOptionChanges;
  readonly limits?: LimitChanges | undefined;
  /** Where its database is to be; left out, anywhere. */
  readonly wish?: PlaceWish;
  /** The Idempotency-Key that the request came with. */
  readonly requestKey?: GivenKey | undefined;
  readonly admin: {
    readonly email: string;
    /** Awaited when it is needed: the hash is made while the database is. */
    readonly passwordHash: string | Promise<string>;
    readonly firstName: string;
    readonly lastName: string;
  };
}
