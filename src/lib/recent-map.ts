// A bounded map that drops its least recently used entry. Its memory grows with its entries.
import { LRUCache } from 'lru-cache';

/**
 * A map of at most `max` entries.
 *
 * With LRUCache's option `max` a map takes the memory of all its entries when it is made: 28 bytes each, 12 MB for the maps of a
 * process that has just started.
 *
 * @param onGone called with the key of each entry that was dropped or deleted, and not if another value took its place
 */
export function recentMap<K extends string, V extends object | string | number | true>(
  max: number,
  onGone?: (key: K) => void,
): LRUCache<K, V> {
  return new LRUCache<K, V>({
    maxSize: max,
    sizeCalculation: () => 1,
    ...(onGone && {
      dispose: (_value, key, reason) => {
        if (reason !== 'set') onGone(key);
      },
    }),
  });
}
