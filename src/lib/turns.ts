// Ends waits a few at a time. If hundreds of requests wait for the same thing, and it fails or their time is up, each needs an
// answer. Writing all answers in one go would block all other requests meanwhile.

/** Waits that end in one turn of the event loop: their answers take a millisecond or two. */
const AT_ONCE = 8;

const standing: (() => void)[] = [];

/** Resolves when it is the caller's turn: first come, first served. Between two turns other input is read. */
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
