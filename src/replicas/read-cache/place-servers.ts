// Which process of PostgreSQL answers at each place (`host:port`), as all replicas agree: a row of the registry. Its generation is
// part of every key, so that what a former primary answered is not read after a failover, however the former one ended.
//
//     no row, or another server ── a new connection finds the server ──▶ pending ── the row is written ──▶ agreed
//
// - An answer is stored only if every connection to the place led to the agreed server while it was read.
// - While a server is pending, this replica reads nothing from the store that came from its place.
// - A write is acknowledged only if its connection led to the agreed server, and every live feed has heard of that. Otherwise its
//   tenant is switched off, as if it could not invalidate (src/replicas/read-cache/read-cache.ts).
//
// Why no answer of a former primary is read after the next one acknowledged a write: the writer knew the row of the next one for
// HEARD_WITHIN, so every replica that reads from the store knows that row or a later one. Not covered: two primaries of one
// database that both accept new connections. Then the databases themselves answer what is old.
import type { Kysely } from 'kysely';
import type { Destination } from '../../../db/driver/destinations.js';
import { readCacheServer, recordCacheServer, type CacheServer } from '../../../db/registry/fleet/cache-servers.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import { recentMap } from '../../lib/recent-map.js';
import { believedFor, type Events } from '../events.js';
import { FreshCache } from '../fresh-cache.js';
import { HEARD_WITHIN } from './fleet-store.js';

/** Rows of some 100 bytes, one for each server. */
const MAX_REMEMBERED = 10_000;

/** Time (ms) between two attempts to write a row, and between two rows of this replica for one place. */
const RETRY_EVERY = 100;
const RECORD_EVERY = 5_000;

/** What this process knows of its connections to a place. */
export type PlaceLink = Pick<Destination, 'server' | 'serverChanges'>;

export interface PlaceServers {
  /** This process's connections to the place. */
  link(place: string): PlaceLink;
  /** The agreed server, if answers from the place may be read from the store. Undefined if not, or if it is not known yet. */
  forReads(place: string): CacheServer | undefined;
  /** Makes `forReads` know the place, if it can be known. Never rejects. */
  know(place: string): Promise<void>;
  /**
   * Time (ms) until a write may be acknowledged. Undefined if it is not sure that its connection led to the agreed server.
   *
   * @param changes `serverChanges` before the write
   */
  settlesIn(place: string, changes: number): Promise<number | undefined>;
  /** Call this with each new connection that accepts writes. */
  connected(place: string, server: string): void;
  close(): void;
}

interface Known extends CacheServer {
  /** The time of performance.now() since when the row is known. */
  readonly heardAt: number;
}

export interface PlaceServersDeps {
  readonly registry: { readonly reads: Kysely<Registry>; readonly writes: Kysely<Registry> };
  readonly events: Pick<Events, 'live' | 'caughtUp' | 'subscribe'>;
  readonly link: (place: string) => PlaceLink;
  readonly onError: (error: unknown) => void;
  /** Instead of HEARD_WITHIN, for tests that prove that it is needed. */
  readonly heardWithin?: number | undefined;
}

export function createPlaceServers({ registry, events, link, onError, heardWithin }: PlaceServersDeps): PlaceServers {
  /** Servers whose row is not written yet. */
  const pending = new Map<string, string>();
  /** When this replica last wrote the row of a place. */
  const recordedAt = recentMap<string, number>(MAX_REMEMBERED);
  /** The newest row of each place. A write also counts on it while the registry is away. */
  const latest = recentMap<string, Known>(MAX_REMEMBERED);
  let working = false;
  let failing = false;
  let closed = false;
  const rows = new FreshCache<Known>({
    max: MAX_REMEMBERED,
    freshFor: () => believedFor(events),
    caughtUp: () => events.caughtUp(),
    staleFor: 0,
    load: async (place) => {
      const row = await readCacheServer(registry.reads, place);
      if (!row) return undefined;
      const before = latest.get(place);
      const known = { ...row, heardAt: before?.generation === row.generation ? before.heardAt : performance.now() };
      latest.set(place, known);
      return known;
    },
  });
  events.subscribe(({ kind }) => {
    if (kind === 'cache-server' || kind === 'any') rows.expire();
    if (kind !== 'any') return;
    // The registry may have gone back to an earlier row.
    for (const [place, { server }] of latest.entries()) if (link(place).server === server) demand(place, server);
  });
  const peek = (place: string): Known | undefined => (events.live ? rows.peek(place) : undefined);

  /** Makes sure that the row has the server that a connection found. */
  function demand(place: string, server: string): void {
    if (closed) return;
    pending.set(place, server);
    void work();
  }

  /** Writes the rows of all servers that are pending, until each is written. */
  async function work(): Promise<void> {
    if (working) return;
    working = true;
    while (pending.size > 0 && !closed) {
      for (const [place, server] of pending) await record(place, server);
      if (pending.size > 0) await new Promise((resolve) => setTimeout(resolve, RETRY_EVERY).unref());
    }
    working = false;
  }

  async function record(place: string, server: string): Promise<void> {
    try {
      const row = await rows.get(place);
      if (row?.server !== server) {
        // Its connections have led to yet another one since: that one is pending, or has its row.
        const now = link(place).server;
        if (now !== undefined && now !== server) {
          if (pending.get(place) === server) pending.delete(place);
          return;
        }
        // Replicas that find different servers must not make rows all the time.
        if (performance.now() - (recordedAt.get(place) ?? -Infinity) < RECORD_EVERY) return;
        await recordCacheServer(registry.writes, place, server);
        recordedAt.set(place, performance.now());
        rows.invalidate(place);
        await rows.get(place);
      }
      if (pending.get(place) === server) pending.delete(place);
      failing = false;
    } catch (error) {
      if (!failing && !closed) onError(error);
      failing = true;
    }
  }

  return {
    link,

    forReads: (place) => (pending.has(place) ? undefined : peek(place)),

    async know(place) {
      await rows.get(place).catch(() => undefined);
    },

    async settlesIn(place, changes) {
      const { server, serverChanges } = link(place);
      if (server === undefined || serverChanges !== changes) return undefined;
      // While the registry is away, the newest row still counts: a later one was made by a connection to a later server.
      if (events.live && pending.get(place) === server) await record(place, server);
      else if (events.live && !peek(place)) await rows.get(place).catch(() => undefined);
      const known = peek(place) ?? latest.get(place);
      return known?.server === server
        ? Math.max(0, known.heardAt + (heardWithin ?? HEARD_WITHIN) - performance.now())
        : undefined;
    },

    connected(place, server) {
      if (latest.get(place)?.server !== server) demand(place, server);
    },

    close() {
      closed = true;
    },
  };
}
