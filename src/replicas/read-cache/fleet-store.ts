// The store that the fleet caches answers in: one row of the registry, and what this replica may do on what it knows of the row.
//
// A row has a random id. Every change of the store is a row with another id, so the ids have an order in time: j before k.
//
// - A replica *knows* a row if it has read it, and has heard of no change since. While its feed is live, what it knows was true
//   less than SILENCE (500 ms) ago.
// - A replica has a *lease* while it writes its row of `replicas`, and for LEASE after the last time. It acts only with a lease,
//   and only on a row that it read after the lease began.
// - A row is *confirmed* if each row of `replicas` says that its replica knows it, or is so old that its replica acts no longer.
// - A row is *settled* on a replica that has known it for HEARD_WITHIN (600 ms).
//
// A replica reads answers from a store only if its feed is live, and its row is confirmed. It acknowledges a write only with a
// lease, and on a settled row: it has invalidated in the store of row j, and then still knows j. Why no read that begins after that
// acknowledgement finds an older answer, in the store of row k:
//
// - k = j: it is the same server, whose state the invalidation changed before the acknowledgement.
// - k is after j: the writer knew j at the acknowledgement, so it confirmed k later, if ever. Entries of k were filled after that,
//   from a query after the commit. A writer that never confirmed k has lost its lease before k was confirmed.
// - k is before j: the row was no longer k when the writer read j, at least 600 ms before the acknowledgement. The reader's feed is
//   live, so it knows what was true less than 500 ms ago, and knows j or a later row.
//
// The difference of 100 ms is for clocks that run at different speeds. What is not covered: two primaries of one registry.
//
// A replica that takes no part has a row of `replicas` without an id. No row is confirmed until that replica has stopped in order,
// or can know no tenant any more and its last write has ended (`actsFor`).
import type { Kysely } from 'kysely';
import {
  NO_STORE,
  readFleetKnowledge,
  readFleetStore,
  removeFleetStore,
  replaceFleetStore,
  type FleetStoreRow,
} from '../../../db/registry/fleet/read-cache-rows.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import type { Events } from '../events.js';
import { SILENCE } from '../feed.js';

/** After this time (ms) every replica with a live feed has heard of a change, with 100 ms to spare. */
export const HEARD_WITHIN = SILENCE + 100;

/** The other replicas wait for this one for this long (ms) after it last wrote its row. */
export const LEASE_ENDS_AFTER = 300_000;

/** How long (ms) this replica acts on what it knows after it last wrote its row. */
export const LEASE = LEASE_ENDS_AFTER * 0.9;

/** Time (ms) between two rounds, and between two questions whether a confirmed row is still confirmed. */
const ROUND_EVERY = 500;
const CHECK_EVERY = 5_000;

/** The shortest time (ms) between two proposals of this replica; up to half as much is added at random. */
const PROPOSE_EVERY = 10_000;

/**
 * After the registry became another server, no store is proposed for this long (ms): three beats. A failover may have lost rows of
 * `replicas`, and by then every replica that reaches the registry has written its row again.
 */
const BEATEN_AGAIN_WITHIN = 15_000;

/** Time (ms) between two attempts to read the row. */
const RETRY_EVERY = 50;

/** What a replica writes into its row while it takes part, and knows no row. */
const UNKNOWN = '00000000-0000-0000-0000-000000000000';

interface Known extends FleetStoreRow {
  /** Times of performance.now() before the row was asked for, and when the answer came. */
  readonly askedAt: number;
  readonly heardAt: number;
}

/** A row on which a write may be acknowledged. */
export interface StoreForWrites {
  readonly id: string;
  /** NO_STORE if no replica reads from a store. */
  readonly store: string;
  /** Time (ms) until the row is settled; 0 if it is. */
  readonly settlesIn: number;
}

export interface FleetStoreDeps {
  /** A pool that is free while requests use all other connections. */
  readonly registry: Kysely<Registry>;
  readonly events: Pick<Events, 'live' | 'clock' | 'subscribe'>;
  readonly replicaId: string;
  /** What this replica can use now, or undefined. */
  readonly own: () => string | undefined;
  /** Whether the store is of no use if another replica serves: the memory of this process. */
  readonly needsToBeAlone: boolean;
  /** Writes this replica's row of `replicas` as soon as possible. */
  readonly beat: () => void;
  /** Instead of HEARD_WITHIN, for tests that prove that it is needed. */
  readonly heardWithin?: number | undefined;
  /** Instead of PROPOSE_EVERY and BEATEN_AGAIN_WITHIN. */
  readonly proposeEvery?: number | undefined;
  readonly beatenAgainWithin?: number | undefined;
  /** As for `mayAct` (db/registry/replica-rows.ts). */
  readonly formerActsFor: number;
  readonly onError: (error: unknown) => void;
  readonly onChange: (store: string) => void;
}

export class FleetStore {
  readonly #heardWithin: number;
  #known: Known | undefined;
  /** The row that was known last. */
  #former: Known | undefined;
  #confirmed: string | undefined;
  #changes = 0;
  #beatAt = -Infinity;
  #leaseSince = Infinity;
  #checkedAt = -Infinity;
  #mayProposeAt = -Infinity;
  /** The registry's server, and since when it is that one. */
  #source: string | undefined;
  #sourceSince = -Infinity;
  #reading = false;
  #inRound = false;
  #failing = false;
  #closed = false;
  readonly #timer: NodeJS.Timeout;

  constructor(private readonly deps: FleetStoreDeps) {
    this.#heardWithin = deps.heardWithin ?? HEARD_WITHIN;
    deps.events.subscribe(({ kind }) => {
      if (kind === 'cache-store' || kind === 'any') this.#forget();
    });
    this.#timer = setInterval(() => void this.#round(), ROUND_EVERY).unref();
  }

  /** What this replica writes into its row of `replicas`. */
  get cacheId(): string {
    return this.#known?.id ?? UNKNOWN;
  }

  /** The id of the row, if answers may be read from this store. */
  forReads(store: string | undefined): string | undefined {
    const known = this.#known;
    if (!known || known.store !== store || this.#confirmed !== known.id || !this.#leased()) return undefined;
    // A replica of a former build may have started since.
    if (performance.now() - this.#checkedAt > 2 * CHECK_EVERY) return undefined;
    // The clock is known only while the feed is live.
    return this.deps.events.clock()?.source === known.source ? known.id : undefined;
  }

  /** The row, if a write may be acknowledged on it. */
  forWrites(): StoreForWrites | undefined {
    const known = this.#known;
    if (!known || !this.#leased() || known.askedAt < this.#leaseSince) return undefined;
    const source = this.deps.events.clock()?.source;
    // No replica of another registry reads by this row. While the feed is not live, the row may still count.
    const isVoid = source !== undefined && source !== known.source;
    return {
      id: known.id,
      store: isVoid ? NO_STORE : known.store,
      settlesIn: Math.max(0, known.heardAt + this.#heardWithin - performance.now()),
    };
  }

  /** Call this after each beat. @param sentAt the time of performance.now() before it was sent */
  onBeat(sentAt: number): void {
    const isNew = !this.#leased();
    this.#beatAt = Math.max(this.#beatAt, sentAt);
    if (!isNew) return;
    // The row must be read after the other replicas can see this one.
    this.#leaseSince = performance.now();
    this.#forget();
  }

  close(): void {
    this.#closed = true;
    this.#known = undefined;
    this.#beatAt = -Infinity;
    clearInterval(this.#timer);
  }

  #leased(): boolean {
    return performance.now() - this.#beatAt < LEASE;
  }

  #forget(): void {
    this.#changes += 1;
    this.#former = this.#known ?? this.#former;
    this.#known = undefined;
    this.#confirmed = undefined;
    void this.#read();
  }

  /** Reads the row until it is known. */
  async #read(): Promise<void> {
    if (this.#reading) return;
    this.#reading = true;
    while (!this.#known && !this.#closed) {
      const changes = this.#changes;
      const askedAt = performance.now();
      try {
        const row = await readFleetStore(this.deps.registry);
        // A change that was heard of meanwhile may be newer than the answer.
        if (changes !== this.#changes) continue;
        this.#known = { ...row, askedAt, heardAt: this.#heardOf(row) ?? performance.now() };
        this.deps.beat();
        this.deps.onChange(row.store);
        void this.#round();
      } catch (error) {
        this.#report(error);
        await new Promise((resolve) => setTimeout(resolve, RETRY_EVERY).unref());
      }
    }
    this.#reading = false;
  }

  /** Since when the row is known, if it has been in force all the time: an id never comes back, unless the registry went back. */
  #heardOf({ id, source }: FleetStoreRow): number | undefined {
    const former = this.#former;
    return former?.id === id && this.deps.events.clock()?.source === source ? former.heardAt : undefined;
  }

  async #round(): Promise<void> {
    const known = this.#known;
    const source = this.deps.events.clock()?.source;
    if (this.#inRound || this.#closed || !known || source === undefined || !this.#leased()) return;
    const now = performance.now();
    if (source !== this.#source) [this.#source, this.#sourceSince] = [source, now];
    if (this.#confirmed === known.id && now - this.#checkedAt < CHECK_EVERY) return;
    this.#inRound = true;
    try {
      const { confirmed, abstains } = await readFleetKnowledge(this.deps.registry, known.id, this.deps.formerActsFor);
      this.#checkedAt = now;
      if (this.#known !== known) return;
      this.#confirmed = confirmed ? known.id : undefined;
      // A replica that takes no part invalidates nothing. It is of a former build, or it makes the row void by itself.
      if (abstains && known.store !== NO_STORE) await removeFleetStore(this.deps.registry);
      else if (!abstains) await this.#propose(known, source);
      this.#failing = false;
    } catch (error) {
      this.#report(error);
    } finally {
      this.#inRound = false;
    }
  }

  async #propose(known: Known, source: string): Promise<void> {
    const { registry, replicaId, needsToBeAlone, own, formerActsFor } = this.deps;
    const store = own();
    const now = performance.now();
    if (store === undefined || (known.store === store && known.source === source) || now < this.#mayProposeAt) return;
    const { beatenAgainWithin = BEATEN_AGAIN_WITHIN } = this.deps;
    if (known.source !== '' && known.source !== source && now - this.#sourceSince < beatenAgainWithin) return;
    this.#mayProposeAt = now + (this.deps.proposeEvery ?? PROPOSE_EVERY) * (1 + Math.random() / 2);
    const alone = needsToBeAlone ? replicaId : undefined;
    if (await replaceFleetStore(registry, known.id, { store, source, alone }, formerActsFor)) return;
    // Another replica serves: the memory of one process is of no use.
    if (needsToBeAlone && known.store !== NO_STORE)
      await replaceFleetStore(registry, known.id, { store: NO_STORE, source }, formerActsFor);
  }

  #report(error: unknown): void {
    if (!this.#failing && !this.#closed) this.deps.onError(error);
    this.#failing = true;
  }
}
