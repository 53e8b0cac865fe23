// The registry's synchronous standby is lost: a COMMIT of a write waits on the server until the standby is back, even if the
// client gives up.
import { sql, type Kysely } from 'kysely';
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it, onTestFinished } from 'vitest';
import type { Registry } from '../../db/registry/registry-schema.js';
import { removeReplica, sweepReplicas, writeBeat, type Beat } from '../../db/registry/replica-rows.js';
import { changeLease, removeLeases, renewLeases } from '../../db/registry/slot-lease-queries.js';
import { startCluster, type TestCluster } from '../support/cluster.js';
import { connectTo, createRegistryIn } from '../support/service.js';
import { eventsOver } from '../support/events.js';

let cluster: TestCluster;
let stop: () => Promise<void>;
let registry: string;

beforeAll(async () => {
  ({ cluster, stop } = await startCluster({ synchronous_commit: 'on' }));
  registry = await createRegistryIn(cluster);
});
afterAll(() => stop());

async function asSuperuser<T>(work: (db: Kysely<Registry>) => Promise<T>): Promise<T> {
  const handle = connectTo<Registry>(cluster, registry);
  return work(handle.db).finally(() => handle.close(0));
}

async function setStandbys(names: string): Promise<void> {
  await asSuperuser(async (db) => {
    await sql`alter system set synchronous_standby_names = ${sql.lit(names)}`.execute(db);
    await sql`select pg_reload_conf()`.execute(db);
  });
  // The other sessions read the configuration a moment later.
  await sleep(200);
}

async function loseStandby(): Promise<void> {
  await setStandbys('nowhere');
  onTestFinished(() => setStandbys(''));
}

const waitingForStandby = (): Promise<number> =>
  asSuperuser(async (db) => {
    const { rows } = await sql`select pid from pg_stat_activity where wait_event = 'SyncRep'`.execute(db);
    return rows.length;
  });

it('a lost standby of the registry blocks no session of the feed, which stays live and publishes changes', async () => {
  const { superuser } = cluster;
  const { events, close } = eventsOver({ ...superuser, database: registry });
  onTestFinished(close);
  await expect.poll(() => events.live, { timeout: 30_000 }).toBe(true);
  await loseStandby();
  await events.publish({ kind: 'tenant', tenantId: randomUUID() });
  await sleep(1_000);
  expect(events.live).toBe(true);
  expect(await waitingForStandby()).toBe(0);
});

it('a lost standby of the registry delays no lease of slots, on this replica or another', async () => {
  await loseStandby();
  const handle = connectTo<Registry>(cluster, registry);
  onTestFinished(() => handle.close(0));
  const purpose = { cluster: 'db.example:5432', kind: 'tenants' as const };
  const done = (async () => {
    for (const replicaId of ['one', 'two']) {
      await changeLease(handle.db, { ...purpose, replicaId }, () => ({ budget: 8, slots: 4, wanted: 0 }));
      expect(await renewLeases(handle.db, replicaId)).not.toEqual([]);
      await removeLeases(handle.db, replicaId);
    }
    return 'done';
  })();
  expect(await Promise.race([done, sleep(3_000).then(waitingForStandby)])).toBe('done');
});

it('holds up no replica that shows that it lives, sweeps, or goes', async () => {
  const report = { kind: 'evidence', subject: 'a', tenantId: undefined, generation: undefined } as const;
  const beat = (id: string): Beat => ({
    id,
    version: '1',
    node: '1',
    host: 'one',
    servingFor: 1_000,
    clockSkew: undefined,
    notReady: undefined,
    slotsUsed: {},
    schemaVersion: '0001',
    actsFor: 1_000,
    reports: [{ ...report, database: 'tn_a', why: 'it carries no mark' }],
  });
  await loseStandby();
  await asSuperuser(async (db) => {
    await writeBeat(db, beat('one'));
    await writeBeat(db, beat('one'));
    await writeBeat(db, beat('gone'));
    await removeReplica(db, 'one');
  });
  expect(await waitingForStandby()).toBe(0);
  await setStandbys('');
  await asSuperuser(async (db) => {
    await sql`update replicas set seen_at = seen_at - interval '2 hours'`.execute(db);
    await sql`update reports set seen_at = seen_at - interval '2 hours'`.execute(db);
  });
  await setStandbys('nowhere');
  await asSuperuser((db) => sweepReplicas(db, 'two', 1_000));
  expect(await waitingForStandby()).toBe(0);
  expect(await asSuperuser(async (db) => (await db.selectFrom('replicas').select('id').execute()).length)).toBe(0);
  expect(await asSuperuser(async (db) => (await db.selectFrom('reports').select('subject').execute()).length)).toBe(0);
});
