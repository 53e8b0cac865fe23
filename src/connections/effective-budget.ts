// The effective budget of a server. A server that refuses a connection (53300) has room for fewer connections than its budget.
// Its max_connections is too small, or other clients use it. For a while the budget is then what the server has room for.
//
//   whole ── refused ──▶ lowered to the held connections less one, for HOLD_FOR
//   lowered ── HOLD_FOR without a refusal ──▶ grows by a quarter every GROW_EVERY
//   lowered ── refused ──▶ lowered again
//   lowered ── grown to the configured budget ──▶ whole
import type { DatabaseFault } from '../../db/driver/database-fault.js';
import type { ClusterBudget } from './governors.js';
import type { SlotSource, SlotUser } from './governor-types.js';

type Kind = keyof ClusterBudget;

export interface EffectiveBudgets {
  /** What all replicas together may hold: the configured budget, or the smaller budget that the server has room for. */
  of(cluster: string, configured: ClusterBudget): ClusterBudget;
  /** The slots of `leases`, but not more than the server has room for. Call this once for each cluster and kind. */
  source(cluster: string, kind: Kind, leases: SlotSource): SlotSource;
  close(): void;
}

/** Called when the budget of a cluster is lowered for the first time, and when it is whole again. */
export type OnEffectiveBudget = (change: {
  readonly cluster: string;
  readonly kind: Kind;
  /** Connections that this replica may hold; undefined when the budget is whole again. */
  readonly room: number | undefined;
}) => void;

/** The budget does not grow for this long (ms) after a refusal. */
const HOLD_FOR = 5_000;

/** Time (ms) between two steps by which the budget grows again. */
const GROW_EVERY = 1_000;

/** The other replicas need this long (ms) to learn of a lowered budget and to close connections. */
const SHARED_AFTER = 1_000;

/** A replica that holds no connection, and was refused one, tries again after this time (ms) on average. */
const TRY_AGAIN_AFTER = 200;

/** @param configured the budget in the current configuration */
export function createEffectiveBudgets(
  configured: (cluster: string) => ClusterBudget,
  onChange: OnEffectiveBudget = () => undefined,
): EffectiveBudgets {
  const rooms = new Map<string, Room>();
  const keyOf = (cluster: string, kind: Kind): string => `${kind} ${cluster}`;
  return {
    of(cluster, { tenants, reserve }) {
      const least = (kind: Kind, budget: number): number =>
        Math.min(budget, rooms.get(keyOf(cluster, kind))?.budget ?? Infinity);
      return { tenants: least('tenants', tenants), reserve: least('reserve', reserve) };
    },

    source(cluster, kind, leases) {
      const room = new Room(
        leases,
        () => configured(cluster)[kind],
        (left) => {
          onChange({ cluster, kind, room: left });
        },
      );
      rooms.set(keyOf(cluster, kind), room);
      return room;
    },

    close() {
      for (const room of rooms.values()) room.close();
    },
  };
}

/** The leases of one cluster and kind, less the slots that the server has no room for. */
class Room implements SlotSource {
  /** What this replica may hold. */
  #own = Infinity;
  /** What all replicas together may hold. */
  #all = Infinity;
  #refusedAt = -Infinity;
  /** When `#all` was last lowered. */
  #loweredAt = -Infinity;
  #tryAgain: NodeJS.Timeout | undefined;
  #grow: NodeJS.Timeout | undefined;
  #user: SlotUser = { used: 0, changed: () => undefined };

  constructor(
    private readonly leases: SlotSource,
    private readonly configured: () => number,
    private readonly onChange: (room: number | undefined) => void,
  ) {}

  get budget(): number {
    return this.#all;
  }

  get leased(): number {
    // Without this pause the server would refuse all waiting requests, one after the other, as fast as it can.
    if (this.#tryAgain) return Math.min(this.leases.leased, this.#user.used);
    return Math.min(this.leases.leased, this.#own);
  }

  get asking(): boolean {
    return this.leases.asking ?? false;
  }

  get fault(): DatabaseFault | undefined {
    return this.leases.fault;
  }

  want(missing: number): void {
    this.leases.want(missing);
  }

  attach(user: SlotUser): void {
    this.#user = user;
    this.leases.attach(user);
  }

  /** The server refused a connection. The slot of that connection is still in use. */
  refused(): void {
    const wasWhole = this.#own === Infinity;
    const held = this.#user.used - 1;
    // One connection less than the server has room for: other clients of the server, such as the registry's pools, can then open
    // one.
    this.#own = Math.max(1, held - 1);
    this.#lowerForAll(held);
    this.#refusedAt = performance.now();
    this.#grow ??= setInterval(() => {
      this.#growAgain();
    }, GROW_EVERY).unref();
    if (held <= 0) this.#pause();
    if (wasWhole) this.onChange(this.#own);
    this.#user.changed();
  }

  close(): void {
    clearInterval(this.#grow);
    clearTimeout(this.#tryAgain);
  }

  /**
   * The other replicas may lease more slots than they use. So a replica without a connection halves the budget of all until the
   * server has room for it.
   */
  #lowerForAll(held: number): void {
    const sum = (this.leases.others ?? 0) + this.#own;
    const now = performance.now();
    if (held > 0 || this.#all === Infinity) {
      this.#all = sum;
      this.#loweredAt = now;
    } else if (now - this.#loweredAt >= SHARED_AFTER) {
      this.#all = Math.max(1, Math.min(sum, Math.floor(this.#all / 2)));
      this.#loweredAt = now;
    }
  }

  #pause(): void {
    clearTimeout(this.#tryAgain);
    // Half of the pause is random: replicas that were refused together must not try again together.
    const pause = TRY_AGAIN_AFTER * (0.5 + Math.random());
    this.#tryAgain = setTimeout(() => {
      this.#tryAgain = undefined;
      this.#user.changed();
    }, pause).unref();
  }

  #growAgain(): void {
    if (performance.now() - this.#refusedAt < HOLD_FOR) return;
    const step = Math.max(1, Math.floor(this.#own / 4));
    this.#own += step;
    this.#all += step;
    if (this.#own >= this.configured()) {
      this.#own = Infinity;
      this.#all = Infinity;
      clearInterval(this.#grow);
      this.#grow = undefined;
      this.onChange(undefined);
    }
    this.#user.changed();
  }
}
