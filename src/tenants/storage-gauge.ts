// How large tenants' databases are, as this process last measured them: asked before each write of a tenant whose storage is
// limited, and measured now and then only.
import { LRUCache } from 'lru-cache';

/** A size that is within the limit is believed for this long (ms): a tenant may write that much longer than it should. */
const MEASURED_EVERY = 10_000;

/** One beyond it, for this long: who has made room must not wait. */
const MEASURED_AGAIN_AFTER = 1_000;

/** Sizes kept; one that is forgotten is measured again. */
const MAX_REMEMBERED = 20_000;

interface Size {
  readonly bytes: number;
  /** When measuring began, on `performance.now`. */
  readonly at: number;
}

export interface StorageGauge {
  /**
   * Whether the tenant's database is within its limit (bytes); without waiting where it was measured a moment ago.
   *
   * Rejects with what measuring fails with.
   */
  within(tenantId: string, limit: number): boolean | Promise<boolean>;
  /** What was measured otherwise counts too. */
  measured(tenantId: string, bytes: number): void;
}

/** @param measure the size of a tenant's database in bytes */
export function createStorageGauge(measure: (tenantId: string) => Promise<number>): StorageGauge {
  const sizes = new LRUCache<string, Size>({ max: MAX_REMEMBERED });
  const measuring = new Map<string, Promise<number>>();

  async function measureNow(tenantId: string): Promise<number> {
    const at = performance.now();
    try {
      const bytes = await measure(tenantId);
      sizes.set(tenantId, { bytes, at });
      return bytes;
    } finally {
      measuring.delete(tenantId);
    }
  }

  return {
    within(tenantId, limit) {
      const known = sizes.get(tenantId);
      if (known) {
        const fits = known.bytes <= limit;
        if (performance.now() - known.at < (fits ? MEASURED_EVERY : MEASURED_AGAIN_AFTER)) return fits;
      }
      // Those that write at once wait for one measurement.
      let bytes = measuring.get(tenantId);
      if (!bytes) {
        bytes = measureNow(tenantId);
        measuring.set(tenantId, bytes);
      }
      return bytes.then((size) => size <= limit);
    },

    measured(tenantId, bytes) {
      sizes.set(tenantId, { bytes, at: performance.now() });
    },
  };
}
