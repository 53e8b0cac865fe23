// Who dates the rows of the audit, and in which order a program that asks again and again gets them: it misses none.
import { sql, type Kysely, type Transaction } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { insertAudit } from '../../db/shared/audit-rows.js';
import { newId } from '../../db/shared/ids.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import {
  ADMIN,
  asSuperuser,
  startService,
  type PageOf,
  type Problem,
  type TestService,
  type TestTenant,
} from '../support/app.js';
import { findTenant } from '../../db/registry/tenant-queries.js';
import { isServed, migrateTenant, migrationsUpTo, rebuildDatabase } from '../support/tenant-schemas.js';

interface Row {
  readonly id: string;
  readonly at: string;
  readonly requestId: string | null;
}

let service: TestService;
let tenant: TestTenant;
let db: Kysely<TenantDatabase>;
let database: string;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.close());

async function newTenant(): Promise<void> {
  tenant = await service.createTenant();
  db = service.app.engine.tenantPools.database(tenant.id);
  database = (await findTenant(service.app.engine.registry, tenant.id))?.dbName ?? '';
}

const entry = (requestId: string) => ({ actor: { kind: 'none' }, action: 'auth.login-failed', requestId }) as const;

/** A program that asks for what is new. */
function poller(url = '/audit', token = tenant.adminToken, filter = '') {
  let after = '';
  const seen: string[] = [];
  return {
    seen,
    /** Where the next page begins: the id of a row. The rest of a cursor is its signature and the row's place. */
    position: (): string | undefined =>
      (JSON.parse(Buffer.from(after, 'base64url').subarray(16).toString('utf8')) as string[])[1],
    async ask(limit = 100): Promise<readonly Row[]> {
      const next = after === '' ? '' : `&after=${encodeURIComponent(after)}`;
      const answer = await service.send<PageOf<Row>>('GET', `${url}?order=asc&limit=${limit}${filter}${next}`, {
        token,
      });
      expect(answer.status, answer.text).toBe(200);
      after = answer.body.nextCursor ?? '';
      expect(after).not.toBe('');
      seen.push(...answer.body.data.map(({ id }) => id));
      return answer.body.data;
    },
    /** Asks until nothing is new, as soon as all rows that are there can come. */
    async askAll(): Promise<void> {
      await settled();
      while ((await this.ask()).length > 0);
    },
  };
}

/** Other transactions on the server delay rows. */
const PATIENCE = { timeout: 30_000 };

/** Waits for every transaction that runs now on the server, so that rows which are there come. */
async function settled(): Promise<void> {
  const { rows } = await sql<{ xid: string }>`select pg_current_xact_id()::text as xid`.execute(db);
  await expect
    .poll(async () => {
      const now = await sql<{ over: boolean }>`
        select pg_snapshot_xmin(pg_current_snapshot()) > ${rows[0]?.xid}::xid8 as over`.execute(db);
      return now.rows[0]?.over;
    }, PATIENCE)
    .toBe(true);
}

/** The last row in the order. */
async function newestId(): Promise<string | undefined> {
  const { rows } = await sql<{ id: string }>`select id from audit order by era desc, xid desc, id desc limit 1`.execute(
    db,
  );
  return rows[0]?.id;
}

const allIds = async (): Promise<string[]> =>
  (await db.selectFrom('audit').select('id').execute()).map(({ id }) => id).sort();

describe('a row', () => {
  beforeAll(newTenant);

  it.each([
    ['a tenant’s database', () => db as Kysely<unknown>],
    ['the registry', () => service.app.engine.registry as unknown as Kysely<unknown>],
  ])(
    'in %s gets its time, id and place from the database, whatever the role that writes it gives',
    async (_where, of) => {
      const forged = '01700000-0000-7000-8000-000000000001';
      const requestId = newId();
      const { rows } = await sql<{ early: boolean; at: number; id: string; xid: string; era: string }>`
      with added as (
        insert into audit (id, at, era, xid, server, actor_kind, action, request_id, details)
          values (${forged}, '2001-01-01', 5, '5', 5, 'none', 'auth.login-failed', ${requestId}, '{}') returning *
      )
      select at < now() - interval '1 minute' as early, extract(epoch from at)::float8 * 1000 as at, id, xid, era from added`.execute(
        of(),
      );
      const [row] = rows;
      expect(row?.early).toBe(false);
      expect(row?.id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
      expect(row?.id).not.toBe(forged);
      // The time in the id is the row's.
      const inId = Number.parseInt(row?.id.replace('-', '').slice(0, 12) ?? '', 16);
      expect(Math.abs(inId - (row?.at ?? 0))).toBeLessThanOrEqual(1);
      expect([row?.xid, row?.era]).not.toContain('5');
    },
  );

  it('that waited in its transaction is dated when it is written, and not when the transaction began', async () => {
    await db.transaction().execute(async (trx) => {
      await sql`select 1`.execute(trx);
      await sleep(30);
      const { rows } = await sql<{ waited: number }>`
        with added as (
          insert into audit (id, actor_kind, action, details) values (${newId()}, 'none', 'auth.login-failed', '{}') returning at
        )
        select extract(epoch from at - now())::float8 * 1000 as waited from added`.execute(trx);
      expect(rows[0]?.waited).toBeGreaterThan(20);
    });
  });

  it('that is written later has the time since its act as a detail', async () => {
    await insertAudit(db, { ...entry('later'), age: 61_234.5 });
    const [row] = await db.selectFrom('audit').select('details').where('request_id', '=', 'later').execute();
    expect(row?.details).toEqual({ age: 61_235 });
  });
});

describe('a program that asks with order=asc and after', () => {
  beforeAll(newTenant);

  it('gets every row once, also those of transactions that wait and end in another order', async () => {
    const WRITERS = 10;
    const EACH = 50;
    await asSuperuser(database, (superuser) => sql`create table turnstile as select 1 as id`.execute(superuser));
    await asSuperuser(database, (superuser) => sql`grant select, update on turnstile to public`.execute(superuser));
    const program = poller();
    const writing = new AbortController();
    const polling = (async () => {
      while (!writing.signal.aborted) await program.ask(7);
    })();
    const write = async (writer: number): Promise<void> => {
      for (let count = 0; count < EACH; count += 1)
        await db.transaction().execute(async (trx: Transaction<TenantDatabase>) => {
          // The row first, so that its transaction has its number; then a lock for which others wait.
          await insertAudit(trx, entry(`${writer}-${count}`));
          if (count % 3 === writer % 3) await sql`select from turnstile for update`.execute(trx);
          if (count % 5 === 0) await sleep(writer);
        });
    };
    try {
      await Promise.all(Array.from({ length: WRITERS }, (_, writer) => write(writer)));
    } finally {
      writing.abort();
      await polling;
    }
    await program.askAll();
    const ids = await allIds();
    expect(ids.length).toBeGreaterThanOrEqual(WRITERS * EACH);
    expect(program.seen.toSorted()).toEqual(ids);
  });

  it('gets a row whose transaction began first and ended last', async () => {
    const program = poller();
    await program.askAll();
    const before = program.seen.length;
    let end = (): void => undefined;
    const ended = new Promise<void>((resolve) => (end = resolve));
    let written = (): void => undefined;
    const isWritten = new Promise<void>((resolve) => (written = resolve));
    const late = db.transaction().execute(async (trx) => {
      await insertAudit(trx, entry('late'));
      written();
      await ended;
    });
    await isWritten;
    await insertAudit(db, entry('early'));
    const meanwhile = await program.ask();
    expect(meanwhile.map(({ requestId }) => requestId)).not.toContain('late');
    end();
    await late;
    await program.askAll();
    const ids = await allIds();
    expect(program.seen.toSorted()).toEqual(ids);
    expect(program.seen.length - before).toBe(2);
  });

  it('goes on where it was after its rows were restored on a server that counts from a lower number', async () => {
    const program = poller();
    await program.askAll();
    // What a restored dump has: rows of another server, and of transactions that this server has not come to.
    await asSuperuser(database, async (superuser) => {
      await sql`alter table audit disable trigger stamp_audit`.execute(superuser);
      await sql`update audit set server = server - 1, xid = (xid::text::numeric + 1000000000)::text::xid8`.execute(
        superuser,
      );
      await sql`alter table audit enable trigger stamp_audit`.execute(superuser);
    });
    const again = poller();
    await again.askAll();
    expect(again.seen.toSorted()).toEqual(await allIds());
    await Promise.all(Array.from({ length: 5 }, (_, count) => insertAudit(db, entry(`restored-${count}`))));
    await settled();
    const restored = await again.ask();
    expect(restored.map(({ requestId }) => requestId).sort()).toEqual([0, 1, 2, 3, 4].map((n) => `restored-${n}`));
    const eras = await sql`select distinct era from audit where request_id like 'restored-%'`.execute(db);
    expect(eras.rows).toHaveLength(1);
  });

  it('gets nothing and a cursor while nothing is new, and goes on with it', async () => {
    const program = poller();
    await program.askAll();
    expect(await program.ask()).toEqual([]);
    await insertAudit(db, entry('next'));
    await settled();
    expect((await program.ask()).map(({ requestId }) => requestId)).toEqual(['next']);
  });

  it('goes on after the rows that its filter leaves out, and gets a row that is committed late', async () => {
    const filter = '&action=user.deleted';
    const ofTenant = poller('/audit', tenant.adminToken, filter);
    const others = poller();
    /** Asks until the newest row is settled, whatever other transactions the server has. */
    const settle = async (): Promise<void> => {
      const seen = ofTenant.seen.length;
      const newest = await newestId();
      await expect
        .poll(async () => {
          await ofTenant.ask();
          return ofTenant.position();
        }, PATIENCE)
        .toBe(newest);
      expect(ofTenant.seen.length).toBe(seen);
    };
    await settle();
    await insertAudit(db, entry('left out'));
    await settle();
    await others.askAll();
    expect(ofTenant.position()).toBe(others.position());

    let end = (): void => undefined;
    const ended = new Promise<void>((resolve) => (end = resolve));
    let written = (): void => undefined;
    const isWritten = new Promise<void>((resolve) => (written = resolve));
    const late = db.transaction().execute(async (trx) => {
      await insertAudit(trx, { ...entry('late match'), action: 'user.deleted' });
      written();
      await ended;
    });
    await isWritten;
    const before = ofTenant.position();
    await insertAudit(db, entry('left out too'));
    expect(await ofTenant.ask()).toEqual([]);
    expect(ofTenant.position()).toBe(before);
    end();
    await late;
    await insertAudit(db, { ...entry('match'), action: 'user.deleted' }, { ...entry('match'), action: 'user.deleted' });
    await insertAudit(db, entry('left out at last'));
    // A full page ends at its last row.
    const found: (string | null)[] = [];
    await expect
      .poll(async () => {
        found.push(...(await ofTenant.ask(1)).map(({ requestId }) => requestId));
        return found.length;
      }, PATIENCE)
      .toBe(3);
    expect(found).toEqual(['late match', 'match', 'match']);
    await settle();
  });

  it('about one tenant learns no place of a row about another', async () => {
    const program = poller(`/tenants/${tenant.id}/audit`, tenant.adminToken, '&action=tenant.purged');
    const change = { token: service.operatorToken, body: { name: 'Followed' } };
    const other = await service.createTenant();
    for (const { id } of [tenant, other])
      expect((await service.send('PATCH', `/tenants/${id}`, change)).status).toBe(200);
    const { rows } = await sql<{ id: string }>`
      select id from audit where tenant_id = ${tenant.id} order by era desc, xid desc, id desc limit 1`.execute(
      service.app.engine.registry,
    );
    await expect
      .poll(async () => {
        await program.ask();
        return program.position();
      }, PATIENCE)
      .toBe(rows[0]?.id);
    expect(program.seen).toEqual([]);
  });

  it.each([
    ['after=x', 'must come with order=asc'],
    ['order=asc&cursor=x', 'must not come with order=asc: send it as after'],
    ['order=up', 'must be asc or desc'],
  ])('is told what is wrong with ?%s', async (query, message) => {
    const { status, body } = await service.send<Problem>('GET', `/audit?${query}`, { token: tenant.adminToken });
    expect([status, body.errors[0]?.message]).toEqual([400, message]);
  });

  it('is refused with the cursor of another order, list or filter', async () => {
    const get = async (url: string, token = tenant.adminToken): Promise<{ nextCursor: string; code: string }> =>
      (await service.send<{ nextCursor: string; code: string }>('GET', url, { token })).body;
    const cursor = (await get('/audit?limit=1')).nextCursor;
    expect((await get(`/audit?order=asc&after=${encodeURIComponent(cursor)}`)).code).toBe('invalid-cursor');
    const after = encodeURIComponent((await get('/audit?order=asc&limit=1')).nextCursor);
    expect((await get(`/audit?cursor=${after}`)).code).toBe('invalid-cursor');
    expect((await get(`/audit?order=asc&action=auth.login&after=${after}`)).code).toBe('invalid-cursor');
    expect((await get(`/operators/audit?order=asc&after=${after}`, service.operatorToken)).code).toBe('invalid-cursor');
  });

  it('also gets the rows of the registry, and those about one tenant', async () => {
    const ofAll = poller('/operators/audit', service.operatorToken);
    const ofTenant = poller(`/tenants/${tenant.id}/audit`, service.operatorToken);
    await Promise.all([ofAll.askAll(), ofTenant.askAll()]);
    const change = { token: service.operatorToken, body: { name: 'Polled' } };
    expect((await service.send('PATCH', `/tenants/${tenant.id}`, change)).status).toBe(200);
    await Promise.all([ofAll.askAll(), ofTenant.askAll()]);
    const rows = await service.app.engine.registry
      .selectFrom('audit')
      .select(['id', 'tenant_id as tenantId'])
      .execute();
    expect(ofAll.seen.toSorted()).toEqual(rows.map(({ id }) => id).sort());
    const about = rows.filter(({ tenantId }) => tenantId === tenant.id).map(({ id }) => id);
    expect(ofTenant.seen.toSorted()).toEqual(about.sort());
    expect(about.length).toBeGreaterThan(1);
  });
});

describe('a program that asks a tenant whose database is being upgraded', () => {
  beforeEach(newTenant);

  it.for(['0011_idempotency_keys', '0015_audit_order', '0016_audit_order_index'])(
    'is told to ask again after %s, and misses no row after the upgrade',
    async (last, { skip }) => {
      skip(!isServed(last), 'this build serves newer schemas only');
      await rebuildDatabase(service, tenant, migrationsUpTo(last));
      await service.app.engine.tenantPools.retire(tenant.id);
      db = service.app.engine.tenantPools.database(tenant.id);
      const { body } = await service.send<{ accessToken: string }>('POST', '/auth/login', {
        body: { tenant: tenant.slug, email: ADMIN.email, password: ADMIN.password },
      });
      const token = body.accessToken;
      await insertAudit(db, entry('before'));
      for (const url of ['/audit?order=asc', '/audit?order=asc&action=user.deleted']) {
        const refused = await service.send<Problem>('GET', url, { token });
        expect(refused, url).toMatchObject({ status: 503, body: { code: 'tenant-upgrading' } });
        expect(refused.headers['retry-after'], url).toBe('5');
      }
      const newestFirst = await service.send<PageOf<Row>>('GET', '/audit?order=desc', { token });
      expect(newestFirst.status).toBe(200);
      expect(newestFirst.body.data.map(({ requestId }) => requestId)).toContain('before');
      await migrateTenant(service, tenant);
      const program = poller('/audit', token);
      await program.askAll();
      await insertAudit(db, entry('after'));
      await program.askAll();
      expect(program.seen.toSorted()).toEqual(await allIds());
    },
  );
});
