// Closes what an engine opened, in reverse.

/** A stack of things to close. */
export class Closing {
  readonly #steps: { readonly name: string; readonly close: () => unknown }[] = [];
  #closed: Promise<void> | undefined;

  /** @param onError gets what a step fails with: the others are closed all the same */
  constructor(private readonly onError: (error: unknown, name: string) => void) {}

  /** @param close may return a promise: the step before is closed after it */
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
