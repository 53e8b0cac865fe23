// Writes of what the read cache caches: what each does before its transaction, and before it is acknowledged. The states are in
// src/replicas/read-cache/read-cache.ts.
//
// A release may bring the answer of the write. The store keeps it as the answer of the row if no other write marked or released
// the row since the mark (cache-store.ts). It counts as the answer to a read that got its version at the moment of the mark. So what
// is true of such a read must be true of the write:
//
// - When it began, its replica could have read answers of the tenant from the store. Its answer gets a key of that moment.
// - Since then every connection to the place has led to the server that is a part of the key.
// - Its mark was executed before its transaction, and not again. So only the first attempt counts, and only if the store has
//   acknowledged it. A mark that failed may still be executed: after another write was released, it would hide that write.
import { randomUUID } from 'node:crypto';
import { NO_STORE } from '../../../db/registry/fleet/read-cache-rows.js';
import { AppError } from '../../errors.js';
import type { WrittenEntry } from './cache-store.js';
import type { CachedWrite, ReadCacheDeps, Written } from './cache-types.js';
import { entryOf, fits, keysFor, ledTo } from './entry-places.js';
import type { StoreForWrites } from './fleet-store.js';

/** The longest (ms) that a write waits before its transaction, and after its commit. */
const BEGIN_DEADLINE = 2_000;
const RELEASE_DEADLINE = 5_000;

/** Time (ms) between two attempts. */
const RETRY_EVERY = 50;

export class CachedWrites {
  constructor(protected readonly deps: ReadCacheDeps) {}

  /**
   * Call this before the transaction of a write.
   *
   * @param place `host:port` of the tenant's database
   * @param scopes the rows and tables that the write may change
   * @param epoch of the tenant, if the answer of the write may be filled
   * @throws AppError `unavailable`: nothing may be written
   */
  async beginWrite(tenantId: string, place: string, scopes: readonly string[], epoch?: number): Promise<CachedWrite> {
    const begun: CachedWrite = {
      tenantId,
      place,
      serverChanges: this.deps.servers.link(place).serverChanges,
      scopes: scopes.map((scope) => `${tenantId}:${scope}`),
      token: randomUUID(),
      begunAt: performance.now(),
      marked: undefined,
      keys: epoch === undefined ? undefined : keysFor(this.deps, { tenantId, place, epoch }),
    };
    let write = begun;
    const { deadline = BEGIN_DEADLINE } = this.deps;
    return this.#until(deadline, 'Nothing was changed. Try again.', (store) => {
      const attempt = this.#mark(store, write);
      // If this attempt fails, its mark may still come, at any time.
      write = { ...begun, keys: undefined };
      return attempt;
    });
  }

  /**
   * Call this after the commit, and before the write is acknowledged.
   *
   * @param written if the write answers what a read would have answered after it
   * @throws AppError `unavailable`: the write is committed, and must not be acknowledged
   */
  async release(write: CachedWrite, written?: Written): Promise<void> {
    await this.deps.step?.('committed');
    const { deadline = RELEASE_DEADLINE } = this.deps;
    await this.#until(deadline, 'The change was made, but other replicas may not show it yet.', (store) =>
      this.#release(store, write, written),
    );
    await this.deps.step?.('released');
  }

  /**
   * Call this when a write is not acknowledged.
   *
   * @param certain whether nothing was written: otherwise the mark stays until no transaction can be under way
   */
  giveUp({ marked, scopes, token }: CachedWrite, certain: boolean): void {
    if (certain && marked !== undefined) this.deps.store.release(marked, scopes, token).catch(() => undefined);
  }

  /** The write, once it may begin; otherwise the time (ms) until the next attempt. */
  async #mark(fleet: StoreForWrites, write: CachedWrite): Promise<CachedWrite | number> {
    const { store, tenants, step } = this.deps;
    if (fleet.store === NO_STORE || (await tenants.offIn(write.tenantId)) !== undefined) return write;
    if (store.identity === fleet.store) {
      await step?.('mark');
      // If this fails, it is not known whether it is marked, which does not matter.
      const marked = await store.mark(fleet.store, write.scopes, write.token).then(
        () => true,
        () => false,
      );
      if (marked) {
        await step?.('marked');
        return { ...write, marked: fleet.store };
      }
    }
    return this.#switchOff(write.tenantId);
  }

  /** `true` once the write may be acknowledged; otherwise the time (ms) until the next attempt. */
  async #release(fleet: StoreForWrites, write: CachedWrite, written: Written | undefined): Promise<true | number> {
    const { store, tenants, servers, count } = this.deps;
    const { tenantId, place, serverChanges, scopes, token } = write;
    if (fleet.settlesIn > 0) return fleet.settlesIn;
    if (fleet.store === NO_STORE) return this.#isStill(fleet);
    const offIn = await tenants.offIn(tenantId);
    if (offIn === 0) {
      // Nothing waits for this: it only ends the mark, which would keep the row uncached.
      this.giveUp(write, true);
      return this.#isStill(fleet);
    }
    const serverIn = await servers.settlesIn(place, serverChanges);
    if (serverIn !== undefined && serverIn > 0) return Math.min(serverIn, offIn ?? Infinity);
    if (serverIn === 0 && store.identity === fleet.store) {
      try {
        const left = this.#leftIn(fleet.store, write, written);
        if (await store.release(fleet.store, scopes, token, left)) count('written');
        return this.#isStill(fleet);
      } catch {
        // It may come too late, or not at all.
      }
    }
    return offIn ?? this.#switchOff(tenantId);
  }

  /** The entry that a write leaves in a store; undefined if it leaves none. */
  #leftIn(store: string, write: CachedWrite, written: Written | undefined): WrittenEntry | undefined {
    const { marked, keys, place, serverChanges, begunAt } = write;
    if (!written || !keys || marked !== store || keys.identity !== store || !fits(written.value)) return undefined;
    if (!ledTo(this.deps.servers.link(place), keys.server, serverChanges)) return undefined;
    return { entry: entryOf(keys, written.key), value: written.value, age: performance.now() - begunAt };
  }

  #isStill({ id }: StoreForWrites): true | number {
    return this.deps.fleet.forWrites()?.id === id ? true : RETRY_EVERY;
  }

  async #switchOff(tenantId: string): Promise<number> {
    const { tenants, live, count, step } = this.deps;
    // While the feed is not live, it is not known when the other replicas have heard of it.
    if (!live()) return RETRY_EVERY;
    try {
      await tenants.switchOff(tenantId);
      count('switched-off');
      await step?.('switched-off');
      return 0;
    } catch {
      return RETRY_EVERY;
    }
  }

  /** Attempts until there is a result that is no time to wait. @throws AppError `unavailable` after `deadline` ms */
  async #until<T extends object | true>(
    deadline: number,
    detail: string,
    attempt: (fleet: StoreForWrites) => Promise<T | number>,
  ): Promise<T> {
    const { fleet, count } = this.deps;
    const end = performance.now() + deadline;
    for (let waited = false; ; waited = true) {
      const known = fleet.forWrites();
      const result = known ? await attempt(known) : RETRY_EVERY;
      if (typeof result !== 'number') {
        if (waited) count('waited');
        return result;
      }
      if (performance.now() + result > end) {
        count('refused');
        throw new AppError('unavailable', { detail, retryAfter: 1 });
      }
      await new Promise((resolve) => setTimeout(resolve, result));
    }
  }
}
