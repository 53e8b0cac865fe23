// Fills one tenant's database with as many rows as a large tenant has.
import { sql, type Kysely } from 'kysely';
import { progress } from '../report.js';

export const BIG = { products: 500_000, users: 100_000, categories: 50, oldProducts: 10_000, admins: 3 } as const;

/** The category of the oldest products. */
export const OLD_CATEGORY = 'antiques';

const ADMIN = '01900000-0000-7000-8000-000000000001';
const MEMBER = '01900000-0000-7000-8000-000000000002';

/** Words of three syllables: 4,096 different ones. */
const WORD = sql`
  create function pg_temp.word(seed bigint) returns text language sql immutable
    return (array['ba','cor','dun','el','fi','gra','ho','il','ju','kel','la','mo','nis','or','pre','qua'])[
        1 + (hashint8(seed) & 15)] ||
      (array['ba','cor','dun','el','fi','gra','ho','il','ju','kel','la','mo','nis','or','pre','qua'])[
        1 + ((hashint8(seed) >> 4) & 15)] ||
      (array['ba','cor','dun','el','fi','gra','ho','il','ju','kel','la','mo','nis','or','pre','qua'])[
        1 + ((hashint8(seed) >> 8) & 15)]`;

/** What the building of the indexes for searches took. */
export interface Filled {
  /** s */
  readonly indexing: number;
  /** MiB: the table of products, and its index for searches. */
  readonly table: number;
  readonly index: number;
}

/**
 * @param db one connection to the tenant's database, as its owner
 * @param reader the e-mail address of the user who reads the lists
 */
export async function fillBigTenant(db: Kysely<unknown>, passwordHash: string, reader: string): Promise<Filled> {
  await WORD.execute(db);
  // Filled without the indexes for searches, which are built afterwards, as in a database that is there already.
  await sql`drop index products_search, users_search`.execute(db);
  await sql`delete from products`.execute(db);
  const { products, users, categories, oldProducts, admins } = BIG;
  progress(`filling the tenant with ${products} products and ${users} users`);
  await sql`
    insert into products (id, name, description, price, stock_quantity, active, sku, category, created_at, updated_at)
    select gen_random_uuid(), initcap(pg_temp.word(n * 8 + 1)) || ' ' || pg_temp.word(n * 8 + 2) || ' lamp ' || n,
      case when n % 4 > 0 then 'A ' || pg_temp.word(n * 8 + 3) || ' ' || pg_temp.word(n * 8 + 4) || ' with ' ||
        pg_temp.word(n * 8 + 5) || case when n % 1000 = 0 then ' of brushed steel' else '' end || ', ships in two days.' end,
      (abs(hashint8(n)::bigint) % 100000) / 100.0, abs(hashint8(n * 3)::bigint) % 1000,
      n > ${sql.lit(oldProducts)} or n % 2 = 0, 'SKU-' || n,
      case when n <= ${sql.lit(oldProducts)} then ${sql.lit(OLD_CATEGORY)} else 'category-' || n % ${sql.lit(categories)} end,
      now() - (${sql.lit(products)} - n) * interval '1 minute',
      now() - (abs(hashint8(n * 5)::bigint) % ${sql.lit(products)}) * interval '1 minute'
    from generate_series(1, ${sql.lit(products)}) as n`.execute(db);
  await sql`
    insert into users (id, email, password, first_name, last_name, active, created_at)
    select gen_random_uuid(), 'person-' || n || '@' || pg_temp.word(n) || '.example', ${passwordHash},
      initcap(pg_temp.word(n * 4 + 1)), initcap(pg_temp.word(n * 4 + 2)), n > 1000 or n % 2 = 0,
      now() - (${sql.lit(users)} - n) * interval '1 minute'
    from generate_series(1, ${sql.lit(users)}) as n`.execute(db);
  await sql`
    insert into user_roles (user_id, role_id) select id, ${MEMBER}::uuid from users on conflict do nothing`.execute(db);
  await sql`
    insert into user_roles (user_id, role_id)
      select id, ${ADMIN}::uuid from users order by created_at limit ${sql.lit(admins)} on conflict do nothing`.execute(
    db,
  );
  await sql`
    insert into user_roles (user_id, role_id) select id, ${ADMIN}::uuid from users where email = ${reader}`.execute(db);
  await sql`vacuum analyze`.execute(db);
  progress('building the indexes for searches');
  const begun = performance.now();
  await sql`
    create index concurrently products_search on products using gin (name gin_trgm_ops, description gin_trgm_ops)`.execute(
    db,
  );
  const indexing = (performance.now() - begun) / 1_000;
  await sql`
    create index concurrently users_search on users
      using gin (email gin_trgm_ops, first_name gin_trgm_ops, last_name gin_trgm_ops)`.execute(db);
  await sql`checkpoint`.execute(db);
  const { rows } = await sql<{ table: number; index: number }>`
    select pg_table_size('products') / 1048576.0::float8 as table,
      pg_relation_size('products_search') / 1048576.0::float8 as index`.execute(db);
  return { indexing, table: rows[0]?.table ?? NaN, index: rows[0]?.index ?? NaN };
}

/** What a write costs with the indexes of lists with filters, over what it costs without them. */
export interface WriteCosts {
  readonly create: number;
  readonly update: number;
}

/** Writes of each measurement, one transaction each, as the service writes. */
const WRITES = 500;
const BATCHES = 5;

/** Measures the writes, removes the indexes that the migration 0013 added, and measures again. Run it last. */
export async function measureWrites(db: Kysely<unknown>): Promise<WriteCosts> {
  const withIndexes = await writesOf(db);
  await sql`drop index products_search, products_active_created_at_id, products_category_created_at_id`.execute(db);
  await sql`create index products_category on products (category)`.execute(db);
  const without = await writesOf(db);
  return { create: withIndexes.create / without.create, update: withIndexes.update / without.update };
}

/** Median time (ms) of a batch. */
async function writesOf(db: Kysely<unknown>): Promise<WriteCosts> {
  const ids = await sql<{ id: string }>`
    select id from products order by name limit ${sql.lit(WRITES * BATCHES)}`.execute(db);
  const creates: number[] = [];
  const updates: number[] = [];
  for (let batch = 0; batch < BATCHES; batch += 1) {
    let begun = performance.now();
    for (let n = 0; n < WRITES; n += 1)
      await sql`
        insert into products (id, name, description, price, category)
        values (gen_random_uuid(), ${`Bench lamp ${batch}-${n}`},
          'Made by the benchmark, with a description as long as one that somebody typed.', 9.99, 'category-1')`.execute(
        db,
      );
    creates.push(performance.now() - begun);
    begun = performance.now();
    for (const { id } of ids.rows.slice(batch * WRITES, (batch + 1) * WRITES))
      await sql`update products set price = price + 0.01, updated_at = now() where id = ${id}`.execute(db);
    updates.push(performance.now() - begun);
  }
  const middle = (times: number[]): number => times.toSorted((one, other) => one - other)[BATCHES >> 1] ?? NaN;
  return { create: middle(creates), update: middle(updates) };
}
