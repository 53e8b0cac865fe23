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

/** Rows in one transaction: they are locked until it ends, and each is a subtransaction, of which PostgreSQL keeps 64 in memory. */
const AT_ONCE = 50;

/**
 * The API accepts text in the normal form NFC only. What is stored in another form could not be found, and a SKU would exist twice.
 * A text whose normal form is taken or too long stays as it is.
 */
async function makeNormal(db: Kysely<unknown>): Promise<void> {
  const { rows } = await sql<{ encoding: string }>`select current_setting('server_encoding') as encoding`.execute(db);
  // NFC is defined only for UTF-8.
  if (rows[0]?.encoding !== 'UTF8') return;
  for (const [table, columns] of Object.entries({
    products: ['name', 'description', 'sku', 'category'],
    users: ['first_name', 'last_name'],
    roles: ['description'],
  }))
    for (const column of columns) {
      let after = '00000000-0000-0000-0000-000000000000';
      for (;;) {
        const { rows: found } = await sql<{ id: string }>`
          select id::text as id from ${sql.table(table)}
          where ${sql.ref(column)} is not nfc normalized and id > ${after}::uuid order by id limit ${AT_ONCE}`.execute(
          db,
        );
        const last = found.at(-1);
        if (!last) break;
        after = last.id;
        await normalizeRows(
          db,
          table,
          column,
          found.map(({ id }) => id),
        );
      }
    }
}

async function normalizeRows(
  db: Kysely<unknown>,
  table: string,
  column: string,
  ids: readonly string[],
): Promise<void> {
  await sql`
    do $do$
    declare found uuid;
    begin
      foreach found in array ${sql.lit(`{${ids.join(',')}}`)}::uuid[] loop
        begin
          update ${sql.table(table)} set ${sql.ref(column)} = normalize(${sql.ref(column)}, nfc) where id = found;
        exception when unique_violation or check_violation then null;
        end;
      end loop;
    end $do$`.execute(db);
}
