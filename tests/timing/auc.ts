// How well two lists of times can be distinguished.

/**
 * The Mann-Whitney statistic as a probability (AUC): that a value of `these` is above one of `those`; equal values count half.
 * With 0.5 the lists cannot be distinguished, with 0 or 1 every single value can.
 *
 * @throws RangeError if one of them is empty
 */
export function auc(these: readonly number[], those: readonly number[]): number {
  if (these.length === 0 || those.length === 0) throw new RangeError('there is nothing to compare');
  const all = [...these.map((value) => ({ value, own: 1 })), ...those.map((value) => ({ value, own: 0 }))];
  all.sort((one, other) => one.value - other.value);
  let ranks = 0;
  for (let from = 0; from < all.length;) {
    let to = from;
    let own = 0;
    while (to < all.length && all[to]?.value === all[from]?.value) {
      own += all[to]?.own ?? 0;
      to += 1;
    }
    // Equal values share the mean of their ranks, which begin with 1.
    ranks += own * ((from + 1 + to) / 2);
    from = to;
  }
  return (ranks - (these.length * (these.length + 1)) / 2) / (these.length * those.length);
}
