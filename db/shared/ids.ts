// Identifiers that the service generates, so that an INSERT needs no round trip to learn its key.
import { randomFillSync } from 'node:crypto';
import { v7 } from 'uuid';

/** Random bytes that are fetched at once. Fetching 16 bytes at a time from the system costs more than the rest of a UUID. */
const random = Buffer.alloc(4_096);
const BYTES_PER_ID = 16;
let used = random.length;

/**
 * The time (ms) and the counter of the last id. The counter keeps ids in order within a millisecond, and when the clock is set
 * back.
 */
let msecs = 0;
let seq = 0;

/** A new UUIDv7 (RFC 9562). It is unique, and ordered by time, which keeps primary key indexes dense. */
export function newId(): string {
  if (used === random.length) {
    randomFillSync(random);
    used = 0;
  }
  const now = Date.now();
  if (now > msecs) {
    msecs = now;
    // The highest bit starts at 0, so that half of the range is left for counting (RFC 9562, section 6.2).
    seq = random.readUInt32BE(used) >>> 1;
  } else seq += 1;
  used += BYTES_PER_ID;
  return v7({ msecs, seq, random: random.subarray(used - BYTES_PER_ID, used) });
}
