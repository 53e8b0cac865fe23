import { sql, type Kysely } from 'kysely';

export const transaction = false;

export async function up(db: Kysely<unknown>): Promise<void> {
  await makeNormal(db);
  await index(db, 'products_category_created_at_id', sql`products (category, created_at, id)`);
  await index(db, 'products_active_created_at_id', sql`products (active, created_at, id)`);
  await index(db, 'users_active_created_at_id', sql`users (active, created_at, id)`);
  // Replaced by products_category_created_at_id.
  await sql`drop index concurrently if exists products_category`.execute(db);
  const trigrams = await trigramsOf(db);
  if (!trigrams) return;
  await index(db, 'products_search', sql`products using gin (name ${trigrams}, description ${trigrams})`);
  await index(
    db,
    'users_search',
    sql`users using gin (email ${trigrams}, first_name ${trigrams}, last_name ${trigrams})`,
  );
}

/** The interrupted build of an index leaves an index that is not valid. */
async function index(db: Kysely<unknown>, name: string, on: ReturnType<typeof sql>): Promise<void> {
  await sql`drop index concurrently if exists ${sql.id(name)}`.execute(db);
  await sql`create index concurrently ${sql.id(name)} on ${on}`.execute(db);
}

/** The operator class. Without it the search works too, and reads every row: not every server has the extension. */
async function trigramsOf(db: Kysely<unknown>): Promise<ReturnType<typeof sql> | undefined> {
  await sql`
    do $do$ begin
      if exists (select from pg_available_extensions where name = 'pg_trgm') then
        create extension if not exists pg_trgm with schema public;
      end if;
    exception when insufficient_privilege or feature_not_supported then
      raise notice 'pg_trgm is not made: %', sqlerrm;
    end $do$`.execute(db);
  // An adopted database may have it in another schema.
  const { rows } = await sql<{ schema: string }>`
    select nspname as schema from pg_opclass join pg_namespace on pg_namespace.oid = opcnamespace
    where opcname = 'gin_trgm_ops' limit 1`.execute(db);
  return rows[0] && sql`${sql.id(rows[0].schema, 'gin_trgm_ops')}`;
}

/**
 * The API accepts text in the normal form NFC only. What is stored in another form could not be found, and a SKU would exist twice.
 * A SKU whose normal form is taken stays as it is.
 */
async function makeNormal(db: Kysely<unknown>): Promise<void> {
  for (const [table, columns] of Object.entries({
    products: ['name', 'description', 'sku', 'category'],
    users: ['first_name', 'last_name'],
    roles: ['description'],
  }))
    for (const column of columns)
      await sql`
        do $do$
        declare found uuid;
        begin
          if current_setting('server_encoding') <> 'UTF8' then return; end if;
          for found in select id from ${sql.table(table)} where ${sql.ref(column)} is not nfc normalized loop
            begin
              update ${sql.table(table)} set ${sql.ref(column)} = normalize(${sql.ref(column)}, nfc) where id = found;
            exception when unique_violation then null;
            end;
          end loop;
        end $do$`.execute(db);
}
