// Waits that end together, ended a few at a time. Where hundreds wait for the same thing and it fails, or their time is up,
// each of them is an answer to write: done in one go, the requests of everybody else would stand still meanwhile.

/** Waits that end in one turn of the event loop: a millisecond or two of answers. */
const AT_ONCE = 8;

const standing: (() => void)[] = [];

/** Resolves when it is the caller's turn: first come, first served, and between two turns other input is read. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    standing.push(resolve);
    if (standing.length === 1) setImmediate(serve);
  });
}

function serve(): void {
  for (const resolve of standing.splice(0, AT_ONCE)) resolve();
  if (standing.length > 0) setImmediate(serve);
}
