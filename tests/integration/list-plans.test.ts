// Every sort and every filter of a list has an index. A new one without an index fails here, and not with the first large tenant.
import {
  DummyDriver,
  Kysely,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
  sql,
  type CompiledQuery,
} from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { statementName } from '../../db/driver/statement-names.js';
import { listClusters, clusterSorts } from '../../db/registry/cluster-queries.js';
import { listOperations } from '../../db/registry/operations/operation-lists.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { listTenants, tenantSorts } from '../../db/registry/tenant-queries.js';
import type { Position } from '../../db/shared/keyset.js';
import { listProducts, productSorts } from '../../db/tenant/product-queries.js';
import { listRoles, roleSorts } from '../../db/tenant/role-queries.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { listUsers, userSorts } from '../../db/tenant/user-queries.js';
import { asSuperuser, startService, type TestService, type TestTenant } from '../support/app.js';
import { rowOf } from '../support/tenants.js';

let service: TestService;
let tenant: TestTenant;
let database: string;

/** So many rows that PostgreSQL has a reason to use an index. */
const ROWS = 3_000;

beforeAll(async () => {
  service = await startService();
  tenant = await service.createTenant();
  ({ dbName: database } = await rowOf(service, tenant));
  await asSuperuser(database, async (db) => {
    await sql`
      insert into products (id, name, description, price, stock_quantity, active, category, created_at, updated_at)
      select gen_random_uuid(), 'Lamp ' || n, 'Number ' || n, n, n, n > 10, case when n > 10 then 'new' else 'old' end,
        now() - (${ROWS} - n) * interval '1 minute', now() - n * interval '1 minute'
      from generate_series(1, ${ROWS}) as n`.execute(db);
    await sql`
      insert into users (id, email, password, first_name, last_name, active, created_at)
      select gen_random_uuid(), 'user-' || n || '@example.com', '', 'Uma', 'User ' || n, n > 10,
        now() - (${ROWS} - n) * interval '1 minute'
      from generate_series(1, ${ROWS}) as n`.execute(db);
    await sql`insert into user_roles select users.id, roles.id from users, roles where roles.name = 'member'`.execute(
      db,
    );
    await sql`analyze`.execute(db);
  });
});
afterAll(() => service.close());

const ID = '01900000-0000-7000-8000-0000000000aa';

/** The statements that a list sends. Nothing is found, except a role's id. */
async function statementsOf<DB>(list: (db: Kysely<DB>) => Promise<unknown>): Promise<CompiledQuery[]> {
  const statements: CompiledQuery[] = [];
  class Driver extends DummyDriver {
    override async acquireConnection(): ReturnType<DummyDriver['acquireConnection']> {
      return {
        executeQuery: async (query: CompiledQuery) => {
          if (query.sql.startsWith('select "id" from "roles"')) return { rows: [{ id: ID }] as never[] };
          statements.push(query);
          return { rows: [] };
        },
        // eslint-disable-next-line require-yield
        streamQuery: async function* () {
          throw new Error('not used');
        },
      };
    }
  }
  const db = new Kysely<DB>({
    dialect: {
      createAdapter: () => new PostgresAdapter(),
      createDriver: () => new Driver(),
      createIntrospector: (of) => new PostgresIntrospector(of),
      createQueryCompiler: () => new PostgresQueryCompiler(),
    },
  });
  await list(db);
  return statements;
}

/** The plan as text. Small tables would be read from their beginning. */
async function planOf(query: CompiledQuery | undefined, off: 'seqscan' | 'bitmapscan'): Promise<string> {
  if (!query) throw new Error('the list has sent no statement');
  const { sql: text, parameters } = query;
  return asSuperuser(database, (db) =>
    db.transaction().execute(async (trx) => {
      await sql`set local enable_seqscan = off`.execute(trx);
      if (off === 'bitmapscan') await sql`set local enable_bitmapscan = off`.execute(trx);
      const { rows } = await trx.executeQuery<{ 'QUERY PLAN': string }>({
        ...sql.raw(`explain (costs off) ${text}`).compile(trx),
        parameters,
      });
      return rows.map((row) => row['QUERY PLAN']).join('\n');
    }),
  );
}

/** The names of the parameters that filter a list, in the description of the API. */
async function filtersOf(path: string): Promise<string[]> {
  const { body } = await service.send<{
    paths: Record<string, { get: { parameters: { name: string; in: string }[] } }>;
  }>('GET', '/docs/json');
  const parameters = body.paths[path]?.get.parameters ?? [];
  return parameters
    .filter((parameter) => parameter.in === 'query' && !['limit', 'cursor', 'sort'].includes(parameter.name))
    .map(({ name }) => name)
    .sort();
}

interface Order {
  readonly sort: never;
  readonly direction: 'asc' | 'desc';
  readonly after: Position | undefined;
  readonly limit: number;
}

const lists = [
  {
    path: '/products',
    table: 'products',
    sorts: productSorts,
    list: (db: Kysely<TenantDatabase>, page: Order & object) => listProducts(db, page),
    filters: {
      search: ['number', 'products_search'],
      active: [false, 'products_active_created_at_id'],
      category: ['old', 'products_category_created_at_id'],
      minPrice: ['2999', 'products_price_id'],
      maxPrice: ['2', 'products_price_id'],
      maxStock: [2, 'products_stock_quantity_id'],
    },
  },
  {
    path: '/users',
    table: 'users',
    sorts: userSorts,
    list: (db: Kysely<TenantDatabase>, page: Order & object) => listUsers(db, page),
    filters: {
      search: ['user-29', 'users_search'],
      active: [false, 'users_active_created_at_id'],
      role: ['admin', 'users_pkey'],
    },
  },
] as const;

/** A position in the middle of the list, for each type. */
const positions = { timestamptz: '2026-01-31T09:30:00.000Z', text: 'm', numeric: '1500', integer: '1500' } as const;

describe.each(lists)('the list $path', ({ path, table, sorts, list, filters }) => {
  const orders = Object.entries<{ readonly type: keyof typeof positions }>(sorts).flatMap(([sort, { type }]) =>
    (['asc', 'desc'] as const).flatMap((direction) =>
      [undefined, [positions[type], ID] as const].map((after) => ({
        sort: sort as never,
        direction,
        after,
        limit: 21,
      })),
    ),
  );

  it('reads a page without filters in the order of an index', async () => {
    for (const order of orders) {
      const [page] = await statementsOf<TenantDatabase>((db) => list(db, order));
      const plan = await planOf(page, 'bitmapscan');
      expect(plan, JSON.stringify(order)).toMatch(new RegExp(`Index (Only )?Scan (Backward )?using ${table}_`));
      // A unique column alone is an order too: the id only decides between equal values, by an incremental sort.
      const [main = ''] = plan.split('SubPlan');
      expect(main.replaceAll(/Incremental Sort|Sort Key/g, ''), JSON.stringify(order)).not.toContain('Sort');
    }
  });

  it('knows an index for each filter that the API describes', async () => {
    expect(Object.keys(filters).sort()).toEqual(await filtersOf(path));
  });

  it.each(Object.entries<readonly [unknown, string]>(filters))(
    'with the filter %s reads a bounded number of rows in its order, and then what matches by an index',
    async (filter, [value, index]) => {
      for (const order of orders) {
        const statements = await statementsOf<TenantDatabase>((db) => list(db, { ...order, [filter]: value }));
        expect(statements).toHaveLength(2);
        const [near, rest] = statements as [CompiledQuery, CompiledQuery];
        expect(near.parameters).toContain(100 * order.limit);
        const walked = await planOf(near, 'bitmapscan');
        expect(walked, JSON.stringify(order)).toMatch(new RegExp(`Index (Only )?Scan (Backward )?using ${table}_`));
        const found = await planOf(rest, 'seqscan');
        expect(found, JSON.stringify(order)).not.toMatch(new RegExp(`Seq Scan on ${table}\\b`));
        if (order.after === undefined) expect(found, JSON.stringify(order)).toContain(index);
      }
    },
  );
});

describe('a list with filters', () => {
  it('is planned for its values each time: what was asked before on a connection makes no difference', async () => {
    const order = { direction: 'desc', limit: 21, after: undefined } as const;
    const sent = [
      ...(await statementsOf<TenantDatabase>((db) =>
        listProducts(db, { ...order, sort: 'createdAt', category: 'old', search: 'lamp' }),
      )),
      ...(await statementsOf<TenantDatabase>((db) => listUsers(db, { ...order, sort: 'email', role: 'admin' }))),
      ...(await statementsOf<TenantDatabase>((db) => listRoles(db, { ...order, sort: 'name', search: 'a' }))),
      ...(await statementsOf<Registry>((db) => listTenants(db, { ...order, sort: 'name', search: 'a' }))),
      ...(await statementsOf<Registry>((db) => listClusters(db, { ...order, sort: 'createdAt', region: 'eu' }))),
      ...(await statementsOf<Registry>((db) => listOperations(db, { ...order, kind: 'adopt' }))),
    ];
    expect(sent.map(({ sql: text }) => statementName(text))).toEqual(Array(8).fill(undefined));
    const [unfiltered] = await statementsOf<TenantDatabase>((db) => listProducts(db, { ...order, sort: 'createdAt' }));
    expect(statementName(unfiltered?.sql ?? '')).toMatch(/^[\w-]{22}$/);
  });

  it('finds rows that are far from the page’s beginning, and continues after each of them', async () => {
    for (const query of ['category=old', 'search=number', 'active=false&search=lamp', 'maxPrice=10'])
      for (const sort of ['createdAt', '-createdAt', 'updatedAt', '-name', 'price', '-stockQuantity']) {
        const prices: number[] = [];
        let next = '';
        for (let page = 0; page < 4; page += 1) {
          const { status, body, text } = await service.send<{ data: { price: string }[]; nextCursor: string | null }>(
            'GET',
            `/products?limit=3&sort=${sort}&${query}&maxStock=10${next}`,
            { token: tenant.adminToken },
          );
          expect(status, text).toBe(200);
          prices.push(...body.data.map(({ price }) => Number(price)));
          next = `&cursor=${body.nextCursor ?? ''}`;
        }
        expect(
          prices.toSorted((one, other) => one - other),
          `${sort} ${query}`,
        ).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
      }
  });
});

describe('the other lists', () => {
  it('have an index for each of their sorts', async () => {
    const leading = async (of: string): Promise<string[]> =>
      asSuperuser(of, async (db) => {
        const { rows } = await sql<{ name: string }>`
          select indrelid::regclass || '.' || attname as name from pg_index
            join pg_attribute on attrelid = indrelid and attnum = indkey[0]
          where indisvalid and indpred is null`.execute(db);
        return rows.map(({ name }) => name);
      });
    const [own, central] = [await leading(database), await leading(service.config.registry.connection.database)];
    for (const { column } of Object.values(roleSorts)) expect(own).toContain(column);
    for (const { column } of Object.values(tenantSorts)) expect(central).toContain(`tenants.${column}`);
    for (const { column } of Object.values(clusterSorts)) expect(central).toContain(`clusters.${column}`);
  });
});
