// The read cache: answers to reads, from a store instead of the database, and never older than the newest acknowledged write.
//
// A read:
//
//     place known? ── no ──────────────────────────────▶ database
//       └ yes: lookup ── entry of this version ─────────▶ the entry
//                └ else: begin ── dirty ────────────────▶ database
//                         └ version: query ─▶ answer, and fill if the scope still has the version
//
// A write:
//
//     begun ── mark ──▶ marked ── the write is committed ──▶ committed ── release ──▶ acknowledged
//       │                 └ it failed for sure: release, without waiting; in doubt: the mark stays
//       └ no mark ──▶ the tenant is switched off ── committed ── every live replica has heard of it ──▶ acknowledged
//       └ neither ──▶ 503, before anything is written
//
// After the commit, nothing is acknowledged before one of these is true:
//
// - The scopes were released in the store of a settled row, and the row is still known (src/replicas/read-cache/fleet-store.ts).
//   And the write's connection led to the server that all replicas agree on (src/replicas/read-cache/place-servers.ts).
// - A settled row says that there is no store.
// - The tenant has been off for long enough (src/replicas/read-cache/tenant-caches.ts).
//
// A release alone suffices for what was acknowledged, so a lost mark harms nothing: a release makes every earlier entry
// unreadable, and every version that a reader has got before it void. A mark matters if the process ends between the commit and
// the release, or if it is not known whether the write was committed: while it is there, nothing is filled.
//
// A release may bring the answer of the write, which is then filled (src/replicas/read-cache/cached-writes.ts says when).
//
// Reads share one load if their keys and the version that they got are the same. Then no release came between the moments when
// they got it, so the load began after every write that was acknowledged before any of them.
import { CachedWrites } from './cached-writes.js';
import { CacheStoreError, type Found } from './cache-store.js';
import type { CachedRead } from './cache-types.js';
import { ClientLeft, Requesters, type Requester } from '../../lib/requester.js';
import { fits, keysFor, ledTo, whereOf, type Where } from './entry-places.js';

/** @param requesters the clients that wait for the answer */
type Load = (requesters: Requester) => Promise<string | undefined>;

export class ReadCache extends CachedWrites {
  readonly #loads = new Map<
    string,
    { readonly requesters: Requesters; readonly answer: Promise<string | undefined> }
  >();

  /** Makes the next read of the tenant find its place, if it has one. */
  async know(tenantId: string, place: string): Promise<void> {
    const { tenants, servers } = this.deps;
    if (tenants.forReads(tenantId) === undefined) await tenants.know(tenantId);
    if (servers.forReads(place) === undefined) await servers.know(place);
  }

  /**
   * The answer, from the store or from `load`. `load` returns the text to answer with, and undefined if that must not be stored.
   * The result is undefined if nothing can be cached now, or `load` returned undefined to another request: read the database. It
   * is no promise if it is known without waiting.
   *
   * @throws the error of `load`, or rejects with it; ClientLeft
   */
  read(asked: CachedRead, load: Load): string | Promise<string | undefined> {
    const { store, count, step } = this.deps;
    const keys = keysFor(this.deps, asked);
    if (!keys || step) return this.#readLater(asked, load);
    const at = whereOf(asked, keys);
    let found: Found | Promise<Found>;
    try {
      found = store.lookup(keys.identity, at.scopeKey, at.entry);
    } catch {
      found = Promise.reject(new CacheStoreError('it did not look up'));
    }
    if ('then' in found || found.value === undefined) return this.#found(at, found, load, asked.requester);
    count('hit');
    return found.value;
  }

  async #readLater(asked: CachedRead, load: Load): Promise<string | undefined> {
    const { store, fleet, count, step } = this.deps;
    // Otherwise a read would wait for a registry that does not answer.
    if (fleet.forReads(store.identity) !== undefined) await this.know(asked.tenantId, asked.place);
    const keys = keysFor(this.deps, asked);
    if (!keys) {
      count('unavailable');
      return undefined;
    }
    const at = whereOf(asked, keys);
    const lookup = async (): Promise<Found> => {
      await step?.('lookup');
      return store.lookup(keys.identity, at.scopeKey, at.entry);
    };
    return this.#found(at, lookup(), load, asked.requester);
  }

  /** Goes on after the look-up. */
  async #found(
    at: Where,
    lookup: Found | Promise<Found>,
    load: Load,
    requester: Requester | undefined,
  ): Promise<string | undefined> {
    const { store, count, step } = this.deps;
    let version: string | undefined;
    try {
      const found = await lookup;
      if (found.value !== undefined) {
        count('hit');
        return found.value;
      }
      await step?.('begin');
      version = found.version ?? (await store.begin(at.identity, at.scopeKey));
    } catch {
      count('unavailable');
      return undefined;
    }
    if (version === undefined) {
      count('dirty');
      return undefined;
    }
    const loadKey = `${at.entry} ${version}`;
    const underWay = this.#loads.get(loadKey);
    if (underWay) {
      count('shared');
      underWay.requesters.join(requester);
      return underWay.answer.catch(() => undefined);
    }
    if (requester?.destroyed) throw new ClientLeft();
    const requesters = new Requesters();
    requesters.join(requester);
    const begun = this.#load(() => load(requesters));
    this.#loads.set(loadKey, { requesters, answer: begun });
    void this.#fill(begun, { ...at, version }).finally(() => this.#loads.delete(loadKey));
    return begun;
  }

  async #load(load: () => Promise<string | undefined>): Promise<string | undefined> {
    await this.deps.step?.('query');
    return load();
  }

  /** Never rejects. */
  async #fill(loaded: Promise<string | undefined>, at: Where & { readonly version: string }): Promise<void> {
    const { store, servers, count, step } = this.deps;
    const askedAt = performance.now();
    const { serverChanges } = servers.link(at.place);
    try {
      const value = await loaded;
      if (value === undefined || !fits(value)) return;
      const isSure = ledTo(servers.link(at.place), at.server, serverChanges);
      await step?.('fill');
      const { identity, scopeKey, version, entry } = at;
      const age = performance.now() - askedAt;
      const filled = isSure && (await store.fill(identity, scopeKey, version, entry, value, age));
      count(filled ? 'filled' : 'not-filled');
    } catch {
      // The caller of `read` gets the error of `load`. Without an entry the next read asks the database.
    }
  }
}
