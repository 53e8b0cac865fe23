// Undoes what the benchmark started, in reverse order, also after a failure: nothing may outlive the command.

/** A stack of undo functions. */
export class Cleanup {
  readonly #undo: (() => Promise<unknown>)[] = [];
  #running: Promise<void> | undefined;

  /**
   * Starts something and registers its undo function. If an interruption comes during the start, the undo runs after the start.
   *
   * @throws Error once the cleaning has begun, and whatever `start` throws
   */
  async start<T>(start: () => T | Promise<T>, undo: (started: T) => unknown): Promise<T> {
    if (this.#running) throw new Error('the benchmark is stopping');
    const started = (async () => start())();
    this.#undo.push(() => started.then(undo, () => undefined));
    return started;
  }

  /** Undoes everything. If one undo function fails, the others still run. Safe to call again. */
  run(): Promise<void> {
    return (this.#running ??= this.#run());
  }

  async #run(): Promise<void> {
    for (const undo of this.#undo.reverse()) {
      await undo().catch((error: unknown) => {
        process.stderr.write(`cleaning up: ${String(error)}\n`);
      });
    }
  }
}
