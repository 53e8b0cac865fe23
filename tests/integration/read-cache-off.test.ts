// A replica with READ_CACHE=off: its writes invalidate nothing, so it acknowledges none before no replica caches answers.
import { sql } from 'kysely';
import { describe, expect, it, onTestFinished } from 'vitest';
import { readFleetStore } from '../../db/registry/fleet/read-cache-rows.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { abstain } from '../../src/replicas/read-cache/abstention.js';
import { HEARD_WITHIN } from '../../src/replicas/read-cache/fleet-store.js';
import { connectAs, createRegistry, startServiceForTest } from '../support/app.js';

const SOON = { timeout: 30_000, interval: 50 };

/** A registry in which replicas cache in a store, and whose row of it is locked until the test says so. */
async function lockedRegistry(): Promise<{ readonly name: string; readonly lock: () => Promise<() => Promise<void>> }> {
  const name = await createRegistry();
  const handle = connectAs<Registry>(name);
  onTestFinished(() => handle.close(0));
  const lock = async (): Promise<() => Promise<void>> => {
    await sql`update read_cache set id = gen_random_uuid(), store = 'redis:one'`.execute(handle.db);
    let unlock: () => void = () => undefined;
    const held = new Promise<void>((resolve) => (unlock = resolve));
    let locked: () => void = () => undefined;
    const ready = new Promise<void>((resolve) => (locked = resolve));
    const transaction = handle.db.transaction().execute(async (trx) => {
      await sql`select from read_cache for update`.execute(trx);
      locked();
      await held;
    });
    await Promise.race([ready, transaction]);
    return async () => {
      unlock();
      await transaction;
    };
  };
  return { name, lock };
}

describe('a replica with READ_CACHE=off', () => {
  it('refuses writes of cached tables, and is not ready, until no replica can answer from a cache', async () => {
    const { name, lock } = await lockedRegistry();
    const first = await startServiceForTest({ registry: name });
    const { adminToken: token } = await first.createTenant();
    const body = { name: 'a product', price: '1.00', stockQuantity: 1 };
    const { id } = (await first.send<{ id: string }>('POST', '/products', { token, body })).body;
    const unlock = await lock();
    const overrides = { caching: { abstentionDeadline: 300 } };
    const second = await startServiceForTest({ registry: name, operator: false, overrides });
    const write = async (): Promise<number> =>
      (await second.send('PATCH', `/products/${id}`, { token, body: { stockQuantity: 2 } })).status;
    const ready = async (): Promise<number> => (await second.send('GET', '/health/ready')).status;
    const value = async (): Promise<number> =>
      (await second.send<{ stockQuantity: number }>('GET', `/products/${id}`, { token })).body.stockQuantity;
    expect([await write(), await ready(), await value()]).toEqual([503, 503, 1]);
    await unlock();
    await expect.poll(write, SOON).toBe(200);
    expect([await ready(), await value()]).toEqual([200, 2]);
    expect((await readFleetStore(first.app.engine.registry)).store).toBe('none');
  });

  it.each([
    ['waits until all replicas have heard that there is no store any more', 0, HEARD_WITHIN - 5, Infinity],
    ['waits for nothing if there has been no store for long', 60_000, 0, HEARD_WITHIN / 2],
  ])('%s', async (_, unused, least, most) => {
    const begun = performance.now();
    await abstain(Promise.resolve(), async () => unused, new AbortController().signal);
    const took = performance.now() - begun;
    expect(took).toBeGreaterThanOrEqual(least);
    expect(took).toBeLessThan(most);
  });
});
