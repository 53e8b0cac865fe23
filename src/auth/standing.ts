// A user's standing: whether it is active and which roles it holds, as every request needs it. Remembered until a change is
// told, so that a deactivation or a role change is effective on every replica before it is acknowledged.
import type { Kysely } from 'kysely';
import { findOperator } from '../../db/central/operators.js';
import type { Registry } from '../../db/central/schema.js';
import type { TenantDatabase } from '../../db/tenant/schema.js';
import { findStanding } from '../../db/tenant/users.js';
import { FreshCache } from '../cache/fresh-cache.js';
import { believedFor, type Events } from '../events.js';

export interface Standing {
  readonly active: boolean;
  readonly roles: readonly string[];
}

const MAX_REMEMBERED = 50_000;

export interface Standings {
  /** The standing where it is known and fresh, without waiting. */
  peekUser(tenantId: string, userId: string): Standing | undefined;
  /** Undefined where there is no such user. @throws DatabaseFault */
  user(tenantId: string, userId: string): Promise<Standing | undefined>;
  /** Undefined where there is no such operator. @throws DatabaseFault */
  operator(operatorId: string): Promise<Standing | undefined>;
}

export function createStandings(
  registry: Kysely<Registry>,
  events: Events,
  tenantDb: (tenantId: string) => Kysely<TenantDatabase>,
): Standings {
  // Never stale: where the tenant's database does not answer, its requests could not be served anyway.
  const users = new FreshCache<Standing>({
    max: MAX_REMEMBERED,
    freshFor: () => believedFor(events),
    staleFor: 0,
    load: async (key) => {
      const [tenantId = '', userId = ''] = key.split(' ');
      return findStanding(tenantDb(tenantId), userId);
    },
  });
  const operators = new FreshCache<Standing>({
    max: MAX_REMEMBERED,
    freshFor: () => believedFor(events),
    staleFor: 0,
    load: async (id) => {
      const operator = await findOperator(registry, id);
      return operator && { active: operator.active, roles: [] };
    },
  });
  // Both ids come from a token that was checked: they are UUIDs and hold no space.
  const keyOf = (tenantId: string, userId: string): string => `${tenantId} ${userId}`;
  events.subscribe((change) => {
    if (change.kind === 'user') users.invalidate(keyOf(change.tenantId, change.userId));
    else if (change.kind === 'operator') operators.invalidate(change.operatorId);
    else if (change.kind === 'any') {
      users.expire();
      operators.expire();
    }
  });
  return {
    peekUser: (tenantId, userId) => users.peek(keyOf(tenantId, userId)),
    user: (tenantId, userId) => users.get(keyOf(tenantId, userId)),
    operator: (operatorId) => operators.get(operatorId),
  };
}
