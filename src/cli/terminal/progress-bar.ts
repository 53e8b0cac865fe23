// A bar that shows on a terminal how far some work is. Without a terminal nothing is written.

export interface ProgressBar {
  update(done: number, total: number): void;
  /** Removes the bar, so that the result begins on a line of its own. */
  end(): void;
}

const CELLS = 24;

/** @param what the work, as in `encrypting again` */
export function progressBar(what: string, stream: NodeJS.WriteStream = process.stderr): ProgressBar {
  if (!stream.isTTY) return { update: () => undefined, end: () => undefined };
  let shown = false;
  return {
    update(done, total) {
      const share = total === 0 ? 1 : Math.min(1, done / total);
      const full = Math.round(share * CELLS);
      stream.write(`\r\u001b[K${what}  [${'#'.repeat(full)}${'-'.repeat(CELLS - full)}]  ${done} of ${total}`);
      shown = true;
    },
    end() {
      if (shown) stream.write('\r\u001b[K');
      shown = false;
    },
  };
}
