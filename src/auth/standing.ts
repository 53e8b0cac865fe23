// A user's standing: whether it is active, and its permissions, for every request. Standings are cached. A notification
// invalidates them, so a deactivation or a role change is effective on every replica before it is acknowledged.
import type { Kysely } from 'kysely';
import { findOperator } from '../../db/registry/operator-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { findStandings } from '../../db/tenant/user-queries.js';
import { FreshCache } from '../replicas/fresh-cache.js';
import { believedFor, type Events } from '../replicas/events.js';

export interface Standing {
  readonly active: boolean;
  /** `resource:action`, as in the tenant's database; empty for an operator. */
  readonly permissions: readonly string[];
}

const MAX_REMEMBERED = 50_000;

/** Tenants whose role changes are remembered. Beyond them all cached users are read again once. */
const MAX_GENERATIONS = 10_000;

export interface Standings {
  /** Reads the standings of a tenant that will soon be needed again. Call it when its database is asked for something else. */
  readAhead(tenantId: string): void;
  /** Begins to load the standing, if it is not cached and fresh. */
  load(tenantId: string, userId: string): void;
  /** The standing if it is cached and fresh, without waiting. */
  peekUser(tenantId: string, userId: string): Standing | undefined;
  /** Undefined if there is no such user. @throws DatabaseFault */
  user(tenantId: string, userId: string): Promise<Standing | undefined>;
  /** Undefined if there is no such operator. @throws DatabaseFault */
  operator(operatorId: string): Promise<Standing | undefined>;
  /** The number of cached standings. */
  readonly cached: number;
}

export function createStandings(
  registry: Kysely<Registry>,
  events: Pick<Events, 'live' | 'caughtUp' | 'subscribe'>,
  tenantDb: (tenantId: string) => Kysely<TenantDatabase>,
  /** Called when a tenant's database is asked for standings, so that other values are read there at the same time. */
  onLoad: (tenantId: string) => void = () => undefined,
): Standings {
  // Never stale: if the tenant's database does not answer, requests of its users could not be served anyway.
  const users = new FreshCache<Standing>({
    max: MAX_REMEMBERED,
    freshFor: () => believedFor(events),
    caughtUp: () => events.caughtUp(),
    staleFor: 0,
    // The users of a tenant are read again together: of a tenant without an open connection, the connection is what it costs. A
    // key of a former generation is in another group, because no request asks for it any more.
    groupOf,
    loadAll: async (keys) => {
      const [tenantId = ''] = keys[0].split(' ');
      onLoad(tenantId);
      const found = await findStandings(tenantDb(tenantId), keys.map(userOf));
      return new Map(keys.map((key) => [key, found.get(userOf(key))]));
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
  // A changed role affects every user of its tenant. Instead of searching the cache for these users, their keys change. The
  // entries under the old keys are dropped as the cache fills.
  const generations = new Map<string, number>();
  let changes = 0;
  const nextGeneration = (tenantId: string): void => {
    if (generations.size >= MAX_GENERATIONS) expireUsers();
    generations.set(tenantId, (changes += 1));
  };
  const expireUsers = (): void => {
    users.expire();
    // Entries under the keys that are used again are not fresh.
    generations.clear();
  };
  // Both ids come from a verified token: they are UUIDs and contain no space.
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
    readAhead: (tenantId) => {
      users.readAhead(groupOf(keyOf(tenantId, '')));
    },
    load: (tenantId, userId) => {
      users.get(keyOf(tenantId, userId)).catch(() => undefined);
    },
    peekUser: (tenantId, userId) => users.peek(keyOf(tenantId, userId)),
    user: (tenantId, userId) => users.get(keyOf(tenantId, userId)),
    operator: (operatorId) => operators.get(operatorId),
    get cached() {
      return users.size + operators.size;
    },
  };
}

/** A tenant and its generation. */
function groupOf(key: string): string {
  const [tenantId = '', , generation = ''] = key.split(' ');
  return `${tenantId} ${generation}`;
}

function userOf(key: string): string {
  return key.split(' ')[1] ?? '';
}
