// One limit on one key, as this replica knows it: a bucket that all replicas take from, which fills at a steady rate.

export class Bucket {
  /** What is left of `size` for all replicas together, as of `#at`. Below 0 if replicas took more than there was. */
  left: number;
  /** What is left of this replica's own part, which counts while the others are out of reach. */
  part: number;
  /** Taken by this replica, and not known to be counted in Redis. */
  pending = 0;
  /** The part of `pending` that was sent last, until Redis confirms it. */
  sent: { readonly number: number; readonly taken: number } | undefined;
  /** Whether Redis may have forgotten the bucket: the next exchange says what can be left at most. */
  mends = false;
  /** Resolves when the exchange under way has ended. */
  flight: Promise<void> | undefined;
  #at: number;

  /**
   * @param refill ms in which an empty bucket is full again
   * @param replicas that share the bucket
   * @param now ms, of a clock that is never set
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

  /** Fills it with what time has brought. A size that grows brings nothing at once. */
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

  /** ms until one can be taken, 0 if one is left. */
  waitOf(replicas: number, apart: boolean): number {
    const wait = this.left >= 1 ? 0 : ((1 - this.left) * this.refill) / this.size;
    if (!apart || this.part >= 1) return wait;
    return Math.max(wait, ((1 - this.part) * this.refill) / partOf(this.size, replicas));
  }

  /** What the next exchange says: the same again if the last one was not confirmed. */
  send(nextNumber: () => number): { readonly number: number; readonly taken: number } {
    if (this.sent) return this.sent;
    // What was taken so long ago that the bucket has been filled since is not sent.
    this.pending = Math.min(this.pending, Math.max(0, Math.ceil(this.size - this.left)));
    this.sent = { number: nextNumber(), taken: this.pending };
    return this.sent;
  }

  /** Redis has counted what was sent. */
  confirmed(): void {
    this.pending -= this.sent?.taken ?? 0;
    this.sent = undefined;
  }

  /** @param left what is left in Redis, without what is pending */
  learned(left: number): void {
    this.left = left - this.pending;
  }
}

/** One replica's part of a limit. */
function partOf(size: number, replicas: number): number {
  return Math.max(1, size / replicas);
}
