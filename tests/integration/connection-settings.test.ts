// The settings that every connection of the service starts with. A trigger on login records each user and its settings, so that
// no kind of connection is missed; PostgreSQL has such triggers from 17 on.
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { clientConfig } from '../../db/driver/client.js';
import { inspectCluster } from '../../db/server/cluster-inspection.js';
import { connectionsOf } from '../../src/clusters/dead-replicas.js';
import { createServerLooks } from '../../src/clusters/server-looks.js';
import { startCluster, type TestCluster } from '../support/cluster.js';
import { connectTo, createRegistryIn, startServiceIn, type TestService } from '../support/service.js';
import { rowOf } from '../support/tenants.js';

const SETTINGS = {
  tcp_keepalives_idle: '5',
  tcp_keepalives_interval: '5',
  tcp_keepalives_count: '3',
  tcp_user_timeout: '20000',
  client_connection_check_interval: '5000',
  idle_session_timeout: '0',
};

/** Opened before there is a service to ask, or by a command only; by the same factory (tests/unit/architecture.test.ts). */
const NOT_HERE = ['tenantry bootstrap', 'tenantry each', 'tenantry start'];

const versionNumber = await inspectionOf(inject('cluster'));

describe.skipIf(versionNumber < 170_000)('every kind of connection (a server of PostgreSQL 17 or later)', () => {
  let cluster: TestCluster;
  let stop: () => Promise<void>;
  let service: TestService;
  let registry: string;
  let tenantDatabase: string;

  beforeAll(async () => {
    // Idle sessions of others end after half a second, listeners' as well.
    ({ cluster, stop } = await startCluster({ idle_session_timeout: '500' }));
    registry = await createRegistryIn(cluster);
    for (const database of [registry, 'postgres']) await noteLogins(database);
    service = await startServiceIn(cluster, { registry });
  });
  afterAll(async () => {
    await service.close();
    await stop();
  });

  it('detects a silent client, and is not closed when idle', async () => {
    const { app, send, operatorToken } = service;
    const tenant = await service.createTenant();
    tenantDatabase = (await rowOf(service, tenant)).dbName;
    await noteLogins(tenantDatabase);
    await app.engine.tenantPools.retire(tenant.id);
    const token = tenant.adminToken;
    const product = { name: 'Chair', price: '1.00', stockQuantity: 1 };
    expect((await send('GET', '/products', { token })).status).toBe(200);
    expect((await send('POST', '/products', { token, body: product })).status).toBe(201);
    await app.engine.tenantPools.probe(tenant.id);
    const { host, port } = cluster.provisioner;
    const looks = createServerLooks(app.engine.clusterDirectory, 4_000);
    await connectionsOf(looks, `${host}:${port}`, ['no-such-replica']);
    await looks.close();
    for (const act of ['suspend', 'resume'])
      expect((await send('POST', `/tenants/${tenant.id}/${act}`, { token: operatorToken })).status).toBeLessThan(300);

    const seen = new Map<string, unknown[]>();
    for (const database of [registry, 'postgres', tenantDatabase]) {
      for (const { name, settings } of await loginsOf(database)) {
        const kind = name.replace(/ [0-9a-f]{12}$/, ' ').trim();
        seen.set(kind, [...(seen.get(kind) ?? []), settings]);
      }
    }
    const kinds = kindsInTheSource();
    expect(kinds.length).toBeGreaterThan(8);
    expect([...seen.keys()].sort()).toEqual(kinds.filter((kind) => !NOT_HERE.includes(kind)));
    // The tenant's pool and its lane have one name.
    expect(seen.get('tenantry')?.length).toBeGreaterThan(1);
    for (const [kind, all] of seen)
      for (const settings of all) expect({ kind, settings }).toEqual({ kind, settings: SETTINGS });
  });

  it('fails no request if the server closes idle sessions by default', async () => {
    const { send, operatorToken } = service;
    const tenant = await service.createTenant();
    const statuses: number[] = [];
    for (let turn = 0; turn < 4; turn += 1) {
      const asked = [
        send('GET', '/products', { token: tenant.adminToken }),
        send('GET', `/tenants/${tenant.id}`, { token: operatorToken }),
        send('POST', '/products', { token: tenant.adminToken, body: { name: 'Chair', price: '1.00' } }),
      ];
      statuses.push(...(await Promise.all(asked)).map(({ status }) => status));
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
    expect(statuses.filter((status) => status >= 300)).toEqual([]);
    const { rows } = await inDatabase('postgres', (db) =>
      sql`select from pg_stat_activity where application_name like 'tenantry%' and now() - backend_start > '2 s'`.execute(
        db,
      ),
    );
    expect(rows.length, 'connections that are older than the server’s idle time').toBeGreaterThan(3);
  });

  async function noteLogins(database: string): Promise<void> {
    const names = sql.join(Object.keys(SETTINGS).map((name) => sql.lit(name)));
    await inDatabase(database, async (db) => {
      await sql`create table public.logins (name text, settings jsonb)`.execute(db);
      await sql`
        create function public.note_login() returns event_trigger language plpgsql security definer as $$
        begin
          insert into public.logins select current_setting('application_name'), jsonb_object_agg(name, setting)
          from pg_settings where name in (${names});
        end $$`.execute(db);
      await sql`create event trigger note_login on login execute function public.note_login()`.execute(db);
    });
  }

  function loginsOf(database: string): Promise<{ name: string; settings: unknown }[]> {
    return inDatabase(database, async (db) => {
      const { rows } = await sql<{ name: string; settings: unknown }>`
        select name, settings from public.logins where name like 'tenantry%'`.execute(db);
      return rows;
    });
  }

  async function inDatabase<T>(
    database: string,
    work: (db: ReturnType<typeof connectTo<unknown>>['db']) => Promise<T>,
  ): Promise<T> {
    const handle = connectTo<unknown>(cluster, database);
    try {
      return await work(handle.db);
    } finally {
      await handle.close(0);
    }
  }
});

describe('every connection', () => {
  it('tests a silent server after five seconds', () => {
    const config = clientConfig({ host: 'a', port: 1, user: 'b', password: 'c', database: 'd', tls: false });
    expect(config).toMatchObject({ keepAlive: true, keepAliveInitialDelayMillis: 5_000 });
  });
});

/** The names that connections are given anywhere in the program, without what differs from replica to replica. */
function kindsInTheSource(): string[] {
  const root = path.resolve(import.meta.dirname, '../..');
  const files = ['src', 'plugins', 'routes', 'db'].flatMap((folder) =>
    readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' }).map((name) =>
      path.join(root, folder, name),
    ),
  );
  const names = files
    .filter((file) => file.endsWith('.ts'))
    .flatMap((file) => [
      ...readFileSync(file, 'utf8').matchAll(/application_?name\b\s*[:=]\s*\[?['`](tenantry[a-z ]*)/gi),
    ])
    .map(([, name = '']) => name.trim());
  return [...new Set(names)].sort();
}

async function inspectionOf(cluster: TestCluster): Promise<number> {
  const handle = connectTo<unknown>(cluster, 'postgres');
  try {
    return (await inspectCluster(handle.db)).versionNumber;
  } finally {
    await handle.close(0);
  }
}
