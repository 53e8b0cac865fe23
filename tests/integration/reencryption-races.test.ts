// Re-encryption while other workers write the same columns: their values stay, whatever the moment.
import { sql, type RawBuilder } from 'kysely';
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  findClusterAt,
  registerCluster,
  type ClusterRecord,
  type ClusterValues,
} from '../../db/registry/cluster-queries.js';
import { findInstallationId } from '../../db/registry/installation.js';
import { createLockSession, type LockSession } from '../../db/registry/lock-session.js';
import { promoteNextPassword, storeNextPassword } from '../../db/registry/sealed-password-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { lockSealed, reseal, type SealedColumn } from '../../db/registry/sealed.js';
import { claimStandby, insertStandby, readyStandby } from '../../db/registry/standby-rows.js';
import { findTenant, type TenantRecord } from '../../db/registry/tenant-queries.js';
import type { DatabaseHandle } from '../../db/driver/client.js';
import { createDefaultCluster } from '../../src/clusters/default-cluster.js';
import { createEnvelope, type EnvelopeContext } from '../../src/secrets/envelope.js';
import type { RecordEvent } from '../../src/observability/security-events.js';
import { createReencryption, type Reencryption } from '../../src/operations/reencryption.js';
import { OPERATION_TIMES } from '../../src/operations/runner/operation-times.js';
import { createRunner } from '../../src/operations/runner/runner.js';
import { createTenantLocks } from '../../src/tenants/tenant-locks.js';
import { connectAs, createRegistry, testConfig } from '../support/app.js';

const k1 = { kid: 'k1', key: Buffer.alloc(32, 1) };
const k2 = { kid: 'k2', key: Buffer.alloc(32, 2) };
/** Opens both. */
const envelope = createEnvelope([k1, k2]);
const place = { host: '192.0.2.1', port: 5432 };

/** As the superuser. */
let central: DatabaseHandle<Registry>;
/** As the service, whose queries a policy can pause. */
let service: DatabaseHandle<Registry>;

/** Another connection of the service. */
let locked: DatabaseHandle<Registry>;
let locks: LockSession;

beforeAll(async () => {
  const registry = await createRegistry();
  locked = connectAs<Registry>(registry);
  locks = createLockSession(locked.db, () => undefined);
  central = connectAs<Registry>(registry);
  service = connectAs<Registry>(registry, testConfig(registry).registry.connection);
});
afterAll(async () => {
  await locks.close();
  await Promise.all([central.close(0), service.close(0), locked.close(0)]);
});

const { signal } = new AbortController();

/** Re-encryption with these keys; the first is the current key. */
function reencryptionWith(keys: readonly (typeof k1)[]): Reencryption {
  const record: RecordEvent = (event, fields) => {
    if (event === 'key-missing' || event === 'password-unreadable')
      throw new Error(`${event} ${JSON.stringify(fields)}`);
  };
  const runner = createRunner({
    registry: service.db,
    locks: createTenantLocks(locks),
    worker: 'one',
    schemaVersion: '',
    times: OPERATION_TIMES,
    onOutcome: () => undefined,
    onLookFailed: () => undefined,
    onError: (error) => {
      throw error;
    },
  });
  const installation = (): Promise<string> => findInstallationId(service.db);
  return createReencryption({ registry: service.db, runner, installation, replicaId: 'one', keys, record });
}

async function reencrypt(keys: readonly (typeof k1)[]): Promise<void> {
  const reencryption = reencryptionWith(keys);
  await reencryption.begin();
  await reencryption.run(signal);
}

async function addCluster(): Promise<ClusterRecord> {
  const id = randomUUID();
  const values: ClusterValues = {
    ...place,
    host: id,
    name: id,
    region: null,
    provisionerUser: 'p',
    provisionerPassword: createEnvelope([k1], 'clusters.provisioner_password').seal('of the cluster', {
      ...place,
      host: id,
      id,
      user: 'p',
    }),
    tls: 'off',
    tlsCa: null,
    connectionBudget: 10,
    connectionReserve: 2,
    weight: 1,
    accepting: false,
    standbyTarget: 0,
  };
  return registerCluster(central.db, id, values);
}

/** A row of a standby database without a database, ready to be claimed. */
async function addStandby(sealedWith: typeof k1): Promise<Standby> {
  const cluster = await addCluster();
  const id = randomUUID();
  const context = { id, host: cluster.host, port: cluster.port, user: id };
  const dbPassword = createEnvelope([sealedWith]).seal('of the standby', context);
  await central.db.connection().execute(async (session) => {
    const names = { dbName: id, dbUser: id };
    const standby = { id, clusterId: cluster.id, ...names, dbPassword, schemaVersion: '0001' };
    expect(await insertStandby(session, standby, cluster)).toBe(true);
    await readyStandby(session, id);
  });
  return { clusterId: cluster.id, context };
}

interface Standby {
  readonly clusterId: string;
  readonly context: EnvelopeContext;
}

function claim(from: DatabaseHandle<Registry>, { clusterId, context }: Standby): Promise<unknown> {
  const { id, host: dbHost, port: dbPort } = context;
  const operation = { kind: 'create', worker: 'one' };
  const tenant = { name: 'Claimed', slug: `claimed-${id}`, clusterId, dbHost, dbPort, poolOptions: {}, operation };
  return from.db
    .connection()
    .execute((session) => claimStandby(session, { ...tenant, schemaVersion: '0001', claim: randomUUID() }))
    .then((claimed) => {
      expect(claimed?.id).toBe(id);
    });
}

/** Rows of tenants without databases. @returns their ids */
async function addTenants(count: number): Promise<string[]> {
  const ids = Array.from({ length: count }, () => randomUUID());
  const seal = createEnvelope([k1]);
  await central.db
    .insertInto('tenants')
    .values(
      ids.map((id) => ({
        id,
        name: 'Synthetic',
        slug: `s-${id}`,
        status: 'active' as const,
        cluster_id: null,
        db_host: place.host,
        db_port: place.port,
        db_name: id,
        db_user: id,
        db_password: seal.seal('the first', { id, ...place, user: id }),
        pool_options: '{}',
        schema_version: '0001',
      })),
    )
    .execute();
  return ids;
}

async function rowOf(id: string): Promise<TenantRecord> {
  const row = await findTenant(central.db, id);
  if (!row) throw new Error('the tenant has no row');
  return row;
}

function opened(id: string, sealed: string): string {
  return envelope.open(sealed, { id, ...place, user: id });
}

/** Waits until a query of the superuser finds a row. */
async function waitFor(query: RawBuilder<unknown>): Promise<void> {
  await expect
    .poll(async () => (await query.execute(central.db)).rows.length, { interval: 10, timeout: 30_000 })
    .toBe(1);
}

const PAUSE = 4711;

/**
 * Runs `meanwhile` while a query of the service has its snapshot and has not locked the row yet: a policy, which does not apply to
 * the superuser, pauses the query there.
 */
async function whilePaused(
  table: 'tenants' | 'standby_databases',
  id: string,
  query: () => Promise<unknown>,
  meanwhile: () => Promise<unknown>,
): Promise<void> {
  await sql`
    create or replace function pause(id uuid, at uuid) returns boolean language plpgsql as $$
    begin
      if id = at then perform pg_advisory_xact_lock(${sql.lit(PAUSE)}); end if;
      return true;
    end $$`.execute(central.db);
  // Only a query that locks rows needs the policy for updates. Counting the rows needs only the first one.
  await sql`create policy seen on ${sql.table(table)} for select using (true)`.execute(central.db);
  await sql`create policy claimed on ${sql.table(table)} for delete using (true)`.execute(central.db);
  await sql`create policy paused on ${sql.table(table)} for update
    using (pause(id, ${sql.lit(id)}::uuid))`.execute(central.db);
  await sql`alter table ${sql.table(table)} enable row level security`.execute(central.db);
  try {
    await central.db.connection().execute(async (holder) => {
      await sql`select pg_advisory_lock(${sql.lit(PAUSE)})`.execute(holder);
      const running = query();
      // A failure before the await is not an unhandled one.
      running.catch(() => undefined);
      try {
        await waitFor(sql`select from pg_locks where locktype = 'advisory' and objid = ${PAUSE} and not granted`);
        await meanwhile();
      } finally {
        await sql`select pg_advisory_unlock(${sql.lit(PAUSE)})`.execute(holder);
      }
      await running;
    });
  } finally {
    await sql`alter table ${sql.table(table)} disable row level security`.execute(central.db);
    await sql`drop policy paused on ${sql.table(table)}`.execute(central.db);
    await sql`drop policy claimed on ${sql.table(table)}`.execute(central.db);
    await sql`drop policy seen on ${sql.table(table)}`.execute(central.db);
  }
}

describe('a row that changes after re-encryption has read it and before it locks it', () => {
  it('keeps the password that a rotation promoted', async () => {
    const [id = ''] = await addTenants(1);
    const next = createEnvelope([k1]).seal('the second', { id, ...place, user: id });
    await storeNextPassword(central.db, id, next, null);
    const promote = (): Promise<boolean> => promoteNextPassword(central.db, id, next);
    const reencryption = reencryptionWith([k2, k1]);
    await reencryption.begin();
    await whilePaused('tenants', id, () => reencryption.run(signal), promote);
    const row = await rowOf(id);
    expect(row.nextDbPassword).toBeNull();
    expect(opened(id, row.dbPassword)).toBe('the second');
    expect(row.dbPassword).toMatch(/^v1\.k2\./);
  });

  it('keeps the next password that replaced another', async () => {
    const [id = ''] = await addTenants(1);
    const seal = (password: string): string => createEnvelope([k1]).seal(password, { id, ...place, user: id });
    const [second, third] = [seal('the second'), seal('the third')];
    await storeNextPassword(central.db, id, second, null);
    const query = (): Promise<unknown> =>
      service.db.transaction().execute(async (trx) => {
        const column: SealedColumn = 'tenants.next_db_password';
        const found = await lockSealed(trx, column, { kids: ['k1'], after: undefined, limit: 100 });
        const values = found.map(({ sealed, ...context }) => ({
          id: context.id,
          was: sealed,
          sealed: createEnvelope([k2, k1]).seal(envelope.open(sealed, context), context),
        }));
        await reseal(trx, column, values);
      });
    await whilePaused('tenants', id, query, () => storeNextPassword(central.db, id, third, second));
    expect(opened(id, (await rowOf(id)).nextDbPassword ?? '')).toBe('the third');
  });

  it('is skipped if it is a standby database that a tenant claims', async () => {
    const standby = await addStandby(k1);
    const { id } = standby.context;
    const reencryption = reencryptionWith([k2, k1]);
    await reencryption.begin();
    await whilePaused(
      'standby_databases',
      id,
      () => reencryption.run(signal),
      () => claim(central, standby),
    );
    expect(envelope.open((await rowOf(id)).dbPassword, standby.context)).toBe('of the standby');
    // The next run finds it at its new place.
    await reencryption.run(signal);
    const { dbPassword } = await rowOf(id);
    expect(dbPassword).toMatch(/^v1\.k2\./);
    expect(envelope.open(dbPassword, standby.context)).toBe('of the standby');
  });
});

it('a claim takes the envelope that the standby database has when it is locked', async () => {
  const standby = await addStandby(k1);
  const { id } = standby.context;
  const again = createEnvelope([k2]).seal('of the standby', standby.context);
  await whilePaused(
    'standby_databases',
    id,
    () => claim(service, standby),
    () => central.db.updateTable('standby_databases').set({ db_password: again }).where('id', '=', id).execute(),
  );
  expect((await rowOf(id)).dbPassword).toBe(again);
});

it('an envelope replaces only the envelope that was read', async () => {
  const [id = ''] = await addTenants(1);
  const before = await rowOf(id);
  const [was = '', sealed = ''] = [k1, k2].map((key) =>
    createEnvelope([key]).seal('the first', { id, ...place, user: id }),
  );
  const values = [{ id, was, sealed }];
  expect(await service.db.transaction().execute((trx) => reseal(trx, 'tenants.db_password', values))).toBe(0);
  expect(await rowOf(id)).toEqual(before);
});

it('a thousand rotations during re-encryption lock no tenant out', async () => {
  const ROTATIONS = 1_000;
  const WORKERS = 4;
  const ids = await addTenants(1_500);
  const current = new Map(ids.map((id) => [id, 'the first']));
  let rotated = 0;

  async function rotate(worker: number): Promise<void> {
    // Each worker has its own tenants, as the lock of a tenant ensures.
    const own = ids.filter((_, index) => index % WORKERS === worker);
    while (rotated < ROTATIONS) {
      const number = (rotated += 1);
      const id = own[Math.floor(Math.random() * own.length)] ?? '';
      const password = `password ${number}`;
      // Each key is the current one of a replica.
      const seal = createEnvelope(number % 2 === 0 ? [k1, k2] : [k2, k1]);
      await storeNextPassword(central.db, id, seal.seal(password, { id, ...place, user: id }), null);
      for (let promoted = false; !promoted;) {
        const { nextDbPassword } = await rowOf(id);
        promoted = await promoteNextPassword(central.db, id, nextDbPassword ?? '');
      }
      current.set(id, password);
    }
  }

  const rotations = Promise.all(Array.from({ length: WORKERS }, (_, worker) => rotate(worker)));
  let passes = 0;
  for (; rotated < ROTATIONS; passes += 1) await reencrypt(passes % 2 === 0 ? [k2, k1] : [k1, k2]);
  await rotations;

  const rows = await central.db.selectFrom('tenants').select(['id', 'db_password']).where('id', 'in', ids).execute();
  const lost = rows.filter(({ id, db_password: sealed }) => opened(id, sealed) !== current.get(id));
  expect(lost.length, `tenants locked out after ${passes} passes`).toBe(0);
  expect(passes).toBeGreaterThan(2);
}, 60_000);

it('the default cluster’s row gets no password that is bound to a place from which it was moved', async () => {
  const { id, host, port, provisionerUser: user } = await addCluster();
  const seals = createEnvelope([k1], 'clusters.provisioner_password');
  const connection = { host, port, user, password: 'as configured', tls: false as const, database: 'postgres' };
  const moved = { id, host: `${host}-moved`, port, user };
  let ensured: Promise<string> | undefined;
  await central.db.transaction().execute(async (trx) => {
    await trx.selectFrom('clusters').select('id').where('id', '=', id).forUpdate().execute();
    const budget = { tenants: 10, reserve: 2 };
    ensured = createDefaultCluster({ registry: service.db, envelope: seals, connection, budget }).configure();
    await waitFor(sql`select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`);
    await trx
      .updateTable('clusters')
      .set({ host: moved.host, provisioner_password: seals.seal('of the new place', moved) })
      .where('id', '=', id)
      .execute();
  });
  const found = await findClusterAt(central.db, moved.host, port);
  expect(seals.open(found?.provisionerPassword ?? '', moved)).toBe('of the new place');
  const made = await ensured;
  expect(made).not.toBe(id);
  expect(await findClusterAt(central.db, host, port)).toMatchObject({ id: made });
});
