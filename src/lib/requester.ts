// The client that a request came from, for work that makes sense only while the client waits for the answer.
import { EventEmitter } from 'node:events';

/**
 * The client of one request. The response of Node's HTTP server is one: it is `destroyed`, and emits `close`, when its connection
 * has closed, and also when the answer has been sent.
 */
export interface Requester {
  /** Whether the client has left, or has its answer. */
  readonly destroyed: boolean;
  once(event: 'close', left: () => void): unknown;
  off(event: 'close', left: () => void): unknown;
}

/** The error of work whose client has left. There is no connection to answer it on. */
export class ClientLeft extends Error {
  constructor() {
    super('the client has left');
    this.name = 'ClientLeft';
  }
}

/** The clients of several requests that wait for the same work. It leaves when the last of them has left. */
export class Requesters extends EventEmitter<{ close: [] }> implements Requester {
  destroyed = false;
  #present = 0;

  /** Adds a client. Undefined stands for one that never leaves. */
  join(requester: Requester | undefined): void {
    if (requester?.destroyed) return;
    this.#present += 1;
    requester?.once('close', () => {
      this.#present -= 1;
      if (this.#present > 0) return;
      this.destroyed = true;
      this.emit('close');
    });
  }
}
