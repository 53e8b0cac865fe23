// Nothing waits for ever: a wait with an end.

/**
 * What `work` resolves to, unless that takes longer than `ms`; the work itself goes on.
 *
 * @throws what `late` makes, when the time is up; what `work` rejects with, before
 */
export async function within<T>(work: Promise<T>, ms: number, late: () => Error): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const over = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(late());
    }, ms);
  });
  return Promise.race([work, over]).finally(() => {
    clearTimeout(timer);
  });
}
