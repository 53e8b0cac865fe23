// Answers of writes that are stored, with many writes of one row under way at the same time: none is older than the newest
// acknowledged write. The database is a counter, and the store is the memory's, which forgets.
import { describe, expect, it } from 'vitest';
import { seededRandom, type Random } from '../../bench/figures/random.js';
import type { CacheStore } from '../../src/replicas/read-cache/cache-store.js';
import { createMemoryCacheStore } from '../../src/replicas/read-cache/memory-cache-store.js';
import { ReadCache } from '../../src/replicas/read-cache/read-cache.js';
import { careless } from '../support/careless-store.js';

const TENANT = '00000000-0000-4000-8000-000000000001';
const OWN = 'memory:one';
const PLACE = 'database.test:5432';
const read = { tenantId: TENANT, place: PLACE, epoch: 1, scope: 'products:1', key: 'the product' };
const SCOPES = ['products:1', 'products'];
const CLIENTS = 8;
const ROUNDS = 400;

interface Played {
  /** Answers that were smaller than what had been added, and acknowledged, before they were asked for. */
  readonly old: string[];
  readonly written: number;
  readonly hits: number;
}

async function play(seed: number, wrap: (store: CacheStore) => CacheStore): Promise<Played> {
  const random = seededRandom(seed);
  const memory = createMemoryCacheStore('one', { ttl: 60_000, bytes: 1_000_000 });
  const counts: Record<string, number> = {};
  const cache = new ReadCache({
    store: wrap(memory),
    fleet: { forReads: () => 'row', forWrites: () => ({ id: 'row', store: OWN, settlesIn: 0 }) },
    tenants: {
      forReads: () => 0,
      know: async () => undefined,
      offIn: async () => undefined,
      switchOff: async () => undefined,
      raise: async () => 0,
    },
    servers: {
      link: () => ({ server: 'one', serverChanges: 0 }),
      forReads: () => ({ server: 'one', generation: 'g1' }),
      know: async () => undefined,
      settlesIn: async () => 0,
    },
    live: () => true,
    count: (event) => void (counts[event] = (counts[event] ?? 0) + 1),
    step: () => pause(random),
  });
  let stock = 0;
  let acknowledged = 0;
  const old: string[] = [];

  async function write(): Promise<void> {
    const begun = await cache.beginWrite(TENANT, PLACE, SCOPES, 1);
    await pause(random);
    // The commit, and the answer of the row as this write left it.
    const left = (stock += 1);
    await pause(random);
    await cache.release(begun, { key: read.key, value: String(left) });
    acknowledged += 1;
  }

  async function ask(): Promise<void> {
    const least = acknowledged;
    const answer = await cache.read(read, async () => {
      const now = stock;
      await pause(random);
      return String(now);
    });
    if (answer !== undefined && Number(answer) < least) old.push(`${answer} after ${least}`);
  }

  await Promise.all(
    Array.from({ length: CLIENTS }, async () => {
      for (let round = 0; round < ROUNDS; round += 1) {
        if (random() < 0.25) await write();
        else await ask();
        // A store that was emptied has neither versions nor marks.
        if (random() < 0.02) memory.close();
      }
    }),
  );
  return { old, written: counts['written'] ?? 0, hits: counts['hit'] ?? 0 };
}

/** Goes on in another order than the others. */
async function pause(random: Random): Promise<void> {
  const turns = random() < 0.5 ? 0 : Math.floor(random() * 6);
  for (let turn = 0; turn < turns; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

describe('answers of writes that are stored', () => {
  it.each([1, 2, 3, 4, 5, 6])('are never older than the newest acknowledged write (seed %i)', async (seed) => {
    const { old, written, hits } = await play(seed, (store) => store);
    expect(old).toEqual([]);
    // Otherwise this proves nothing.
    expect(Math.min(written, hits)).toBeGreaterThan(10);
  });

  it('would be, if the store did not compare who marked last', async () => {
    expect((await play(1, careless)).old).not.toEqual([]);
  });
});
