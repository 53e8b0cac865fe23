// A user's standing: whether it is active and which roles it holds, as every request needs it. Remembered for a second, so
// that a deactivation or a role change reaches every replica within that time, and this one at once.
import type { Kysely } from 'kysely';
import { findOperator } from '../../db/central/operators.js';
import type { Registry } from '../../db/central/schema.js';
import type { TenantDatabase } from '../../db/tenant/schema.js';
import { findStanding } from '../../db/tenant/users.js';
import { FreshCache } from '../cache/fresh-cache.js';

export interface Standing {
  readonly active: boolean;
  readonly roles: readonly string[];
}

/** How long a standing is believed without asking, in ms: the promise is "within a second". */
const FRESH_FOR = 900;

const MAX_REMEMBERED = 50_000;

export interface Standings {
  /** The standing where it is known and fresh, without waiting. */
  peekUser(tenantId: string, userId: string): Standing | undefined;
  /** Undefined where there is no such user. @throws DatabaseFault */
  user(tenantId: string, userId: string): Promise<Standing | undefined>;
  /** Undefined where there is no such operator. @throws DatabaseFault */
  operator(operatorId: string): Promise<Standing | undefined>;
  /** Forgets what is known of a user, after a change to it. */
  invalidateUser(tenantId: string, userId: string): void;
}

export function createStandings(
  registry: Kysely<Registry>,
  tenantDb: (tenantId: string) => Promise<Kysely<TenantDatabase>>,
): Standings {
  // Never stale: where the tenant's database does not answer, its requests could not be served anyway.
  const users = new FreshCache<Standing>({
    max: MAX_REMEMBERED,
    freshFor: FRESH_FOR,
    staleFor: 0,
    load: async (key) => {
      const [tenantId = '', userId = ''] = key.split(' ');
      return findStanding(await tenantDb(tenantId), userId);
    },
  });
  const operators = new FreshCache<Standing>({
    max: MAX_REMEMBERED,
    freshFor: FRESH_FOR,
    staleFor: 0,
    load: async (id) => {
      const operator = await findOperator(registry, id);
      return operator && { active: operator.active, roles: [] };
    },
  });
  // Both ids come from a token that was checked: they are UUIDs and hold no space.
  const keyOf = (tenantId: string, userId: string): string => `${tenantId} ${userId}`;
  return {
    peekUser: (tenantId, userId) => users.peek(keyOf(tenantId, userId)),
    user: (tenantId, userId) => users.get(keyOf(tenantId, userId)),
    operator: (operatorId) => operators.get(operatorId),
    invalidateUser: (tenantId, userId) => {
      users.invalidate(keyOf(tenantId, userId));
    },
  };
}
