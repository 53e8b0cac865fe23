// What the registry says of cached answers: who may still write, which store and which server count, and which tenants are off.
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { sql, type Kysely } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import {
  readFleetKnowledge,
  readFleetStore,
  replaceFleetStore,
  switchTenantCacheOff,
  switchTenantCachesOn,
  raiseTenantCaches,
} from '../../db/registry/fleet/read-cache-rows.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { removeReplica, sweepReplicas, writeBeat } from '../../db/registry/replica-rows.js';
import type { DatabaseHandle } from '../../db/driver/client.js';
import type { Change, Events } from '../../src/replicas/events.js';
import { FleetStore, HEARD_WITHIN } from '../../src/replicas/read-cache/fleet-store.js';
import { createPlaceServers, type PlaceLink, type PlaceServers } from '../../src/replicas/read-cache/place-servers.js';
import { createTenantCaches } from '../../src/replicas/read-cache/tenant-caches.js';
import { connectAs, createRegistry } from '../support/app.js';

const SOON = { timeout: 30_000, interval: 20 };
const MINUTE = 60_000;

let handle: DatabaseHandle<Registry>;
let db: Kysely<Registry>;
beforeAll(async () => {
  handle = connectAs<Registry>(await createRegistry());
  ({ db } = handle);
});
afterAll(() => handle.close(0));
beforeEach(async () => {
  for (const table of ['replicas', 'slot_leases', 'tenant_caches', 'cache_servers'])
    await sql`delete from ${sql.table(table)}`.execute(db);
});

/** A feed that is live, and says what the test says. */
function liveEvents(): Pick<Events, 'live' | 'caughtUp' | 'subscribe'> & { readonly tell: (change: Change) => void } {
  const listeners: ((change: Change) => void)[] = [];
  return {
    live: true,
    caughtUp: () => undefined,
    subscribe: (listener) => void listeners.push(listener),
    tell: (change) => {
      for (const listener of listeners) listener(change);
    },
  };
}

describe('a replica that takes no part', () => {
  /** How long it may write after its last beat, and what is assumed of one of a former build. */
  const ACTS_FOR = 18 * MINUTE;
  const FORMER = 15 * MINUTE;

  const beat = (id: string, cacheId?: string): Promise<void> =>
    writeBeat(db, {
      id,
      version: '1',
      node: '20',
      host: 'host',
      servingFor: 0,
      clockSkew: undefined,
      notReady: undefined,
      slotsUsed: {},
      schemaVersion: '0001',
      actsFor: cacheId === undefined ? ACTS_FOR : 5 * MINUTE,
      cacheId,
      reports: [],
    });
  const silentFor = async (ms: number): Promise<void> => {
    await sql`update replicas set seen_at = clock_timestamp() - ${ms}::float8 * interval '1 millisecond'`.execute(db);
  };
  const counts = async (): Promise<boolean> => {
    const { confirmed, abstains } = await readFleetKnowledge(db, randomUUID(), FORMER);
    expect(confirmed).toBe(!abstains);
    const { id, source } = await readFleetStore(db);
    const alone = await replaceFleetStore(db, id, { store: 'memory:two', source, alone: 'two' }, FORMER);
    expect(alone).toBe(!abstains);
    return abstains;
  };

  it('counts for as long as it may serve known tenants without the registry, and longer', async () => {
    await beat('off');
    await silentFor(6 * MINUTE);
    expect(await counts()).toBe(true);
    await silentFor(ACTS_FOR - 5_000);
    expect(await counts()).toBe(true);
    await silentFor(ACTS_FOR + 5_000);
    expect(await counts()).toBe(false);
  });

  it('counts no longer when it has stopped in order', async () => {
    await beat('off');
    await removeReplica(db, 'off');
    expect(await counts()).toBe(false);
  });

  it('counts while only its beats fail, because it renews its leases of slots', async () => {
    await beat('off');
    await silentFor(2 * ACTS_FOR);
    await sql`
      insert into slot_leases (cluster, kind, replica_id, budget, slots, wanted, renewed_at)
      values ('one:5432', 'tenants', 'off', 10, 2, 0, clock_timestamp())`.execute(db);
    expect(await counts()).toBe(true);
    // One that takes part looks at its own lease before it acknowledges.
    await sql`update replicas set cache_id = gen_random_uuid()`.execute(db);
    expect(await counts()).toBe(false);
  });

  it('counts too if it is of a former build, by the settings of the one that asks', async () => {
    await beat('former');
    await sql`update replicas set acts_for = null`.execute(db);
    await silentFor(FORMER - 5_000);
    expect(await counts()).toBe(true);
    await silentFor(FORMER + 5_000);
    expect(await counts()).toBe(false);
  });

  it('keeps its row for as long as it counts', async () => {
    await beat('off');
    await sql`update replicas set acts_for = ${24 * 60 * MINUTE}`.execute(db);
    await silentFor(2 * 60 * MINUTE);
    await sweepReplicas(db, 'two', FORMER);
    expect(await counts()).toBe(true);
    await silentFor(25 * 60 * MINUTE);
    await sweepReplicas(db, 'two', FORMER);
    expect(await db.selectFrom('replicas').select('id').execute()).toEqual([]);
  });
});

it('no store is proposed for a registry that has just become another server', async () => {
  await sql`update read_cache set store = 'redis:one', source = 'former'`.execute(db);
  const fleet = new FleetStore({
    registry: db,
    events: { ...liveEvents(), clock: () => ({ source: 'next', earliest: 0, latest: 0 }) },
    replicaId: 'one',
    own: () => 'redis:one',
    needsToBeAlone: false,
    beat: () => undefined,
    proposeEvery: 1,
    beatenAgainWithin: 2_000,
    formerActsFor: MINUTE,
    onError: () => undefined,
    onChange: () => undefined,
  });
  onTestFinished(() => {
    fleet.close();
  });
  fleet.onBeat(performance.now());
  await sleep(1_500);
  expect((await readFleetStore(db)).source).toBe('former');
  await expect.poll(async () => (await readFleetStore(db)).source, SOON).toBe('next');
});

describe('the server at a place', () => {
  const PLACE = 'one:5432';

  interface World {
    readonly servers: PlaceServers;
    /** Where the connections lead. Change it. */
    link: PlaceLink;
  }

  function world(): World {
    let link: PlaceLink = { server: undefined, serverChanges: 0 };
    const servers = createPlaceServers({
      registry: { reads: db, writes: db },
      events: liveEvents(),
      link: () => link,
      onError: () => undefined,
    });
    onTestFinished(() => {
      servers.close();
    });
    return {
      servers,
      get link() {
        return link;
      },
      set link(next) {
        link = next;
      },
    };
  }
  const agreed = async ({ servers }: World): Promise<string | undefined> => {
    await servers.know(PLACE);
    return servers.forReads(PLACE)?.server;
  };

  it('is recorded until that is done, and meanwhile nothing is read that came from the place', async () => {
    const w = world();
    w.servers.connected(PLACE, 'former');
    await expect.poll(() => agreed(w), SOON).toBe('former');
    const { generation } = w.servers.forReads(PLACE) ?? {};
    await sql`alter table cache_servers rename to away`.execute(db);
    w.servers.connected(PLACE, 'next');
    expect(w.servers.forReads(PLACE)).toBeUndefined();
    await sleep(500);
    expect(w.servers.forReads(PLACE)).toBeUndefined();
    await sql`alter table away rename to cache_servers`.execute(db);
    await expect.poll(() => agreed(w), SOON).toBe('next');
    expect(w.servers.forReads(PLACE)?.generation).not.toBe(generation);
  });

  it('must be known to all live feeds before a write to it is acknowledged', async () => {
    const w = world();
    w.link = { server: 'next', serverChanges: 1 };
    w.servers.connected(PLACE, 'next');
    await expect.poll(() => agreed(w), SOON).toBe('next');
    const settlesIn = await w.servers.settlesIn(PLACE, 1);
    expect(settlesIn).toBeGreaterThan(0);
    expect(settlesIn).toBeLessThanOrEqual(HEARD_WITHIN);
    await sleep(HEARD_WITHIN);
    expect(await w.servers.settlesIn(PLACE, 1)).toBe(0);
  });

  it('is not sure for a write whose connection may have led to another one', async () => {
    const w = world();
    w.link = { server: 'next', serverChanges: 1 };
    w.servers.connected(PLACE, 'next');
    await expect.poll(() => agreed(w), SOON).toBe('next');
    expect(await w.servers.settlesIn(PLACE, 0)).toBeUndefined();
    w.link = { server: undefined, serverChanges: 1 };
    expect(await w.servers.settlesIn(PLACE, 1)).toBeUndefined();
    w.link = { server: 'former', serverChanges: 1 };
    expect(await w.servers.settlesIn(PLACE, 1)).toBeUndefined();
  });

  it('is not replaced again by a replica that is still connected to the former one', async () => {
    const one = world();
    one.link = { server: 'former', serverChanges: 0 };
    one.servers.connected(PLACE, 'former');
    await expect.poll(() => agreed(one), SOON).toBe('former');
    const two = world();
    two.servers.connected(PLACE, 'next');
    await expect.poll(() => agreed(two), SOON).toBe('next');
    await one.servers.settlesIn(PLACE, 0);
    await sleep(300);
    await two.servers.know(PLACE);
    expect(await db.selectFrom('cache_servers').select('server').execute()).toEqual([{ server: 'next' }]);
  });
});

describe('a tenant that is off', () => {
  it('is known to be off only since it was switched off the last time', async () => {
    const events = liveEvents();
    const id = randomUUID();
    const tenants = createTenantCaches({ reads: db, writes: db }, events);
    await tenants.switchOff(id);
    expect(await tenants.offIn(id)).toBeGreaterThan(0);
    await sleep(HEARD_WITHIN + 20);
    expect(await tenants.offIn(id)).toBe(0);
    // On for a moment, which this replica did not look at.
    await sql`delete from tenant_caches`.execute(db);
    await switchTenantCacheOff(db, id);
    events.tell({ kind: 'tenant-cache', tenantId: id });
    expect(await tenants.offIn(id)).toBeGreaterThan(HEARD_WITHIN / 2);
  });

  it('is not switched on if it was off again meanwhile, whatever the clock of the registry does', async () => {
    const id = randomUUID();
    await switchTenantCacheOff(db, id);
    const rising = await raiseTenantCaches(db, 0, 10);
    expect(rising.map((tenant) => tenant.id)).toEqual([id]);
    await switchTenantCacheOff(db, id);
    await raiseTenantCaches(db, 0, 10);
    await sql`update tenant_caches set changed_at = changed_at - interval '30 seconds'`.execute(db);
    expect(await switchTenantCachesOn(db, rising)).toBe(0);
    expect(await switchTenantCachesOn(db, await raiseTenantCaches(db, 0, 10))).toBe(1);
  });
});
