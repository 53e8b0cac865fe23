// Where entries are in a store, and which answers are stored.
import type { CachedRead, EntryKeys, ReadCacheDeps } from './cache-types.js';
import type { PlaceLink } from './place-servers.js';

/** Entries that are longer (bytes) are not stored. */
export const MAX_ENTRY = 64 * 1024;

/** Where the answer of a read is. */
export interface Where {
  readonly identity: string;
  readonly scopeKey: string;
  readonly entry: string;
  /** `host:port` from which it must come, and the server there. */
  readonly place: string;
  readonly server: string;
}

/** Undefined if nothing of the tenant can be cached now. */
export function keysFor(
  { store, fleet, tenants, servers }: Pick<ReadCacheDeps, 'store' | 'fleet' | 'tenants' | 'servers'>,
  { tenantId, place, epoch }: Pick<CachedRead, 'tenantId' | 'place' | 'epoch'>,
): EntryKeys | undefined {
  const { identity } = store;
  const id = identity === undefined ? undefined : fleet.forReads(identity);
  const generation = tenants.forReads(tenantId);
  const server = servers.forReads(place);
  if (identity === undefined || id === undefined || generation === undefined || !server) return undefined;
  const prefix = `${id}:${tenantId}:${epoch}:${generation}:${server.generation}`;
  return { identity, prefix, server: server.server };
}

export function entryOf({ prefix }: EntryKeys, key: string): string {
  return `${prefix}:${key}`;
}

export function whereOf({ tenantId, place, scope, key }: CachedRead, keys: EntryKeys): Where {
  const { identity, server } = keys;
  return { identity, scopeKey: `${tenantId}:${scope}`, entry: entryOf(keys, key), place, server };
}

/**
 * Whether all connections to a place have led to the server. Otherwise an answer may come from another one, a former primary.
 *
 * @param link of now
 * @param changes `serverChanges` before the question
 */
export function ledTo({ server, serverChanges }: PlaceLink, agreed: string, changes: number): boolean {
  return server === agreed && serverChanges === changes;
}

export function fits(value: string): boolean {
  return value.length <= MAX_ENTRY && Buffer.byteLength(value) <= MAX_ENTRY;
}
