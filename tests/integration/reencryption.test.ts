// Changing the key of database passwords while the service runs: everything is encrypted again, no pool is rebuilt, and an
// operator sees when the old key can be removed.
import { sql } from 'kysely';
import { randomUUID } from 'node:crypto';
import { beforeAll, afterAll, describe, expect, it } from 'vitest';
import type { Registry } from '../../db/registry/registry-schema.js';
import { sealedColumns } from '../../db/registry/sealed.js';
import { findTenant, type TenantRecord } from '../../db/registry/tenant-queries.js';
import type { DatabaseHandle } from '../../db/driver/client.js';
import { openApp } from '../support/service.js';
import type { EncryptionKey } from '../../src/config/index.js';
import { createEnvelope, type EnvelopeColumn } from '../../src/secrets/envelope.js';
import {
  connectAs,
  createRegistry,
  sender,
  startService,
  testConfig,
  type Send,
  type TestService,
  type TestTenant,
} from '../support/app.js';
import type { FastifyInstance } from 'fastify';

const k1: EncryptionKey = { kid: 'k1', key: Buffer.alloc(32, 1) };
const k2: EncryptionKey = { kid: 'k2', key: Buffer.alloc(32, 2) };
/** The key of the services in tests. */
const test: EncryptionKey = { kid: 'test', key: Buffer.alloc(32, 7) };

let registry: string;
let central: DatabaseHandle<Registry>;
/** Makes the tenants, with the key of the tests. */
let home: TestService;

beforeAll(async () => {
  registry = await createRegistry();
  central = connectAs<Registry>(registry);
  home = await startService({ registry });
});
afterAll(async () => {
  await home.close();
  await central.close(0);
});

interface Replica {
  readonly app: FastifyInstance;
  readonly send: Send;
  readonly lines: string[];
}

/** The security events of a replica, with the key that each is about. */
const eventsOf = ({ lines }: Replica): readonly { readonly event: string; readonly kid?: string | null }[] =>
  lines
    .map((line) => JSON.parse(line) as { readonly event: string; readonly security?: boolean })
    .filter(({ security }) => security);

/** A replica with these keys, the first its current one; it closes after `work`. */
async function withReplica<T>(keys: readonly EncryptionKey[], work: (replica: Replica) => Promise<T>): Promise<T> {
  const lines: string[] = [];
  const config = { ...testConfig(registry, { LOG_LEVEL: 'info' }), encryptionKeys: keys };
  const app = await openApp(config, { logStream: { write: (line) => void lines.push(line) } });
  try {
    return await work({ app, send: sender(app), lines });
  } finally {
    await app.close();
  }
}

async function rowOf({ id }: { id: string }): Promise<TenantRecord> {
  const row = await findTenant(central.db, id);
  if (!row) throw new Error('the tenant has no row');
  return row;
}

async function usesOf({ send }: Pick<Replica, 'send'>): Promise<unknown> {
  return (await send('GET', '/encryption', { token: home.operatorToken })).body['keys'];
}

async function products({ send }: Pick<Replica, 'send'>, tenant: TestTenant): Promise<number> {
  return (await send('GET', '/products', { token: tenant.adminToken })).status;
}

/** Every ciphertext of the registry, by its column. */
async function allSealed(): Promise<Record<string, string[]>> {
  const all: Record<string, string[]> = {};
  for (const name of sealedColumns) {
    const [table = '', column = ''] = name.split('.');
    const { rows } = await sql<{ sealed: string }>`
      select ${sql.ref(column)} as sealed from ${sql.table(table)} where ${sql.ref(column)} is not null order by id`.execute(
      central.db,
    );
    all[name] = rows.map(({ sealed }) => sealed);
  }
  return all;
}

/** A row for each kind of ciphertext, encrypted with the key of the tests. */
async function addOthers(): Promise<{ clusterId: string; standbyId: string }> {
  const seal = (column: EnvelopeColumn, secret: string, id: string, user: string): string =>
    createEnvelope([test], column).seal(secret, { id, host: '192.0.2.1', port: 5432, user });
  const [clusterId, standbyId] = [randomUUID(), randomUUID()];
  await central.db
    .insertInto('clusters')
    .values({
      id: clusterId,
      name: clusterId,
      host: '192.0.2.1',
      port: 5432,
      region: null,
      provisioner_user: 'p',
      provisioner_password: seal('clusters.provisioner_password', 'of the cluster', clusterId, 'p'),
      tls: 'off',
      tls_ca: null,
      connection_budget: 10,
      connection_reserve: 2,
      accepting: false,
    })
    .execute();
  await central.db
    .insertInto('standby_databases')
    .values({
      id: standbyId,
      cluster_id: clusterId,
      db_name: 's',
      db_user: 's',
      db_password: seal('tenants.db_password', 'of the standby', standbyId, 's'),
      schema_version: '0001',
    })
    .execute();
  await copyRow({ next: true });
  return { clusterId, standbyId };
}

async function removeOthers({ clusterId, standbyId }: { clusterId: string; standbyId: string }): Promise<void> {
  await central.db.deleteFrom('standby_databases').where('id', '=', standbyId).execute();
  await central.db.deleteFrom('clusters').where('id', '=', clusterId).execute();
  await removeCopies();
}

describe('a change of the encryption key', () => {
  it('encrypts every ciphertext again while requests go on, and rebuilds no pool', async () => {
    const tenants = [await home.createTenant(), await home.createTenant(), await home.createTenant()];
    const others = await addOthers();
    for (const tenant of tenants) expect(await products(home, tenant)).toBe(200);
    const before = await Promise.all(tenants.map(rowOf));
    const pools = tenants.map(({ id }) => home.app.engine.tenantPools.inspect(id)?.epoch);
    expect(pools).not.toContain(undefined);

    await withReplica([k2, test], async (replica) => {
      const statuses = new Set<number>();
      let done = false;
      const clients = tenants.map(async (tenant) => {
        while (!done) for (const service of [home, replica]) statuses.add(await products(service, tenant));
      });
      await replica.app.engine.housekeeping.runNow('reencryption');
      expect(await usesOf(replica)).toEqual([
        { kid: 'k2', held: true, current: true, rows: expect.any(Number) as unknown },
        { kid: 'test', held: true, current: false, rows: 0 },
      ]);
      done = true;
      await Promise.all(clients);
      expect([...statuses]).toEqual([200]);
      const events = eventsOf(replica);
      expect(events).toContainEqual(expect.objectContaining({ event: 'reencryption-begun', kid: 'test' }));
      expect(events).toContainEqual(
        expect.objectContaining({
          event: 'passwords-reencrypted',
          kid: 'k2',
          column: 'tenants.db_password',
          rows: expect.any(Number) as number,
        }),
      );
      expect(events.filter(({ event }) => event === 'key-unused')).toMatchObject([{ kid: 'test' }]);
    });

    for (const [column, sealed] of Object.entries(await allSealed())) {
      expect(sealed.length, column).toBeGreaterThan(0);
      for (const text of sealed) expect(text, column).toMatch(/^v1\.k2\./);
    }
    for (const row of before) {
      const after = await rowOf(row);
      const context = { id: row.id, host: row.dbHost, port: row.dbPort, user: row.dbUser };
      expect(createEnvelope([k2]).open(after.dbPassword, context)).toBe(
        createEnvelope([test]).open(row.dbPassword, context),
      );
      const { dbPassword, nextDbPassword, rowVersion } = after;
      expect(after).toEqual({ ...row, dbPassword, nextDbPassword, rowVersion });
    }
    expect(tenants.map(({ id }) => home.app.engine.tenantPools.inspect(id)?.epoch)).toEqual(pools);

    // The old key is gone, and is not needed.
    await removeOthers(others);
    await withReplica([k2], async (replica) => {
      for (const tenant of tenants) expect(await products(replica, tenant)).toBe(200);
      expect(replica.lines.join('')).not.toContain('cannot be used');
    });
  });

  it('has the same result on two replicas at once as on one', async () => {
    for (let number = 0; number < 250; number += 1) await copyRow();
    await withReplica([k1, k2, test], (one) =>
      withReplica([k1, k2, test], async (two) => {
        const { signal } = new AbortController();
        await Promise.all([one, two, one, two].map(({ app }) => app.engine.reencryption.run(signal)));
        // Each replica skipped the rows that the other had locked.
        await one.app.engine.reencryption.run(signal);
        expect(await usesOf(one)).toMatchObject([{ kid: 'k1' }, { kid: 'k2', rows: 0 }, { kid: 'test', rows: 0 }]);
      }),
    );
    await removeCopies();
  }, 60_000);

  it('is decided by the replica that started last, so that older replicas do not re-encrypt back', async () => {
    const tenant = await home.createTenant();
    await withReplica([k1, k2, test], (older) =>
      withReplica([k2, k1, test], async (newer) => {
        // The older replica may be re-encrypting at this moment, as it does at its start.
        const sealedAnew = async (): Promise<string> => {
          await newer.app.engine.housekeeping.runNow('reencryption');
          return (await rowOf(tenant)).dbPassword;
        };
        await expect.poll(sealedAnew).toMatch(/^v1\.k2\./);
        const { dbPassword } = await rowOf(tenant);
        await older.app.engine.housekeeping.runNow('reencryption');
        expect((await rowOf(tenant)).dbPassword).toBe(dbPassword);
        for (const replica of [older, newer]) expect(await products(replica, tenant)).toBe(200);
      }),
    );
  });

  it('skips locked rows, and finds them at the next run', async () => {
    const tenant = await home.createTenant();
    await withReplica([k2, k1, test], async ({ app }) => {
      await app.engine.housekeeping.runNow('reencryption');
    });
    await withReplica([k1, k2, test], async ({ app }) => {
      await app.engine.housekeeping.runNow('reencryption');
      await central.db
        .updateTable('tenants')
        .set({ db_password: await sealedBy(k2, tenant) })
        .where('id', '=', tenant.id)
        .execute();
      await central.db.transaction().execute(async (trx) => {
        await trx.selectFrom('tenants').select('id').where('id', '=', tenant.id).forUpdate().execute();
        await app.engine.housekeeping.runNow('reencryption');
      });
      expect((await rowOf(tenant)).dbPassword).toMatch(/^v1\.k2\./);
      await app.engine.housekeeping.runNow('reencryption');
      expect((await rowOf(tenant)).dbPassword).toMatch(/^v1\.k1\./);
    });
  });
});

describe('a ciphertext that cannot be encrypted again', () => {
  it('is reported once, and is not changed', async () => {
    const tenant = await home.createTenant();
    const row = await rowOf(tenant);
    // Bound to another host.
    const context = { id: row.id, host: 'elsewhere', port: row.dbPort, user: row.dbUser };
    const foreign = createEnvelope([k2]).seal('x', context);
    await central.db.updateTable('tenants').set({ db_password: foreign }).where('id', '=', row.id).execute();
    await withReplica([k1, k2, test], async (replica) => {
      for (let time = 0; time < 3; time += 1) await replica.app.engine.housekeeping.runNow('reencryption');
      const told = replica.lines.filter((line) => line.includes('could not decrypt'));
      expect(told).toHaveLength(1);
      expect(JSON.parse(told[0] ?? '')).toMatchObject({ event: 'password-unreadable', targetId: row.id });
      expect(told[0]).not.toContain(foreign);
      expect(await usesOf(replica)).toMatchObject([{ kid: 'k1' }, { kid: 'k2', rows: 1 }, { kid: 'test', rows: 0 }]);
    });
    expect((await rowOf(tenant)).dbPassword).toBe(foreign);
    await central.db.deleteFrom('tenants').where('id', '=', row.id).execute();
  });

  it('because its key is missing is reported at the start with the number of such rows, and shown to operators', async () => {
    const tenant = await home.createTenant();
    const secret = 'written here by hand.and.no.envelope';
    await withReplica([k1, k2, test], ({ app }) => app.engine.housekeeping.runNow('reencryption'));
    await withReplica([k2], async (replica) => {
      const { rows } = await sql<{ n: number }>`
        select count(*)::int as n from tenants`.execute(central.db);
      // The default cluster's password is in the configuration, and was encrypted again from there.
      const n = rows[0]?.n;
      const told = replica.lines.filter((line) => line.includes('cannot be used'));
      expect(told).toHaveLength(1);
      expect(told[0]).toContain(`"k1"`.replaceAll('"', String.raw`\"`));
      expect(told[0]).toContain(`${n} database passwords are`);
      expect(eventsOf(replica)).toMatchObject([{ event: 'key-missing', kid: 'k1', rows: n }]);
      expect(await usesOf(replica)).toEqual([
        { kid: 'k2', held: true, current: true, rows: 1 },
        { kid: 'k1', held: false, current: false, rows: n },
      ]);
      await central.db.updateTable('tenants').set({ db_password: secret }).where('id', '=', tenant.id).execute();
      const shown = await replica.send('GET', '/encryption', { token: home.operatorToken });
      expect(shown.text).not.toContain('written');
      expect(shown.body['keys']).toContainEqual({ kid: null, held: false, current: false, rows: 1 });
    });
  });
});

async function sealedBy(key: EncryptionKey, tenant: TestTenant): Promise<string> {
  const row = await rowOf(tenant);
  const context = { id: row.id, host: row.dbHost, port: row.dbPort, user: row.dbUser };
  const [, kid] = row.dbPassword.split('.');
  const keys = [key, ...[k1, k2, test].filter((other) => other.kid === kid)];
  return createEnvelope(keys).seal(createEnvelope([k1, k2, test]).open(row.dbPassword, context), context);
}

let copies = 0;
/** A tenant without a database that is being removed: only a row to encrypt again. */
async function copyRow({ next = false } = {}): Promise<void> {
  const id = randomUUID();
  const context = { id, host: '192.0.2.1', port: 5432, user: 'nobody' };
  await central.db
    .insertInto('tenants')
    .values({
      id,
      name: 'Copy',
      slug: `copy-${(copies += 1)}`,
      status: 'deleting',
      cluster_id: null,
      db_host: context.host,
      db_port: context.port,
      db_name: `nobody_${copies}`,
      db_user: context.user,
      db_password: createEnvelope([copies % 2 === 0 ? k2 : test]).seal(`copy ${copies}`, context),
      next_db_password: next ? createEnvelope([test]).seal('the next one', context) : null,
      pool_options: '{}',
      schema_version: '0001',
    })
    .execute();
}

async function removeCopies(): Promise<void> {
  await central.db.deleteFrom('tenants').where('slug', 'like', 'copy-%').execute();
}
