// Bounds the time of a wait.

/**
 * Resolves to the result of `work`, unless that takes longer than `ms`. `work` itself goes on.
 *
 * @throws the error that `late` makes, when the time is up; before that, the error of `work`
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
