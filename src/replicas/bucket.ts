// One limit on one key, as this replica knows it: a bucket that all replicas take from, and that fills at a steady rate.

export class Bucket {
  /** What all replicas together had left of `size` at the time `#at`. Below 0 if the replicas took more than the bucket held. */
  left: number;
  /** What is left of this replica's own part. It counts while the other replicas are out of reach. */
  part: number;
  /** What this replica has taken and Redis has not confirmed yet. */
  pending = 0;
  /** The part of `pending` that was sent last, until Redis confirms it. */
  sent: { readonly number: number; readonly taken: number } | undefined;
  /** Whether Redis may have forgotten the bucket. If so, the next exchange sends the most that can be left. */
  mends = false;
  /** Resolves when the exchange under way has ended. */
  flight: Promise<void> | undefined;
  #at: number;

  /**
   * @param refill time (ms) in which an empty bucket becomes full again
   * @param replicas number of replicas that share the bucket
   * @param now time (ms) on a clock that is never set
   */
  constructor(
    readonly key: string,
    readonly refill: number,
    public size: number,
    replicas: number,
    now: number,
  ) {
    this.left = size;
    this.part = partOf(size, replicas);
    this.#at = now;
  }

  /** Adds what has flowed in since the last call. A larger `size` adds nothing at once. */
  turn(size: number, replicas: number, now: number): void {
    const passed = (now - this.#at) / this.refill;
    const part = partOf(size, replicas);
    this.#at = now;
    this.size = size;
    this.left = Math.min(size, this.left + passed * size);
    this.part = Math.min(part, this.part + passed * part);
  }

  take(): void {
    this.left -= 1;
    this.part = Math.max(0, this.part - 1);
    this.pending += 1;
  }

  /** Time (ms) until one can be taken; 0 if one is left. */
  waitOf(replicas: number, apart: boolean): number {
    const wait = this.left >= 1 ? 0 : ((1 - this.left) * this.refill) / this.size;
    if (!apart || this.part >= 1) return wait;
    return Math.max(wait, ((1 - this.part) * this.refill) / partOf(this.size, replicas));
  }

  /** What the next exchange sends. If the last exchange was not confirmed, it is the same again. */
  send(nextNumber: () => number): { readonly number: number; readonly taken: number } {
    if (this.sent) return this.sent;
    // Old takes that the bucket has replaced since are not sent.
    this.pending = Math.min(this.pending, Math.max(0, Math.ceil(this.size - this.left)));
    this.sent = { number: nextNumber(), taken: this.pending };
    return this.sent;
  }

  /** Redis has counted what was sent. */
  confirmed(): void {
    this.pending -= this.sent?.taken ?? 0;
    this.sent = undefined;
  }

  /** @param left what is left in Redis, before `pending` is subtracted */
  learned(left: number): void {
    this.left = left - this.pending;
  }
}

/** The part of a limit that belongs to a single replica. */
function partOf(size: number, replicas: number): number {
  return Math.max(1, size / replicas);
}
