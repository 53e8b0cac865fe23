// Histories of reads and writes over replicas that cache answers in a Redis that fails: no answer is older than what was acknowledged
// before its request. `npm run histories` plays longer ones.
import { describe, expect, inject, it } from 'vitest';
import { playHistory } from '../support/cache-histories.js';
import { noRedis, redisNote } from '../support/redis.js';

/** ms of each history. */
const LASTS = 10_000;

describe.skipIf(noRedis !== undefined)(`a history${redisNote}`, () => {
  it.each([20_261, 20_262])('of the seed %i has no answer that is too old', async (seed) => {
    const { broken, hits, writes, reads } = await playHistory(inject('cluster'), { seed, lasts: LASTS });
    expect(broken).toEqual([]);
    // Without hits and writes it proves nothing.
    expect(Math.min(hits, writes, reads)).toBeGreaterThan(0);
  });
});
