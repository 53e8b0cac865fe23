// The queries that jobs repeat, on a registry with 10,000 tenants: none of them reads the whole table.
import { sql, type CompiledQuery, type Kysely } from 'kysely';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { listChangedTenants, type FeedPosition } from '../../db/registry/feed-rows.js';
import { knownDatabaseNames } from '../../db/registry/named.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { listTenantPlaces, listTenantsAt } from '../../db/registry/tenant-queries.js';
import {
  listConnectionLimits,
  listDoorRows,
  listRestoringTenants,
  listStorageLimits,
  listTenantsToPurge,
} from '../../db/registry/tenant-worklists.js';
import type { DatabaseHandle } from '../../db/driver/client.js';
import { connectTo, createRegistryIn } from '../support/service.js';

const DAY = 86_400_000;
const ID = '00000000-0000-0000-0000-000000000001';
const PLACE = { host: 'host-0', port: 5432 };

let registry: DatabaseHandle<Registry>;
let planned: CompiledQuery[];
/** Records each query before it runs. */
let db: Kysely<Registry>;

beforeAll(async () => {
  const cluster = inject('cluster');
  registry = connectTo<Registry>(cluster, await createRegistryIn(cluster));
  await sql`
    insert into tenants (id, name, slug, status, db_host, db_port, db_name, db_user, db_password, schema_version, claim,
      generation, deleted_at, status_before_deletion)
    select md5('t' || n)::uuid, 'Tenant ' || n, 'fleet-' || n, status, 'host-' || n % 2, 5432, 'tn_' || md5(n::text),
      'tn_' || md5(n::text), 'v1.test.a.b.c', '0001', gen_random_uuid(), 1, case when status = 'deleted' then now() end,
      case when status = 'deleted' then 'active' end
    from (select n, case when n < 400 then 'suspended' when n < 690 then 'deleted' else 'active' end as status
      from generate_series(1, 10000) n) numbered`.execute(registry.db);
  await sql`analyze`.execute(registry.db);
  db = registry.db.withPlugin({
    transformQuery: ({ node, queryId }) => {
      planned.push(registry.db.getExecutor().compileQuery(node, queryId));
      return node;
    },
    transformResult: async ({ result }) => result,
  });
});
afterAll(async () => {
  await registry.close(0);
});

/** The plan of the queries that `work` runs, as PostgreSQL makes it by default. */
async function planOf(work: (db: Kysely<Registry>) => Promise<unknown>): Promise<string> {
  planned = [];
  await work(db);
  expect(planned.length).toBeGreaterThan(0);
  const lines: string[] = [];
  for (const { sql: text, parameters } of planned) {
    const parts = text.split(/\$\d+/);
    const order = [...text.matchAll(/\$(\d+)/g)].map(([, number]) => parameters[Number(number) - 1]);
    const query = sql(parts as unknown as TemplateStringsArray, ...order);
    const { rows } = await sql<{ 'QUERY PLAN': string }>`explain ${query}`.execute(registry.db);
    lines.push(...rows.map((row) => row['QUERY PLAN']));
  }
  return lines.join('\n');
}

it.each<[string, (db: Kysely<Registry>) => Promise<unknown>]>([
  ['which names of databases have a row', (each) => knownDatabaseNames(each, ['tn_a', 'tn_b'])],
  ['the places of all tenants', listTenantPlaces],
  ['the tenants that are being restored', listRestoringTenants],
  [
    'a page of databases that must be open or closed',
    (each) => listDoorRows(each, { place: PLACE, after: 'tn_4', limit: 500 }),
  ],
  ['some tenants whose database must be open or closed', (each) => listDoorRows(each, { ids: [ID] })],
  ['the tenants of some databases of a place', (each) => listTenantsAt(each, PLACE, ['tn_a', 'tn_b'])],
  ['the tenants whose grace time is over', (each) => listTenantsToPurge(each, 30 * DAY, 20)],
  ['a page of limits on connections', (each) => listConnectionLimits(each, { after: ID, limit: 1_000 })],
  ['the limits of some tenants', (each) => listConnectionLimits(each, { ids: [ID] })],
  ['a page of own limits on storage', (each) => listStorageLimits(each, false, ID, 500)],
  ['a page of all limits on storage', (each) => listStorageLimits(each, true, undefined, 500)],
])('finds %s without reading all tenants', async (_what, work) => {
  const plan = await planOf(work);
  expect(plan).toMatch(/Index/);
  expect(plan).not.toMatch(/Seq Scan on tenants/);
});

it('finds every place, whatever the number of tenants at it', async () => {
  expect(await listTenantPlaces(db)).toEqual([
    { host: 'host-0', port: 5432 },
    { host: 'host-1', port: 5432 },
  ]);
});

it('reads page after page of a place in order of name, without the tenants that are being made or removed', async () => {
  await sql`update tenants set status = 'provisioning' where slug in ('fleet-1000', 'fleet-1002')`.execute(registry.db);
  const seen: string[] = [];
  let after = '';
  for (let pages = 0; pages < 12; pages += 1) {
    const page = await listDoorRows(db, { place: PLACE, after, limit: 500 });
    seen.push(...page.map(({ dbName }) => dbName));
    after = page.at(-1)?.dbName ?? '';
    if (page.length < 500) break;
  }
  expect(new Set(seen).size).toBe(4_998);
  expect(seen).toEqual([...seen].sort());
  await sql`update tenants set status = 'active' where slug in ('fleet-1000', 'fleet-1002')`.execute(registry.db);
});

describe('the tenants whose rows changed since an earlier reading', () => {
  const fill = sql`insert into changes (message) select 'user ' || gen_random_uuid() from generate_series(1, 20000)`;
  const idOf = async (slug: string): Promise<string | undefined> =>
    (await registry.db.selectFrom('tenants').select('id').where('slug', '=', slug).executeTakeFirst())?.id;
  const change = (slug: string, as: Kysely<Registry> = registry.db): Promise<unknown> =>
    sql`update tenants set status = 'suspended' where slug = ${slug}`.execute(as);

  it('are found by index, once', async () => {
    await fill.execute(registry.db);
    await sql`analyze changes`.execute(registry.db);
    const { position } = await listChangedTenants(db, undefined, 100);
    await change('fleet-2000');
    const plan = await planOf((each) => listChangedTenants(each, position, 100));
    expect(plan).toMatch(/changes_xid/);
    expect(plan).not.toMatch(/Seq Scan on (changes|tenants)/);
    const next = await listChangedTenants(db, position, 100);
    expect(next.ids).toEqual([await idOf('fleet-2000')]);
    expect((await listChangedTenants(db, next.position, 100)).ids).toEqual([]);
  });

  it('are found if their transaction began before that reading and ended after it', async () => {
    let position: FeedPosition | undefined;
    await registry.db.transaction().execute(async (trx) => {
      await change('fleet-2001', trx);
      ({ position } = await listChangedTenants(registry.db, undefined, 100));
    });
    expect((await listChangedTenants(db, position, 100)).ids).toEqual([await idOf('fleet-2001')]);
  });

  it('are all that the feed has, if the reading was of another server', async () => {
    await change('fleet-2002');
    const { position } = await listChangedTenants(db, undefined, 100);
    const other = { ...position, source: 'another server' };
    expect((await listChangedTenants(db, other, 100)).ids).toContain(await idOf('fleet-2002'));
  });
});

it('reads page after page of limits until there are no more', async () => {
  const seen = new Set<string>();
  let after: string | undefined;
  for (let pages = 0; pages < 12; pages += 1) {
    const page = await listConnectionLimits(db, { after, limit: 1_000 });
    for (const { id } of page) seen.add(id);
    after = page.at(-1)?.id;
    if (page.length < 1_000) break;
  }
  expect(seen.size).toBe(9_710);
});
