// Shares the result of a computation between callers that ask one right after the other.

/** Computes at most once until the running code ends. So callers in one piece of code share one result, and no result gets old. */
export function perTurn<T>(compute: () => T): () => T {
  let known: { readonly value: T } | undefined;
  return () => {
    if (!known) {
      known = { value: compute() };
      queueMicrotask(() => (known = undefined));
    }
    return known.value;
  };
}
