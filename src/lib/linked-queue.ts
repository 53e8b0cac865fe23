// A queue that its members can leave from any place. Joining, leaving and looking at the head take constant time. An array does
// not give that, and a Map only until it must skip deleted entries.

/** A member of a queue. It can be in one queue at a time. */
export class Queued<T extends Queued<T>> {
  queue: LinkedQueue<T> | undefined;
  before: T | undefined;
  after: T | undefined;
}

export class LinkedQueue<T extends Queued<T>> implements Iterable<T> {
  #first: T | undefined;
  #last: T | undefined;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get first(): T | undefined {
    return this.#first;
  }

  get last(): T | undefined {
    return this.#last;
  }

  /** Removes a member from its current queue, and puts it at the end of this queue. */
  push(item: T): void {
    item.queue?.remove(item);
    item.queue = this;
    item.before = this.#last;
    if (this.#last) this.#last.after = item;
    else this.#first = item;
    this.#last = item;
    this.#size += 1;
  }

  /** Removes a member from its current queue, and puts it at the head of this queue. */
  unshift(item: T): void {
    item.queue?.remove(item);
    item.queue = this;
    item.after = this.#first;
    if (this.#first) this.#first.before = item;
    else this.#last = item;
    this.#first = item;
    this.#size += 1;
  }

  /** Removes a member if it is in this queue. */
  remove(item: T): void {
    if (item.queue !== this) return;
    if (item.before) item.before.after = item.after;
    else this.#first = item.after;
    if (item.after) item.after.before = item.before;
    else this.#last = item.before;
    item.queue = item.before = item.after = undefined;
    this.#size -= 1;
  }

  /** From the head to the end. The current member may leave during the iteration. */
  *[Symbol.iterator](): Iterator<T> {
    for (let item = this.#first; item;) {
      const { after } = item;
      yield item;
      item = after;
    }
  }
}
