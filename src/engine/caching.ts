// Cached answers: where this replica caches them, or that it takes no part.
import type { Logger } from 'pino';
import { removeFleetStore } from '../../db/registry/fleet/read-cache-rows.js';
import { within } from '../lib/deadline.js';
import type { Config } from '../config/index.js';
import type { HousekeepingJob } from '../jobs/housekeeping.js';
import type { Instruments } from '../observability/instruments.js';
import type { Presence } from '../replicas/presence.js';
import { abstain } from '../replicas/read-cache/abstention.js';
import type { CacheStore } from '../replicas/read-cache/cache-store.js';
import { FleetStore, LEASE_ENDS_AFTER } from '../replicas/read-cache/fleet-store.js';
import { placeOf } from '../clusters/server-looks.js';
import { createMemoryCacheStore } from '../replicas/read-cache/memory-cache-store.js';
import type { CacheStep } from '../replicas/read-cache/cache-types.js';
import { ReadCache } from '../replicas/read-cache/read-cache.js';
import { createRedisCacheStore } from '../replicas/read-cache/redis-cache-store.js';
import { createPlaceServers } from '../replicas/read-cache/place-servers.js';
import { createTenantCaches } from '../replicas/read-cache/tenant-caches.js';
import type { Closing } from './closing.js';
import type { Replica } from './replica.js';

/** For tests of the protocol. */
export interface CachingOptions {
  /** Called at each step of a read or a write, which waits for it. */
  readonly step?: (step: CacheStep) => Promise<void> | void;
  /** Wraps the store. */
  readonly wrap?: (store: CacheStore) => CacheStore;
  /** Instead of the time (ms) in which every replica hears of a change. */
  readonly heardWithin?: number;
  /** Instead of the times (ms) for which a tenant stays off, and between two proposals of a replica. */
  readonly offFor?: number;
  readonly proposeEvery?: number;
  /** Instead of ABSTENTION_DEADLINE. */
  readonly abstentionDeadline?: number;
  /** Instead of BEATEN_AGAIN_WITHIN (src/replicas/read-cache/fleet-store.ts). */
  readonly beatenAgainWithin?: number;
}

export interface Caching {
  /** Undefined with READ_CACHE=off. */
  readonly readCache: ReadCache | undefined;
  /** The jobs of the cache. */
  readonly cacheJobs: readonly HousekeepingJob[];
  /** What the presence of this replica tells the others, and tells the cache. */
  readonly cachePresence: {
    readonly cacheId?: () => string;
    readonly actsFor: number;
    readonly formerActsFor: number;
    readonly onBeat: (sentAt: number) => void;
    readonly onClose?: () => void;
  };
  /**
   * Why this replica must acknowledge no write of a cached table: other replicas may still answer from a cache that this one does
   * not invalidate. Undefined if it may.
   */
  readonly mustNotWrite: () => string | undefined;
  /** Call it once the presence has begun. Resolves when this replica may serve. Never rejects. */
  beginCaching(presence: Pick<Presence, 'beat'>): Promise<void>;
}

/**
 * How long (ms) the start of a replica with READ_CACHE=off waits until no replica caches any more. After that the replica answers
 * reads, is not ready, and goes on trying.
 */
const ABSTENTION_DEADLINE = 5_000;

/**
 * How long (ms) after the end of REGISTRY_OUTAGE_GRACE_MS a replica that is cut off from the registry may acknowledge a write. The
 * longest statement that a tenant may have takes 10 minutes. The rest is for its body, its connection, and beats that came late.
 */
const LONGEST_WRITE = 13 * 60_000;

/** Pause (ms) between two looks for tenants whose answers can be cached again. */
const RAISE_EVERY = 5_000;

export function createCaching(
  replica: Replica,
  config: Config,
  log: Logger,
  instruments: Instruments,
  closing: Closing,
  options: CachingOptions = {},
): Caching {
  const { events, replicaId, registryConnections, sharedStore } = replica;
  const registry = registryConnections.status;
  const { readCache } = config;
  const formerActsFor = config.tenants.registryOutageGrace + LONGEST_WRITE;
  if (!readCache.on) return abstaining(registry, log, closing, formerActsFor, options);
  const { ttl, memoryBytes, redisBytes } = readCache;
  const made = sharedStore
    ? createRedisCacheStore(sharedStore, {
        database: config.redis?.database ?? 0,
        ttl,
        bytes: redisBytes,
        onError: (err) => {
          log.warn({ err }, 'Redis does not say which server it is: no answers are cached in it');
        },
      })
    : createMemoryCacheStore(replicaId, { ttl, bytes: memoryBytes });
  const store = options.wrap?.(made) ?? made;
  let presence: Pick<Presence, 'beat'> | undefined;
  const fleet = new FleetStore({
    registry,
    events,
    replicaId,
    own: () => store.identity,
    needsToBeAlone: !sharedStore,
    beat: () => presence?.beat(),
    heardWithin: options.heardWithin,
    proposeEvery: options.proposeEvery,
    beatenAgainWithin: options.beatenAgainWithin,
    formerActsFor,
    onError: (err) => {
      log.warn({ err }, 'could not read or change where answers are cached');
    },
    onChange: (now) => {
      log.info({ store: now }, 'answers are cached in another store');
    },
  });
  const servers = createPlaceServers({
    registry: { reads: replica.registry, writes: registry },
    events,
    link: (place) => replica.destinations.at(placeOf(place)),
    heardWithin: options.heardWithin,
    onError: (err) => {
      log.warn({ err }, 'could not record which server answers: answers of its tenants are not cached');
    },
  });
  replica.onConnected(({ place, server }) => {
    servers.connected(place, server);
  });
  closing.add('read cache', () => {
    fleet.close();
    servers.close();
    store.close();
  });
  const { offFor, heardWithin } = options;
  const tenants = createTenantCaches({ reads: replica.registry, writes: registry }, events, { offFor, heardWithin });
  const cache = new ReadCache({
    store,
    fleet,
    tenants,
    servers,
    live: () => events.live,
    count: (event) => {
      instruments.readCacheEvents.inc({ event });
    },
    step: options.step,
  });
  return {
    readCache: cache,
    cacheJobs: [
      {
        name: 'read cache',
        every: RAISE_EVERY,
        // A replica that cannot use the store would be the next to switch a tenant off.
        reluctant: () => fleet.forReads(store.identity) === undefined,
        run: async (signal) => {
          if (fleet.forReads(store.identity) !== undefined) await tenants.raise(signal);
        },
      },
    ],
    cachePresence: {
      cacheId: () => fleet.cacheId,
      actsFor: LEASE_ENDS_AFTER,
      formerActsFor,
      onBeat: (sentAt) => {
        fleet.onBeat(sentAt);
      },
      onClose: () => {
        fleet.close();
      },
    },
    mustNotWrite: () => undefined,
    beginCaching: async (given) => {
      presence = given;
    },
  };
}

function abstaining(
  registry: Replica['registry'],
  log: Logger,
  closing: Closing,
  actsFor: number,
  { abstentionDeadline = ABSTENTION_DEADLINE }: CachingOptions,
): Caching {
  const stopping = new AbortController();
  closing.add('read cache', () => {
    stopping.abort();
  });
  let seen: () => void = () => undefined;
  const isSeen = new Promise<void>((resolve) => (seen = resolve));
  let late = false;
  return {
    readCache: undefined,
    cacheJobs: [],
    cachePresence: {
      actsFor,
      formerActsFor: actsFor,
      onBeat: () => {
        seen();
      },
    },
    mustNotWrite: () =>
      late ? 'it has READ_CACHE=off, and the registry has not confirmed yet that no other replica caches' : undefined,
    beginCaching: async (presence) => {
      const done = abstain(isSeen, () => removeFleetStore(registry), stopping.signal);
      await within(done, abstentionDeadline, () => new Error('the registry did not answer in time')).catch(
        (err: unknown) => {
          late = true;
          log.warn(
            { err },
            'could not make sure that no replica caches answers: writes of cached tables get 503 until that is sure',
          );
          void done.then(() => {
            if (stopping.signal.aborted) return;
            late = false;
            presence.beat();
          });
        },
      );
    },
  };
}
