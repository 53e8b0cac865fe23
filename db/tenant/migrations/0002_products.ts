import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table products (
      id uuid primary key,
      name text not null,
      description text,
      price numeric(12, 2) not null check (price >= 0 and price <> 'NaN'),
      stock_quantity integer not null default 0 constraint products_stock_not_negative check (stock_quantity >= 0),
      active boolean not null default true,
      sku text constraint products_sku_key unique,
      category text,
      created_at timestamptz(3) not null default now(),
      updated_at timestamptz(3) not null default now()
    )`.execute(db);
  // Every sort that GET /products offers, with the id as the last key.
  for (const column of ['created_at', 'updated_at', 'name', 'price', 'stock_quantity']) {
    await sql`create index ${sql.id(`products_${column}_id`)} on products (${sql.ref(column)}, id)`.execute(db);
  }
  await sql`create index products_category on products (category)`.execute(db);
}
