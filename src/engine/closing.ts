// Closes what an engine opened, in reverse order.

/** A stack of steps that close something. */
export class Closing {
  readonly #steps: { readonly name: string; readonly close: () => unknown }[] = [];
  #closed: Promise<void> | undefined;

  /** @param onError receives the error of a step; the other steps still run */
  constructor(private readonly onError: (error: unknown, name: string) => void) {}

  /** @param close may return a promise; the step that was added before is closed after it */
  add(name: string, close: () => unknown): void {
    this.#steps.push({ name, close });
  }

  /** Closes everything, the newest first. Safe to call again. */
  close(): Promise<void> {
    return (this.#closed ??= this.#run());
  }

  async #run(): Promise<void> {
    for (const { name, close } of this.#steps.reverse()) {
      try {
        await close();
      } catch (error) {
        this.onError(error, name);
      }
    }
  }
}
