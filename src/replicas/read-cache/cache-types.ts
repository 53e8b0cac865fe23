// What the read cache is given, and what it counts.
import type { Requester } from '../../lib/requester.js';
import type { CacheStore } from './cache-store.js';
import type { FleetStore } from './fleet-store.js';
import type { PlaceServers } from './place-servers.js';
import type { TenantCaches } from './tenant-caches.js';

/** What happened to reads and writes, for metrics. */
export const cacheEvents = [
  'hit',
  'filled',
  'not-filled',
  'written',
  'shared',
  'dirty',
  'unavailable',
  'switched-off',
  'waited',
  'refused',
] as const;
export type CacheEvent = (typeof cacheEvents)[number];

/** The steps of the protocol. A test stops the process at one of them. */
export type CacheStep =
  'lookup' | 'begin' | 'query' | 'fill' | 'mark' | 'marked' | 'committed' | 'released' | 'switched-off';

/** What a read asks for. */
export interface CachedRead {
  readonly tenantId: string;
  /** `host:port` of the tenant's database. */
  readonly place: string;
  /** The epoch of the tenant's row: another database is another epoch. */
  readonly epoch: number;
  /** The row or the table that the answer follows. */
  readonly scope: string;
  /** Everything else that the answer depends on. */
  readonly key: string;
  /** The client that reads. A load ends when all clients that share it have left. */
  readonly requester?: Requester | undefined;
}

/** A write under way. Pass it to `release` or `giveUp`. */
export interface CachedWrite {
  readonly tenantId: string;
  readonly place: string;
  /** `serverChanges` of the place before the write. */
  readonly serverChanges: number;
  /** With the tenant. */
  readonly scopes: readonly string[];
  readonly token: string;
  /** The time of performance.now() before it marked. */
  readonly begunAt: number;
  /** The store in which it marked, which was known before the write began. */
  readonly marked: string | undefined;
  /** How its answer would be stored, if it were a read that began with the mark; undefined if it must not be stored. */
  readonly keys: EntryKeys | undefined;
}

/** How entries of a tenant are stored now. */
export interface EntryKeys {
  /** Of the store. */
  readonly identity: string;
  /** Of their keys. Another store, generation, database or server has other keys. */
  readonly prefix: string;
  /** The server from which they must come. */
  readonly server: string;
}

/** What a write answered: the same as a read of its first scope would have answered at the moment of the commit. */
export interface Written {
  /** As in CachedRead. */
  readonly key: string;
  readonly value: string;
}

export interface ReadCacheDeps {
  readonly store: CacheStore;
  readonly fleet: Pick<FleetStore, 'forReads' | 'forWrites'>;
  readonly tenants: TenantCaches;
  readonly servers: Pick<PlaceServers, 'link' | 'forReads' | 'know' | 'settlesIn'>;
  readonly live: () => boolean;
  readonly count: (event: CacheEvent) => void;
  readonly step?: ((step: CacheStep) => Promise<void> | void) | undefined;
  /** Instead of BEGIN_DEADLINE and RELEASE_DEADLINE. */
  readonly deadline?: number;
}
