// Queries on all ciphertext of the registry, whatever table it stands in: which key it is sealed with, and sealing it anew.
import { sql, type Kysely, type RawBuilder } from 'kysely';
import type { Registry } from './schema.js';

/** The columns that hold ciphertext. */
export const sealedColumns = [
  'tenants.db_password',
  'tenants.next_db_password',
  'standby_databases.db_password',
  'clusters.provisioner_password',
] as const;
export type SealedColumn = (typeof sealedColumns)[number];

/** A ciphertext with what it is bound to. */
export interface SealedValue {
  readonly id: string;
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly sealed: string;
}

export interface SealedCount {
  /** Null for what is no envelope. */
  readonly kid: string | null;
  readonly rows: number;
}

const tenant = sql`select id, db_host as host, db_port as port, db_user as "user"`;

/** Where each is read from; `row` is the one that it stands in. */
const sources: Readonly<Record<SealedColumn, RawBuilder<unknown>>> = {
  'tenants.db_password': sql`(${tenant}, db_password as sealed from tenants)`,
  'tenants.next_db_password': sql`(${tenant}, next_db_password as sealed from tenants where next_db_password is not null)`,
  'standby_databases.db_password': sql`(
    select s.id, c.host, c.port, s.db_user as "user", s.db_password as sealed
    from standby_databases s join clusters c on c.id = s.cluster_id)`,
  'clusters.provisioner_password': sql`(
    select id, host, port, provisioner_user as "user", provisioner_password as sealed from clusters)`,
};

/** The key's id. Only of what has the shape of an envelope: a password that somebody wrote here by hand must not be shown. */
const kidOf = sql`substring(sealed from '^v1\.([A-Za-z0-9_-]{1,32})\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+$')`;

/** How many ciphertexts there are of each key. */
export async function countSealed(db: Kysely<Registry>): Promise<SealedCount[]> {
  const all = sql.join(
    sealedColumns.map((column) => sql`select ${kidOf} as kid from ${sources[column]} s`),
    sql` union all `,
  );
  const { rows } = await sql<SealedCount>`
    select kid, count(*)::int as rows from (${all}) counted group by kid order by kid`.execute(db);
  return rows;
}

/**
 * Locks rows for as long as the transaction takes, by id, and answers their ciphertext. Those that somebody else has locked
 * are left out: they are found the next time.
 *
 * @param kids keys whose ciphertext is wanted
 */
export async function lockSealed(
  trx: Kysely<Registry>,
  column: SealedColumn,
  { kids, after, limit }: { kids: readonly string[]; after: string | undefined; limit: number },
): Promise<SealedValue[]> {
  const [table] = partsOf(column);
  const { rows } = await sql<SealedValue>`
    select s.id, s.host, s.port, s."user", s.sealed
    from ${sql.table(table)} as row join ${sources[column]} s on s.id = row.id
    where ${kidOf} = any(${kids}) and row.id > coalesce(${after ?? null}::uuid, '00000000-0000-0000-0000-000000000000')
    order by row.id limit ${limit} for update of row skip locked`.execute(trx);
  return rows;
}

/** Writes the same secrets in other envelopes. Nobody is told: for whoever uses them nothing changes. */
export async function reseal(
  trx: Kysely<Registry>,
  column: SealedColumn,
  values: readonly Pick<SealedValue, 'id' | 'sealed'>[],
): Promise<void> {
  const [table, name] = partsOf(column);
  // For the trigger that counts epochs (migration 0010), until the end of the transaction.
  await sql`select set_config('tenantry.resealing', 'on', true)`.execute(trx);
  await sql`
    update ${sql.table(table)} as row set ${sql.ref(name)} = given.sealed
    from unnest(${values.map(({ id }) => id)}::uuid[], ${values.map(({ sealed }) => sealed)}::text[]) as given (id, sealed)
    where row.id = given.id`.execute(trx);
}

/** The key that everything is to be sealed with, as the replica that started last said. */
export async function wantedKey(db: Kysely<Registry>): Promise<string | null> {
  const { encryption_kid: kid } = await db
    .selectFrom('installation')
    .select('encryption_kid')
    .executeTakeFirstOrThrow();
  return kid;
}

export async function setWantedKey(db: Kysely<Registry>, kid: string): Promise<void> {
  await db.updateTable('installation').set({ encryption_kid: kid }).execute();
}

function partsOf(column: SealedColumn): [table: string, name: string] {
  const [table = '', name = ''] = column.split('.');
  return [table, name];
}
