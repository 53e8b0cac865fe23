// The feed of changes: commits out of order, gaps, silences, and the cost of a silence for the databases. Replicas of a former
// build publish and listen by NOTIFY alone.
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { sql, type Kysely } from 'kysely';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, inject, it, onTestFinished, vi } from 'vitest';
import { currentSnapshot, sweepChanges } from '../../db/registry/feed-rows.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import type { Change, Events } from '../../src/replicas/events.js';
import { createFeedSweep, SWEEP_EVERY } from '../../src/replicas/feed-sweep.js';
import { startCluster } from '../support/cluster.js';
import {
  asSuperuser,
  connectAs,
  connectTo,
  createRegistry,
  createRegistryIn,
  startServiceIn,
  testConfig,
  type Send,
  type TestService,
} from '../support/app.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import { startStatementProxy, type Statement, type StatementProxy, type Verdict } from '../support/statement-proxy.js';
import type { ConnectionSettings } from '../../db/driver/client.js';
import { eventsOver } from '../support/events.js';

const SOON = { timeout: 30_000, interval: 10 };

/** After this time (ms) every event has arrived. */
const SETTLED = 400;

interface Reader {
  readonly events: Events;
  /** The kinds of changes, with the id of an operator's. */
  readonly heard: string[];
}

function read(connection: ConnectionSettings): Reader {
  const { events, close } = eventsOver(connection);
  onTestFinished(close);
  const heard: string[] = [];
  events.subscribe((change) => {
    heard.push(change.kind === 'operator' ? change.operatorId : change.kind);
  });
  return { events, heard };
}

const operator = (operatorId: string): Change => ({ kind: 'operator', operatorId });

describe('the feed', () => {
  let registry: string;
  let proxy: Proxy;
  let near: Reader;
  /** Reaches the registry through the proxy. */
  let far: Reader;

  beforeAll(async () => {
    registry = await createRegistry();
    proxy = await startProxy(inject('cluster').superuser);
  });
  afterAll(() => proxy.close());
  beforeEach(async () => {
    await noFormerBuild(true);
    const { connection } = testConfig(registry).registry;
    near = read(connection);
    far = read({ ...connection, host: proxy.host, port: proxy.port });
    await bothLive();
    near.heard.length = far.heard.length = 0;
  });

  const bothLive = (): Promise<void> => expect.poll(() => near.events.live && far.events.live, SOON).toBe(true);
  const inRegistry = <T>(work: (db: Kysely<Registry>) => Promise<T>): Promise<T> =>
    asSuperuser(registry, (db) => work(db as Kysely<Registry>));
  const noFormerBuild = (over: boolean): Promise<unknown> =>
    inRegistry((db) =>
      sql`update installation set feed_since = now() - ${over ? '1 day' : '1 minute'}::interval`.execute(db),
    );

  /** Runs work while the far replica receives nothing, for less than the deadline of a connection. */
  async function unheard(work: () => Promise<unknown>): Promise<void> {
    proxy.mode = 'hang';
    await work();
    proxy.mode = 'pass';
    await bothLive();
    await sleep(SETTLED);
  }

  it('misses no change whose transaction took its number first and committed last', async () => {
    const slow = connectAs<Registry>(registry);
    onTestFinished(() => slow.close(0));
    await slow.db.transaction().execute(async (trx) => {
      await sql`insert into changes (message) values ('operator late')`.execute(trx);
      for (const id of ['one', 'two', 'three']) {
        await near.events.publish(operator(id));
        await expect.poll(() => far.heard, SOON).toContain(id);
      }
      expect(far.heard).not.toContain('late');
    });
    await expect.poll(() => far.heard, SOON).toContain('late');
    await sleep(SETTLED);
    expect(far.heard).toEqual(['one', 'two', 'three', 'late']);
  });

  it('receives a change within a second although no notification was sent', async () => {
    await inRegistry((db) => sql`insert into changes (message) values ('operator quiet')`.execute(db));
    await expect.poll(() => far.heard, { timeout: 1_000, interval: 10 }).toEqual(['quiet']);
  });

  it('receives after a silence what was committed meanwhile, and discards no cache', async () => {
    await unheard(() => near.events.publish(operator('meanwhile')));
    expect(far.heard).toEqual(['meanwhile']);
  });

  it('continues from its last position after its connection was cut', async () => {
    proxy.mode = 'refuse';
    await near.events.publish(operator('meanwhile'));
    await expect.poll(() => far.events.live, SOON).toBe(false);
    proxy.mode = 'pass';
    await expect.poll(() => far.heard, SOON).toEqual(['meanwhile']);
  });

  it('reports a change of anything if the rows of a silence are gone', async () => {
    await near.events.publish(operator('before'));
    await expect.poll(() => far.heard, SOON).toEqual(['before']);
    await unheard(async () => {
      for (const id of ['missed', 'missed too']) await near.events.publish(operator(id));
      await inRegistry((db) => sql`delete from changes where message <> 'operator missed too'`.execute(db));
    });
    expect(far.heard).toEqual(['before', 'any']);
    await near.events.publish(operator('after'));
    await expect.poll(() => far.heard, SOON).toEqual(['before', 'any', 'after']);
  });

  it.each([
    ['the newest rows are gone', `delete from changes where message = 'operator lost'`],
    ['its numbers begin again', 'truncate changes restart identity'],
    [
      'its table is another',
      'create table other (like changes including all); drop table changes cascade; alter table other rename to changes; grant all on changes to public',
    ],
  ])('reports a change of anything if the registry went back to an earlier moment: %s', async (_, restore) => {
    await near.events.publish(operator('before'));
    await near.events.publish(operator('lost'));
    await expect.poll(() => far.heard, SOON).toEqual(['before', 'lost']);
    await unheard(() => inRegistry((db) => sql.raw(restore).execute(db)));
    expect(far.heard).toEqual(['before', 'lost', 'any']);
    await near.events.publish(operator('after'));
    await expect.poll(() => far.heard, SOON).toEqual(['before', 'lost', 'any', 'after']);
  });

  it('reports a change of anything if there are more changes than it reads at once', async () => {
    await unheard(() =>
      inRegistry((db) =>
        sql`insert into changes (message) select 'operator ' || n from generate_series(1, 10001) n`.execute(db),
      ),
    );
    expect(far.heard).toEqual(['any']);
  });

  it('is swept without a gap, even of rows from another server, and keeps the newest row', async () => {
    // A restored dump contains rows with transaction ids that this server has not assigned yet.
    await inRegistry((db) =>
      sql`insert into changes (xid, message) values ('9000000000000', 'operator foreign')`.execute(db),
    );
    for (const id of ['one', 'two']) await near.events.publish(operator(id));
    await inRegistry(async (db) => {
      const earlier = await currentSnapshot(db);
      await near.events.publish(operator('young'));
      while (await sweepChanges(db, earlier));
    });
    const rows = await inRegistry((db) => db.selectFrom('changes').select('message').orderBy('seq').execute());
    expect(rows.map(({ message }) => message)).toEqual(['operator two', 'operator young']);
    await sleep(SETTLED);
    expect(far.heard).toEqual(['one', 'two', 'young']);
  });

  it('is swept by a job, of rows that the last run saw at least a minute ago', async () => {
    const handle = connectAs<Registry>(registry);
    onTestFinished(() => handle.close(0));
    const sweep = createFeedSweep(handle.db);
    const count = async (): Promise<number> => (await handle.db.selectFrom('changes').select('seq').execute()).length;
    const { signal } = new AbortController();
    for (const id of ['one', 'two', 'three']) await near.events.publish(operator(id));
    const all = await count();
    await sweep(signal);
    await near.events.publish(operator('four'));
    await sweep(signal);
    expect(await count(), 'too early').toBe(all + 1);
    const now = performance.now.bind(performance);
    vi.spyOn(performance, 'now').mockImplementation(() => now() + SWEEP_EVERY);
    await sweep(signal);
    vi.restoreAllMocks();
    expect(await count(), 'the newest of those that were seen, and the one after').toBe(2);
  });

  it('is not live on a read-only registry, and continues from its last position afterwards', async () => {
    const readOnly = (on: boolean): Promise<unknown> =>
      asSuperuser('postgres', (db) =>
        sql`alter database ${sql.id(registry)} set default_transaction_read_only = ${sql.lit(on ? 'on' : 'off')}`.execute(
          db,
        ),
      );
    await readOnly(true);
    onTestFinished(async () => {
      await readOnly(false);
    });
    proxy.cut();
    await expect.poll(() => far.events.live, SOON).toBe(false);
    const { accepted } = proxy;
    await inRegistry((db) =>
      db
        .transaction()
        .setAccessMode('read write')
        .execute((trx) => sql`insert into changes (message) values ('operator meanwhile')`.execute(trx)),
    );
    // It looks for another server, but does not query this one continuously.
    await sleep(1_000);
    expect(far.events.live).toBe(false);
    expect(proxy.accepted - accepted).toBeGreaterThan(0);
    expect(proxy.accepted - accepted).toBeLessThan(10);
    await readOnly(false);
    await expect.poll(() => far.events.live, SOON).toBe(true);
    expect(far.heard).toEqual(['meanwhile']);
  });

  it('receives the changes of a former build, which receives those of this build', async () => {
    await noFormerBuild(false);
    await sleep(SETTLED);
    const { connection } = testConfig(registry).registry;
    const former = new pg.Client({ ...connection, ssl: false });
    await former.connect();
    onTestFinished(() => former.end());
    const heardByFormer: string[][] = [];
    former.on('notification', ({ payload = '' }) => {
      // As a former build parses it.
      const [kind = '', first = '', second = ''] = payload.split(' ');
      heardByFormer.push([kind, first, second]);
    });
    await former.query('listen tenantry');
    const [session, tenant] = [randomUUID(), randomUUID()];
    await former.query(`select pg_notify('tenantry', 'operator from-former')`);
    await expect.poll(() => far.heard, SOON).toContain('from-former');
    heardByFormer.length = 0;
    await near.events.publish({ kind: 'session', sessionId: session, tenantId: tenant });
    await near.events.publish({ kind: 'session', sessionId: session, tenantId: undefined });
    await near.events.publish({ kind: 'any' });
    await inRegistry((db) =>
      sql`insert into clusters (id, name, host, port, provisioner_user, provisioner_password, tls, connection_budget, connection_reserve) values (${tenant}, 'c', 'h', 1, 'u', 'p', 'off', 1, 1)`.execute(
        db,
      ),
    );
    await expect
      .poll(() => heardByFormer, SOON)
      .toEqual([
        ['session', session, tenant],
        ['session', session, ''],
        ['any', '', ''],
        ['cluster', tenant, ''],
      ]);
  });

  it('reports a change of anything after a cut while a former build may publish by notifications alone', async () => {
    await noFormerBuild(false);
    await sleep(SETTLED);
    proxy.cut();
    await expect.poll(() => far.heard, SOON).toContain('any');
    await bothLive();
    await sleep(SETTLED);
    expect(far.heard).toEqual(['any']);
  });
});

describe('two replicas without any changes', () => {
  it('use no transaction ids', async () => {
    const { cluster, stop } = await startCluster();
    onTestFinished(stop);
    const registry = await createRegistryIn(cluster);
    const handle = connectTo<unknown>(cluster, registry);
    onTestFinished(() => handle.close(0));
    const { connection } = testConfig(registry).registry;
    const { host, port } = cluster.superuser;
    const readers = [read({ ...connection, host, port }), read({ ...connection, host, port })];
    await expect.poll(() => readers.every(({ events }) => events.live), SOON).toBe(true);
    const nextXid = async (): Promise<string> => {
      const { rows } = await sql<{ next: string }>`
        select pg_snapshot_xmax(pg_current_snapshot())::text as next`.execute(handle.db);
      return rows[0]?.next ?? '';
    };
    const before = await nextXid();
    await sleep(1_000);
    expect(await nextXid()).toBe(before);
  });
});

describe('a registry that pauses for 600 ms under load', () => {
  /** The queries for an unknown tenant, session or user. */
  const LOOK_UP = /from "(tenants|sessions|operators|clusters)"|role_permissions/;
  const FEED = 'tenantry events';

  let proxy: StatementProxy;
  let home: TestService;
  let far: TestService;
  let tokens: string[];
  let seen: Statement[];

  beforeAll(async () => {
    const cluster = inject('cluster');
    proxy = await startStatementProxy(cluster.superuser);
    const behind = <At>(at: At): At => ({ ...at, host: proxy.host, port: proxy.port });
    const through = { ...cluster, superuser: behind(cluster.superuser), provisioner: behind(cluster.provisioner) };
    const registry = await createRegistry();
    home = await startServiceIn({ ...through, superuser: cluster.superuser }, { registry });
    far = await startServiceIn(through, { registry, operator: false });
    const tenants = await Promise.all([home.createTenant(), home.createTenant(), home.createTenant()]);
    const users = await Promise.all(
      tenants.flatMap((tenant) => ['a', 'b', 'c', 'd'].map((name) => home.createUser(tenant, `${name}@example.com`))),
    );
    tokens = users.map(({ token }) => token);
  });
  afterAll(async () => {
    proxy.onStatement = () => 'pass';
    await Promise.all([home.close(), far.close()]);
    await proxy.close();
  });
  beforeEach(async () => {
    await expect.poll(() => far.app.engine.events.live, SOON).toBe(true);
    expect(await statuses(far.send)).toEqual(tokens.map(() => 200));
    seen = [];
    proxy.onStatement = (statement) => {
      seen.push(statement);
      return 'pass';
    };
  });

  const statuses = (send: Send): Promise<number[]> =>
    Promise.all(tokens.map(async (token) => (await send('GET', '/auth/me', { token })).status));
  const lookUps = (): string[] => seen.filter(({ sql: text }) => LOOK_UP.test(text)).map(({ sql: text }) => text);

  it('gets one query from each replica, and the tenants’ databases get none', async () => {
    const until = performance.now() + 600;
    let questions = 0;
    proxy.onStatement = async (statement): Promise<Verdict> => {
      seen.push(statement);
      if (statement.application === FEED && performance.now() < until) {
        questions += 1;
        await sleep(until - performance.now());
      }
      return 'pass';
    };
    const end = until + 300;
    while (performance.now() < end) {
      expect(new Set(await statuses(far.send))).toEqual(new Set([200]));
      await sleep(10);
    }
    expect(lookUps()).toEqual([]);
    expect(questions).toBeLessThanOrEqual(2);
  });

  it('gets no query from requests that waited while the replica itself paused', async () => {
    const until = performance.now() + 600;
    while (performance.now() < until);
    expect(far.app.engine.events.live).toBe(false);
    expect(new Set(await statuses(far.send))).toEqual(new Set([200]));
    expect(lookUps()).toEqual([]);
  });

  it('lets a revocation take effect within a second, even if the pause lasts longer', async () => {
    proxy.onStatement = async ({ application }): Promise<Verdict> => {
      if (application === FEED) await sleep(1_500);
      return 'pass';
    };
    const [token] = tokens;
    await home.send('POST', '/auth/logout', { token });
    await expect
      .poll(async () => (await far.send('GET', '/auth/me', { token })).status, { timeout: 1_500, interval: 20 })
      .toBe(401);
    proxy.onStatement = () => 'pass';
  });
});
