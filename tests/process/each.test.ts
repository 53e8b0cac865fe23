// `tenantry each` beside a service: within this process, on a terminal, and as a process that is ended by Ctrl-C or kill -9.
import { sql } from 'kysely';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findOperatorByEmail } from '../../db/registry/operator-queries.js';
import { asSuperuser, OPERATOR, startService, type TestService } from '../support/app.js';
import { isMissing, skipNote } from '../support/programs.js';
import { build, eventually, makeDataDir } from '../support/service-process.js';
import { guestsOf, makeTenants, oneProductIn, pricesIn } from '../support/statements.js';
import { environmentFor, startTenantry, tenantry, tenantryOnTerminal, type Ran } from '../support/tenantry.js';
import { rowOf } from '../support/tenants.js';

const LONG = { timeout: 180_000 };
const SLUGS = Array.from({ length: 12 }, (_, n) => `each-${n}`);

let service: TestService;
let data: Awaited<ReturnType<typeof makeDataDir>>;
let env: Record<string, string>;
/** Ids by slug. */
let ids: Map<string, string>;

beforeAll(async () => {
  await build();
  data = await makeDataDir();
  service = await startService();
  env = environmentFor(service.config.registry.connection.database, data.dir);
  ids = await makeTenants(service.app.engine, SLUGS);
}, 180_000);
afterAll(async () => {
  await service.close();
  await data.remove();
});

/** Runs a command that must write no stack, whatever it says. */
async function each(args: readonly string[], input?: string): Promise<Ran> {
  const ran = await tenantry(['each', ...args], env, input);
  expect(ran.stdout + ran.stderr).not.toMatch(/^\s+at .*[:(]\d+|node:internal/m);
  return ran;
}

function jsonLines(text: string): Record<string, unknown>[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

let files = 0;
const newFile = (): string => path.join(data.dir, `each-${(files += 1)}.jsonl`);

/** The price of the only product of each tenant. */
async function prices(): Promise<string[]> {
  const found: string[] = [];
  for (const id of ids.values()) found.push(...(await pricesIn(await rowOf(service, { id }))));
  return found;
}

async function oneProductEach(): Promise<void> {
  for (const id of ids.values()) await oneProductIn(await rowOf(service, { id }));
}

async function linesOf(file: string): Promise<Record<string, unknown>[]> {
  const text = await readFile(file, 'utf8').catch(() => '');
  return jsonLines(text.slice(0, text.lastIndexOf('\n') + 1)).slice(1);
}

describe('tenantry each', () => {
  it('writes a line of JSON for each active tenant, from an argument, a file or standard input', LONG, async () => {
    const text = 'select count(*) as products from products';
    const file = path.join(data.dir, 'statement.sql');
    await writeFile(file, `${text}; -- of each tenant\n`);
    for (const ran of [await each(['--', text]), await each(['--file', file]), await each([], text)]) {
      expect({ code: ran.code, stderr: ran.stderr }).toEqual({ code: 0, stderr: '12 of 12 tenants are done.\n' });
      const lines = jsonLines(ran.stdout);
      expect(new Set(lines.map(({ tenant }) => tenant))).toEqual(new Set(ids.values()));
      expect(lines[0]).toEqual({
        tenant: expect.any(String) as string,
        slug: expect.any(String) as string,
        rows: [{ products: 0 }],
        more: false,
      });
    }
  });

  it('is audited as the operator who runs it', LONG, async () => {
    expect(await each(['--tenants', 'each-1', '--', 'select 1 as audited'])).toMatchObject({ code: 0 });
    const operator = await findOperatorByEmail(service.app.engine.registry, OPERATOR.email);
    const rows = await service.app.engine.registry
      .selectFrom('audit')
      .select(['actor_id', 'user_agent', 'details'])
      .where('action', '=', 'statement.run')
      .orderBy('id', 'desc')
      .limit(1)
      .execute();
    expect(rows).toMatchObject([
      {
        actor_id: operator?.id,
        user_agent: 'tenantry each',
        details: { statement: 'select 1 as audited', mode: 'read', tenants: 1, named: [ids.get('each-1')] },
      },
    ]);
  });

  it('refuses in a sentence what is not one query, and ends with 2', LONG, async () => {
    for (const text of ['commit; drop table products', 'set transaction read write', 'delete from products', ''])
      expect(await each(['--', text])).toMatchObject({
        code: 2,
        stdout: '',
        stderr: expect.stringMatching(/^The statement .*\.\n$/) as string,
      });
    expect(await each(['--tenants', 'nobody', '--', 'select 1'])).toMatchObject({ code: 4 });
    expect(await each(['--write', '--', 'delete from products'])).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('--output') as string,
    });
    expect(await each(['select 1', 'select 2'])).toMatchObject({ code: 2 });
    expect(await each(['--timeout', '1h', '--', 'select 1'])).toMatchObject({ code: 2 });
    expect(await each(['--status', 'deleting', '--', 'select 1'])).toMatchObject({ code: 2 });
  });

  it('ends with 3 if a tenant failed, and says which and why', LONG, async () => {
    const ran = await each(['--tenants', 'each-1,each-2', '--', 'select 1 / count(*) from products']);
    expect(ran).toMatchObject({ code: 3, stderr: '0 of 2 tenants are done, 2 failed.\n' });
    expect(jsonLines(ran.stdout)).toMatchObject([
      { error: { code: '22012', message: 'division by zero' } },
      { error: { code: '22012' } },
    ]);
  });

  it('writes its lines to a file, and a table or a summary to standard output', LONG, async () => {
    const [one, two] = [newFile(), newFile()];
    const table = await each(['--tenants', 'each-3', '--output', one, '--', "select 'shown' as word"]);
    expect(table).toMatchObject({ code: 0 });
    expect(table.stdout).toBe('TENANT  ROWS  FIRST ROW\neach-3     1  {"word":"shown"}\n');
    expect(await linesOf(one)).toMatchObject([{ slug: 'each-3', rows: [{ word: 'shown' }] }]);
    const json = await each(['--tenants', 'each-3', '--output', two, '--json', '--', 'select 1']);
    expect(JSON.parse(json.stdout)).toMatchObject({ selected: 1, done: 1, missing: 0, file: two });
    const again = await each(['--output', one, '--', 'select 1']);
    expect(again).toMatchObject({ code: 4, stderr: expect.stringContaining('exists already') as string });
  });

  it('writes for real only with --yes or an answer, and shows the dry run', LONG, async () => {
    await oneProductEach();
    const args = ['--write', '--output', newFile()];
    const text = 'update products set price = price + 1';
    const without = await each([...args, '--', text]);
    expect(without).toMatchObject({ code: 2, stdout: '' });
    expect(without.stderr).toMatch(/^each-0 +1$/m);
    expect(without.stderr).toContain('The dry run changed 12 rows of 12 tenants');
    expect(new Set(await prices())).toEqual(new Set(['10.00']));
    const ran = await each(['--write', '--yes', '--resume', args[2] ?? '', '--', text]);
    expect({ code: ran.code, prices: new Set(await prices()) }).toEqual({ code: 0, prices: new Set(['11.00']) });
  });

  it('ends in order at Ctrl-C: it says what is missing, and leaves no role', LONG, async () => {
    const running = startTenantry(['each', '--at-once', '1', '--', 'select pg_sleep(1)'], env);
    await eventually('a role of the run', async () => (await guestsOf(service.app.engine)).length > 0, 60_000);
    running.signal('SIGINT');
    const { code, stderr } = await running.ended;
    expect(code).toBe(130);
    expect(stderr).toMatch(/^Interrupted: \d+ of 12 tenants are done, \d+ are missing\.\n$/);
    expect(await guestsOf(service.app.engine)).toEqual([]);
  });

  it('is continued after kill -9: no tenant answers twice, and what the process left is gone', LONG, async () => {
    const file = newFile();
    const text = 'select pg_sleep(1), count(*) from products';
    const killed = startTenantry(['each', '--at-once', '2', '--output', file, '--', text], env);
    await eventually('some lines', async () => (await linesOf(file)).length > 2, 60_000);
    killed.signal('SIGKILL');
    expect((await killed.ended).code).toBeNull();
    expect(await guestsOf(service.app.engine)).toHaveLength(1);
    const before = await linesOf(file);
    expect(before.length).toBeLessThan(12);
    expect(await each(['--resume', file, '--', text])).toMatchObject({ code: 0 });
    const lines = await linesOf(file);
    expect(lines).toHaveLength(12);
    expect(new Set(lines.map(({ tenant }) => tenant))).toEqual(new Set(ids.values()));
    expect(await guestsOf(service.app.engine)).toEqual([]);
    for (const id of ids.values()) {
      const { dbName } = await rowOf(service, { id });
      const { rows } = await asSuperuser(dbName, (db) =>
        sql`select from pg_class where relacl::text like '%tenantry_each_%'
          union all select from pg_database where datname = ${dbName} and datacl::text like '%tenantry_each_%'`.execute(
          db,
        ),
      );
      expect(rows).toEqual([]);
    }
  });

  it('changes each tenant once, also if it is killed -9 while it changes them', LONG, async () => {
    await oneProductEach();
    const file = newFile();
    const text = 'update products set price = price + 1 where pg_sleep(0.05) is not null';
    const args = ['each', '--write', '--yes', '--at-once', '2'];
    let ran = startTenantry([...args, '--output', file, '--', text], env);
    for (const wanted of [1, 5]) {
      await eventually(
        'another COMMIT',
        async () => (await linesOf(file)).filter((line) => 'committing' in line).length >= wanted,
        60_000,
      );
      ran.signal('SIGKILL');
      expect((await ran.ended).code).toBeNull();
      ran = startTenantry([...args, '--resume', file, '--', text], env);
    }
    expect(await ran.ended).toMatchObject({ code: 0 });
    expect(await prices()).toEqual(SLUGS.map(() => '11.00'));
    expect(await guestsOf(service.app.engine)).toEqual([]);
  });
});

describe.skipIf(isMissing('script'))(`tenantry each on a terminal${skipNote('script')}`, () => {
  it('shows a table, and asks before it changes anything', LONG, async () => {
    await oneProductEach();
    const read = tenantryOnTerminal("each --tenants each-0 -- 'select name from products'", env);
    expect(await read.ended).toBe(0);
    expect(read.text).toMatch(/^each-0 +1 +\{"name":"Lamp"\}$/m);
    const file = newFile();
    const write = tenantryOnTerminal(`each --write --output ${file} -- 'update products set price = 12'`, env);
    await write.shows('Change them for real? [y/N] ');
    expect(new Set(await prices())).toEqual(new Set(['10.00']));
    write.type('y\r');
    expect(await write.ended).toBe(0);
    expect(new Set(await prices())).toEqual(new Set(['12.00']));
  });

  it('ends with 130 when Ctrl-C answers the question, and changes nothing', LONG, async () => {
    await oneProductEach();
    const terminal = tenantryOnTerminal(`each --write --output ${newFile()} -- 'delete from products'`, env);
    await terminal.shows('[y/N] ');
    terminal.type('\u0003');
    expect(await terminal.ended).toBe(130);
    expect(await prices()).toHaveLength(12);
    expect(await guestsOf(service.app.engine)).toEqual([]);
  });
});
