// The size of tenants' databases, as this process last measured it. Each write of a tenant with a storage limit asks for the
// size; the size is measured only now and then.
import { recentMap } from '../lib/recent-map.js';

/** A size within the limit is valid for this long (ms). A tenant may exceed its limit for that time. */
const MEASURED_EVERY = 10_000;

/** A size beyond the limit is valid for this long (ms): a tenant that has freed space must not wait long. */
const MEASURED_AGAIN_AFTER = 1_000;

/** The most sizes that are kept; a forgotten size is measured again. */
const MAX_REMEMBERED = 20_000;

interface Size {
  readonly bytes: number;
  /** When the measurement began, on `performance.now`. */
  readonly at: number;
}

export interface StorageGauge {
  /**
   * Whether the tenant's database is within its limit (bytes). Does not wait if the size was measured recently.
   *
   * Rejects with the error of the measurement.
   */
  within(tenantId: string, limit: number): boolean | Promise<boolean>;
  /** Records a size that was measured elsewhere. */
  measured(tenantId: string, bytes: number): void;
}

/** @param measure the size of a tenant's database in bytes */
export function createStorageGauge(measure: (tenantId: string) => Promise<number>): StorageGauge {
  const sizes = recentMap<string, Size>(MAX_REMEMBERED);
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
      // Concurrent writes wait for one measurement.
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
