// Identifiers made by the service, so that an INSERT needs no round trip to learn its key.
import { randomFillSync } from 'node:crypto';
import { v7 } from 'uuid';

/** Random bytes fetched at once: asking the system for 16 at a time costs more than the rest of a UUID. */
const random = Buffer.alloc(4_096);
const BYTES_PER_ID = 16;
let used = random.length;

/** The time of the last id, and the counter behind it, which goes on within a millisecond and while the clock is set back. */
let msecs = 0;
let seq = 0;

/** A new UUIDv7 (RFC 9562): unique, and ordered by time, which keeps primary key indexes dense. */
export function newId(): string {
  if (used === random.length) {
    randomFillSync(random);
    used = 0;
  }
  const now = Date.now();
  if (now > msecs) {
    msecs = now;
    // Half of its range is left to count in (RFC 9562, section 6.2).
    seq = random.readUInt32BE(used) >>> 1;
  } else seq += 1;
  used += BYTES_PER_ID;
  return v7({ msecs, seq, random: random.subarray(used - BYTES_PER_ID, used) });
}
