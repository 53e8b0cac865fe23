// A bounded map that drops its least recently used entry. Its memory grows with its entries.
import { LRUCache } from 'lru-cache';

/**
 * A map of at most `max` entries.
 *
 * With LRUCache's option `max` a map takes the memory of all its entries when it is made: 28 bytes each, 12 MB for the maps of a
 * process that has just started.
 */
export function recentMap<K extends string, V extends object | string | number | true>(max: number): LRUCache<K, V> {
  return new LRUCache<K, V>({ maxSize: max, sizeCalculation: () => 1 });
}
