// Zipf's law, which the use of tenants follows: a few tenants get most requests.
import type { Random } from './random.js';

/**
 * Draws ranks in [0, count). The chance of the rank r is proportional to 1 / (r + 1)^s.
 *
 * @param s 0 gives all ranks the same chance; 1 gives the first of 300 one request in six, 1.5 two in five
 * @throws RangeError if there is nothing to draw from
 */
export function zipf(count: number, s: number): (random: Random) => number {
  if (count < 1) throw new RangeError('there are no ranks to draw from');
  const upTo = new Float64Array(count);
  let sum = 0;
  for (let rank = 0; rank < count; rank += 1) {
    sum += (rank + 1) ** -s;
    upTo[rank] = sum;
  }
  return (random) => {
    const drawn = random() * sum;
    let low = 0;
    let high = count - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (drawn < (upTo[middle] ?? 0)) high = middle;
      else low = middle + 1;
    }
    return low;
  };
}
