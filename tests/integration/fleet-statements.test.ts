// One statement for many tenants: what it answers, which tenants it runs for, how a change is tried, confirmed, continued and audited.
import { sql } from 'kysely';
import { readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { Engine } from '../../src/engine/index.js';
import type { StatementWish } from '../../src/fleet-statements/statement-wish.js';
import { missingOf } from '../../src/fleet-statements/tenant-results.js';
import { asSuperuser, startService, type TestService } from '../support/app.js';
import { startSecondCluster } from '../support/second-cluster.js';
import { makeDataDir } from '../support/service-process.js';
import { contentOf, guestsOf, makeTenants, pricesIn, runStatement, statementsRunning } from '../support/statements.js';
import { markAgain, rowOf } from '../support/tenants.js';

const LONG = { timeout: 120_000 };
const MANY = 50;

let service: TestService;
let engine: Engine;
let data: Awaited<ReturnType<typeof makeDataDir>>;
/** Ids by slug. */
let ids: Map<string, string>;

beforeAll(async () => {
  data = await makeDataDir();
  service = await startService();
  engine = service.app.engine;
  ids = await makeTenants(
    engine,
    Array.from({ length: MANY }, (_, n) => `each-${n}`),
  );
}, 120_000);
afterAll(async () => {
  await service.close();
  await data.remove();
});

const id = (n: number): string => ids.get(`each-${n}`) ?? '';
const some = (...numbers: readonly number[]): StatementWish['selection'] => ({
  statuses: ['active'],
  tenants: numbers.map(id),
});

let files = 0;
function newFile(): string {
  return path.join(data.dir, `run-${(files += 1)}.jsonl`);
}

/** The lines of a file but the first. */
async function linesIn(file: string): Promise<Record<string, unknown>[]> {
  const text = await readFile(file, 'utf8');
  return text
    .trimEnd()
    .split('\n')
    .slice(1)
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

async function pricesOf(n: number): Promise<string[]> {
  return pricesIn(await rowOf(service, { id: id(n) }));
}

async function addProduct(n: number, price: number): Promise<void> {
  const row = await rowOf(service, { id: id(n) });
  await asSuperuser(row.dbName, (db) =>
    sql`insert into products (id, name, price) values (gen_random_uuid(), 'Lamp', ${price})`.execute(db),
  );
}

async function audited(): Promise<Record<string, unknown>[]> {
  const rows = await engine.registry
    .selectFrom('audit')
    .select(['details'])
    .where('action', '=', 'statement.run')
    .orderBy('id')
    .execute();
  return rows.map(({ details }) => details);
}

describe('a statement that reads', () => {
  it('answers for each of 50 active tenants, and leaves no role and no right', LONG, async () => {
    const one = await rowOf(service, { id: id(7) });
    const before = await contentOf(one);
    const { lines, report } = await runStatement(engine, 'select count(*) as products, now() as at from products');
    expect(report).toMatchObject({ totals: { selected: MANY, done: MANY, failed: 0, rows: MANY }, guestsLeft: [] });
    expect(new Set(lines.map(({ tenant }) => tenant))).toEqual(new Set(ids.values()));
    expect(lines[0]).toMatchObject({
      slug: expect.stringMatching(/^each-/) as string,
      rows: [{ products: 0 }],
      more: false,
    });
    expect(await guestsOf(engine)).toEqual([]);
    expect(await contentOf(one)).toEqual(before);
  });

  it('answers values as JSON holds them exactly, and no more rows than its bound', LONG, async () => {
    const { lines } = await runStatement(
      engine,
      `select n::int, 9007199254740993 as large, 1.10::numeric as price, true as yes, null as nothing, '{"a":[1]}'::jsonb as json,
        date '2026-01-31' as day, 'NaN'::float8 as odd, 1 as n, '\\x00ff'::bytea as bytes from generate_series(1, 5) as n`,
      { selection: some(1), limitRows: 3 },
    );
    expect(lines).toMatchObject([{ more: true }]);
    expect(lines.flatMap((line) => ('rows' in line ? line.rows : []))).toEqual(
      [1, 2, 3].map((n) => ({
        ...{ n, large: '9007199254740993', price: '1.10', yes: true, nothing: null, json: { a: [1] } },
        ...{ day: '2026-01-31', odd: 'NaN', 'n 2': 1, bytes: '\\x00ff' },
      })),
    );
  });

  it('says of each tenant why it failed, and goes on with the others', LONG, async () => {
    const row = await rowOf(service, { id: id(3) });
    await asSuperuser(row.dbName, (db) => sql`alter table products rename to gone`.execute(db));
    onTestFinished(async () => {
      await asSuperuser(row.dbName, (db) => sql`alter table gone rename to products`.execute(db));
    });
    const { lines, report } = await runStatement(engine, 'select count(*) from products', { selection: some(2, 3, 4) });
    expect(report.totals).toMatchObject({ done: 2, failed: 1 });
    expect(lines.find(({ tenant }) => tenant === id(3))).toEqual({
      tenant: id(3),
      slug: 'each-3',
      error: { code: '42P01', message: 'relation "products" does not exist' },
    });
  });

  it('does not enter a database that carries the mark of another tenant', LONG, async () => {
    await markAgain(service, id(5), 'tenant', 99);
    onTestFinished(() => markAgain(service, id(5), 'tenant'));
    const { lines } = await runStatement(engine, 'select 1', { selection: some(5) });
    expect(lines).toMatchObject([
      { error: { code: 'unavailable', message: expect.stringContaining('mark') as string } },
    ]);
  });

  it(
    'runs for suspended and deleted tenants only if their status is named, and leaves their databases closed',
    LONG,
    async () => {
      const origin = { actor: { kind: 'none' } } as const;
      const made = await makeTenants(engine, ['each-suspended', 'each-deleted']);
      const [suspended = '', deleted = ''] = made.values();
      await engine.lifecycle.suspend(suspended, origin);
      await engine.lifecycle.delete(deleted, origin);
      const tenants = [suspended, deleted];
      const without = await runStatement(engine, 'select 1 as one', { selection: { statuses: ['active'], tenants } });
      expect(without.report.totals).toMatchObject({ skipped: 2, done: 0 });
      expect(without.lines).toMatchObject([{ skipped: expect.stringContaining('suspended') as string }, {}]);
      const rows = [await rowOf(service, { id: suspended }), await rowOf(service, { id: deleted })];
      const before = await Promise.all(rows.map((row) => doorOf(row.dbName)));
      const ran = await runStatement(engine, 'select 1 as one', {
        selection: { statuses: ['active', 'suspended', 'deleted'], tenants },
      });
      expect(ran.lines.map((line) => ('rows' in line ? line.rows : line))).toEqual([[{ one: 1 }], [{ one: 1 }]]);
      expect(await Promise.all(rows.map((row) => doorOf(row.dbName)))).toEqual(before);
      expect(before).toEqual([expect.objectContaining({ open: false }), expect.objectContaining({ open: false })]);
    },
  );

  it('reports the tenants of a server that is away, and holds up no other server', LONG, async () => {
    const away = await startSecondCluster('away');
    onTestFinished(() => away.stop());
    const { body } = away;
    const registered = await engine.clusterRegistration.register(
      { region: null, weight: 100, accepting: true, tlsCa: null, standbyTarget: 0, ...body },
      { actor: { kind: 'none' } },
    );
    const admin = { email: 'a@example.com', firstName: 'A', lastName: 'A', passwordHash: 'x' };
    for (const slug of ['away-1', 'away-2', 'away-3'])
      await engine.provisioning.create(
        { name: slug, slug, poolOptions: {}, admin, wish: { clusterId: registered.cluster.id } },
        { actor: { kind: 'none' } },
      );
    const there = await runStatement(engine, 'select 1', {
      selection: { statuses: ['active'], cluster: { name: body.name, host: body.host, port: body.port } },
    });
    expect(there.report.totals).toMatchObject({ selected: 3, done: 3 });
    await away.stop();
    const { report, lines } = await runStatement(engine, 'select 1');
    expect(report.totals).toMatchObject({ selected: MANY + 3, done: MANY, failed: 3 });
    expect(
      lines
        .filter((line) => 'error' in line)
        .map(({ slug }) => slug)
        .sort(),
    ).toEqual(['away-1', 'away-2', 'away-3']);
    // The tests after this one have no server that is away.
    await asSuperuser(service.config.registry.connection.database, (db) =>
      sql`update tenants set status = 'provisioning' where slug like 'away-%'`.execute(db),
    );
  });

  it('ends in order when it is interrupted: what runs is cancelled, and no role is left', LONG, async () => {
    const interrupted = new AbortController();
    const names = await Promise.all([...ids.values()].map(async (one) => (await rowOf(service, { id: one })).dbName));
    const running = runStatement(engine, 'select pg_sleep(30)', {
      signal: interrupted.signal,
      timeout: 60_000,
      atOnce: 2,
    });
    await expect.poll(() => statementsRunning(names)).toBeGreaterThan(0);
    interrupted.abort();
    const { report } = await running;
    expect(report.totals).toMatchObject({ done: 0, failed: 0 });
    expect(missingOf(report.totals)).toBe(MANY);
    expect(await guestsOf(engine)).toEqual([]);
    expect(await statementsRunning(names)).toBe(0);
  });

  it('runs no more statements at once on a server than it may', LONG, async () => {
    let most = 0;
    const names = await Promise.all([0, 1, 2, 3, 4, 5].map(async (n) => (await rowOf(service, { id: id(n) })).dbName));
    const running = runStatement(engine, 'select pg_sleep(0.3)', { atOnce: 2, selection: some(0, 1, 2, 3, 4, 5) });
    const looks: Promise<void>[] = [];
    const look = setInterval(() => {
      looks.push(statementsRunning(names).then((now) => void (most = Math.max(most, now))));
    }, 40);
    try {
      expect((await running).report.totals.done).toBe(6);
    } finally {
      clearInterval(look);
      await Promise.all(looks);
    }
    expect(most).toBeGreaterThan(0);
    expect(most).toBeLessThanOrEqual(2);
  });

  it('continues a run, and asks no tenant twice that has answered', LONG, async () => {
    const file = newFile();
    const text = 'select count(*) as n from products';
    await runStatement(engine, text, { selection: some(10, 11, 12), file: { path: file, resume: false } });
    const whole = await readFile(file, 'utf8');
    // As a killed process leaves it: two tenants answered, and half of a line.
    const [first, second, third, last = ''] = whole.trimEnd().split('\n');
    await writeFile(file, `${[first, second, third].join('\n')}\n${last.slice(0, 20)}`);
    const { report, lines } = await runStatement(engine, text, {
      selection: some(10, 11, 12),
      file: { path: file, resume: true },
    });
    expect(report.totals).toMatchObject({ selected: 3, before: 2, done: 1 });
    expect(lines).toHaveLength(1);
    expect(new Set((await linesIn(file)).map(({ tenant }) => tenant))).toEqual(new Set([id(10), id(11), id(12)]));
    await expect(
      runStatement(engine, 'select 2', { selection: some(10), file: { path: file, resume: true } }),
    ).rejects.toThrow(/another statement/);
    await expect(runStatement(engine, text, { file: { path: file, resume: false } })).rejects.toThrow(/exists already/);
  });

  it('is audited: the text, how it ran, and for how many tenants', LONG, async () => {
    await runStatement(engine, `select 'audited' as it${' '.repeat(3_000)}`, { selection: some(1, 2) });
    expect((await audited()).at(-1)).toMatchObject({
      mode: 'read',
      statement: expect.stringMatching(/^select 'audited' as it {1,2000}…$/) as string,
      tenants: 2,
      named: [id(1), id(2)],
      statuses: ['active'],
    });
  });
});

describe('a statement that writes', () => {
  it('is tried first, changes nothing until it is confirmed, and then changes each tenant once', LONG, async () => {
    await addProduct(20, 10);
    await addProduct(20, 20);
    const file = newFile();
    const text = 'update products set price = price + 1 returning price';
    const wish = { write: true, selection: some(20, 21), file: { path: file, resume: false } };
    const refused = runStatement(engine, text, wish, (totals) => {
      expect(totals).toMatchObject({ done: 2, affected: 2 });
      return Promise.reject(new Error('no'));
    });
    await expect(refused).rejects.toThrow('no');
    expect(await pricesOf(20)).toEqual(['10.00', '20.00']);
    const continued = { ...wish, file: { path: file, resume: true } };
    const { report, lines, dryLines } = await runStatement(engine, text, continued);
    expect(report).toMatchObject({ dry: { affected: 2 }, totals: { done: 2, affected: 2, failed: 0 } });
    expect(dryLines).toHaveLength(2);
    expect(lines.find(({ tenant }) => tenant === id(20))).toMatchObject({
      affected: 2,
      rows: [{ price: '11.00' }, { price: '21.00' }],
    });
    expect(await pricesOf(20)).toEqual(['11.00', '21.00']);
    const again = await runStatement(engine, text, continued);
    expect(again.report.totals).toMatchObject({ done: 0, before: 2 });
    expect(await pricesOf(20)).toEqual(['11.00', '21.00']);
    expect((await audited()).slice(-3)).toMatchObject([
      { mode: 'dry-run' },
      { mode: 'dry-run' },
      { mode: 'write', tenants: 2 },
    ]);
    expect(await guestsOf(engine)).toEqual([]);
  });

  it(
    'leaves out the tenants in which the dry run failed, also by a constraint that is checked at the end',
    LONG,
    async () => {
      const row = await rowOf(service, { id: id(23) });
      await asSuperuser(row.dbName, (db) =>
        sql`alter table products add constraint at_the_end unique (name) deferrable initially deferred`.execute(db),
      );
      onTestFinished(async () => {
        await asSuperuser(row.dbName, (db) => sql`alter table products drop constraint at_the_end`.execute(db));
      });
      const text =
        "insert into products (id, name, price) select gen_random_uuid(), 'Twice', 1 from generate_series(1, 2)";
      const { report, lines } = await runStatement(engine, text, {
        write: true,
        selection: some(22, 23),
        file: { path: newFile(), resume: false },
      });
      expect(report.totals).toMatchObject({ done: 1, failed: 1, affected: 2 });
      expect(lines.find(({ tenant }) => tenant === id(23))).toMatchObject({ error: { code: '23505' } });
      expect(await pricesOf(22)).toEqual(['1.00', '1.00']);
      expect(await pricesOf(23)).toEqual([]);
    },
  );

  it.each([
    ['COMMIT', 'commit'],
    ['ROLLBACK', 'rollback'],
    ['a change of the transaction', 'set transaction isolation level serializable'],
    ['VACUUM', 'vacuum'],
    ['DDL', 'drop table products'],
    ['code', 'do $$ begin delete from products; commit; end $$'],
    ['two statements', 'delete from products; commit'],
    ['TRUNCATE', 'truncate products'],
    ['COPY', 'copy products from stdin'],
    ['a role', 'set role none'],
  ])('is refused in words, and changes nothing: %s', LONG, async (_what, text) => {
    await addProduct(24, 5);
    const before = await pricesOf(24);
    const wish = { write: true, selection: some(24), file: { path: newFile(), resume: false } };
    await expect(runStatement(engine, text, wish)).rejects.toThrow(/The statement cannot run.* It must be one SELECT/);
    expect(await pricesOf(24)).toEqual(before);
  });

  it.each([
    ['a password', "update users set password = 'known'", '42501'],
    ['the hash of a password in its answer', 'update users set active = true returning password', '42501'],
    ['a session', 'delete from sessions', '42501'],
    ['the audit', 'delete from audit', '42501'],
    ['the marker', 'delete from tenant_marker', '42501'],
    ['a large object', 'select lo_create(0)', 'unavailable'],
  ])('cannot change %s', LONG, async (_what, text, code) => {
    const row = await rowOf(service, { id: id(25) });
    const before = await contentOf(row);
    const { lines } = await runStatement(engine, text, {
      write: true,
      selection: some(25),
      file: { path: newFile(), resume: false },
    });
    expect(lines).toMatchObject([{ error: { code } }]);
    expect(await contentOf(row)).toEqual(before);
  });

  it(
    'asks PostgreSQL about a COMMIT that a killed process has sent, and does not change the tenant twice',
    LONG,
    async () => {
      await addProduct(26, 10);
      await addProduct(27, 10);
      const text = 'update products set price = price + 1';
      const file = newFile();
      const wish = { write: true, selection: some(26, 27), file: { path: file, resume: false } };
      await runStatement(engine, text, wish);
      // As a process leaves it that was killed after the COMMIT of one tenant, and before the COMMIT of the other.
      const lines = (await readFile(file, 'utf8')).trimEnd().split('\n');
      const committing = lines.filter((line) => line.includes('"committing"'));
      const rolledBack = await asSuperuser('postgres', async (db) =>
        db
          .transaction()
          .execute(async (trx) => {
            const { rows } = await sql<{ xid: string }>`select pg_current_xact_id()::text as xid`.execute(trx);
            throw new Error(rows[0]?.xid);
          })
          .catch((error: unknown) => (error as Error).message),
      );
      const half = committing.map((line) =>
        line.includes(id(27)) ? line.replace(/"committing":"\d+"/, `"committing":"${rolledBack}"`) : line,
      );
      await writeFile(file, `${[lines[0], ...half].join('\n')}\n`);
      const { report } = await runStatement(engine, text, { ...wish, file: { path: file, resume: true } });
      expect(report.totals).toMatchObject({ done: 2, unknown: 0, failed: 0 });
      expect(await pricesOf(26)).toEqual(['11.00']);
      expect(await pricesOf(27)).toEqual(['12.00']);
    },
  );

  it('needs a file', LONG, async () => {
    await expect(runStatement(engine, 'delete from products', { write: true })).rejects.toThrow(/needs a file/);
  });
});

describe('two runs at once', () => {
  it('do not disturb each other, and one file takes one of them', LONG, async () => {
    const file = newFile();
    const text = 'select pg_sleep(1)';
    await runStatement(engine, text, { selection: some(30), file: { path: file, resume: false } });
    const [header = ''] = (await readFile(file, 'utf8')).split('\n');
    await writeFile(file, `${header}\n`);
    const wish = { selection: some(30), file: { path: file, resume: true } };
    const first = runStatement(engine, text, wish);
    const other = runStatement(engine, 'select 1', { selection: some(30, 31) });
    await expect(runStatement(engine, text, wish)).rejects.toThrow(/another process/);
    expect((await other).report.totals).toMatchObject({ done: 2 });
    expect((await first).report.totals).toMatchObject({ done: 1 });
    await rm(file);
  });
});

async function doorOf(name: string): Promise<unknown> {
  return asSuperuser('postgres', async (db) => {
    const { rows } =
      await sql`select datallowconn as open, datacl as rights from pg_database where datname = ${name}`.execute(db);
    return rows[0];
  });
}
