// How often a service answers from its cache, from its metrics.

/** Reads of cached routes so far, and how many of them were answered from the cache. */
export interface CacheCounts {
  readonly reads: number;
  readonly hits: number;
}

/** A read is counted as exactly one of these. */
const READS = ['hit', 'shared', 'filled', 'not-filled', 'dirty', 'unavailable'];

/** @param metricsPort of the service @throws Error if it does not answer */
export async function cacheCounts(metricsPort: string): Promise<CacheCounts> {
  const response = await fetch(`http://127.0.0.1:${metricsPort}/metrics`);
  const text = await response.text();
  const of = (event: string): number => {
    const found = new RegExp(`^tenantry_read_cache_events_total\\{event="${event}"\\} (\\S+)`, 'm').exec(text);
    return Number(found?.[1] ?? 0);
  };
  return { reads: READS.reduce((sum, event) => sum + of(event), 0), hits: of('hit') };
}

/** The share of reads between two counts that were answered from the cache; 0 if there were none. */
export function hitRate(before: CacheCounts, after: CacheCounts): number {
  const reads = after.reads - before.reads;
  return reads === 0 ? 0 : (after.hits - before.hits) / reads;
}
