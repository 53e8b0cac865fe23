// What the benchmark started is undone whatever happens, the last thing first: nothing of it may outlive the command.

/** A stack of undoings. */
export class Cleanup {
  readonly #undo: (() => Promise<unknown>)[] = [];
  #running: Promise<void> | undefined;

  /**
   * Starts something and notes how it is undone. An interruption in the middle of the start waits for it and undoes it.
   *
   * @throws Error once the cleaning has begun, and whatever `start` throws
   */
  async start<T>(start: () => T | Promise<T>, undo: (started: T) => unknown): Promise<T> {
    if (this.#running) throw new Error('the benchmark is stopping');
    const started = (async () => start())();
    this.#undo.push(() => started.then(undo, () => undefined));
    return started;
  }

  /** Undoes everything; one that fails does not keep the others from running. Safe to call again. */
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
