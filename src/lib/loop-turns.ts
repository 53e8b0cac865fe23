// How long each turn of the event loop works. A turn is what the loop does from one wait for input to the next one: whatever arrives
// meanwhile waits for its end. The watch costs two readings of clocks for each turn.

export interface LoopTurns {
  /** How long (ms) the present turn has worked. */
  worked(): number;
  stop(): void;
}

/**
 * Watches until it is stopped. It does not keep the process alive.
 *
 * @param ended called at the end of each turn with the time (ms) that it worked
 */
export function watchTurns(ended: (worked: number) => void): LoopTurns {
  let endedAt = 0;
  let idleBefore = 0;
  let next: NodeJS.Immediate;
  const worked = (): number => performance.now() - endedAt - (performance.nodeTiming.idleTime - idleBefore);
  const begin = (): void => {
    endedAt = performance.now();
    idleBefore = performance.nodeTiming.idleTime;
    // Node runs it after the turn's input. Without a reference the loop waits for input before.
    next = setImmediate(end).unref();
  };
  const end = (): void => {
    ended(worked());
    begin();
  };
  begin();
  return {
    worked,
    stop: () => {
      clearImmediate(next);
    },
  };
}
