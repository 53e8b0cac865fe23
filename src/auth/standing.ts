// A user's standing: whether it is active and what it is permitted, as every request needs it. Remembered until a change is
// told, so that a deactivation or a role change is effective on every replica before it is acknowledged.
import type { Kysely } from 'kysely';
import { findOperator } from '../../db/registry/operator-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { findStanding } from '../../db/tenant/user-queries.js';
import { FreshCache } from '../replicas/fresh-cache.js';
import { believedFor, type Events } from '../replicas/events.js';

export interface Standing {
  readonly active: boolean;
  /** `resource:action`, as the tenant's database holds them; an operator has none. */
  readonly permissions: readonly string[];
}

const MAX_REMEMBERED = 50_000;

/** Tenants whose roles changed and of which that is remembered; beyond them everything is asked for anew once. */
const MAX_GENERATIONS = 10_000;

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
    caughtUp: () => events.caughtUp(),
    staleFor: 0,
    load: async (key) => {
      const [tenantId = '', userId = ''] = key.split(' ');
      return findStanding(tenantDb(tenantId), userId);
    },
  });
  const operators = new FreshCache<Standing>({
    max: MAX_REMEMBERED,
    freshFor: () => believedFor(events),
    caughtUp: () => events.caughtUp(),
    staleFor: 0,
    load: async (id) => {
      const operator = await findOperator(registry, id);
      return operator && { active: operator.active, permissions: [] };
    },
  });
  // A change of a role is one of every user of its tenant. They are not looked for among all that are remembered: from then
  // on they go by other keys, and what stands under the old ones is forgotten in its turn.
  const generations = new Map<string, number>();
  let changes = 0;
  const nextGeneration = (tenantId: string): void => {
    if (generations.size >= MAX_GENERATIONS) expireUsers();
    generations.set(tenantId, (changes += 1));
  };
  const expireUsers = (): void => {
    users.expire();
    // What stands under the keys that now come back is not fresh.
    generations.clear();
  };
  // Both ids come from a token that was checked: they are UUIDs and hold no space.
  const keyOf = (tenantId: string, userId: string): string => {
    const generation = generations.get(tenantId);
    return generation === undefined ? `${tenantId} ${userId}` : `${tenantId} ${userId} ${generation}`;
  };
  events.subscribe((change) => {
    if (change.kind === 'roles') nextGeneration(change.tenantId);
    else if (change.kind === 'user') users.invalidate(keyOf(change.tenantId, change.userId));
    else if (change.kind === 'operator') operators.invalidate(change.operatorId);
    else if (change.kind === 'any') {
      expireUsers();
      operators.expire();
    }
  });
  return {
    peekUser: (tenantId, userId) => users.peek(keyOf(tenantId, userId)),
    user: (tenantId, userId) => users.get(keyOf(tenantId, userId)),
    operator: (operatorId) => operators.get(operatorId),
  };
}
