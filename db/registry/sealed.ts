// Queries on all ciphertext of the registry, in any table: the key of each, and sealing again with another key.
import { sql, type Kysely, type RawBuilder } from 'kysely';
import type { Registry } from './registry-schema.js';

/** The columns that hold ciphertext. */
export const sealedColumns = [
  'tenants.db_password',
  'tenants.next_db_password',
  'standby_databases.db_password',
  'clusters.provisioner_password',
] as const;
export type SealedColumn = (typeof sealedColumns)[number];

/** A ciphertext with the values that it is bound to. */
export interface SealedValue {
  readonly id: string;
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly sealed: string;
}

export interface SealedCount {
  /** Null for a value that is not an envelope. */
  readonly kid: string | null;
  readonly rows: number;
}

/**
 * The key's id, if the value has the shape of an envelope. A password that an operator wrote here by hand must not be shown. A
 * match without parentheses, in the collation of bytes, takes a third of the time of `substring`.
 */
const kidOf = (sealed: RawBuilder<unknown>): RawBuilder<string | null> =>
  sql`case
    when ${sealed} collate "C" ~ '^v1[.][A-Za-z0-9_-]{1,32}[.][A-Za-z0-9_-]+[.][A-Za-z0-9_-]*[.][A-Za-z0-9_-]+$'
    then split_part(${sealed}, '.', 2) end`;

/** How many ciphertexts each key has. */
export async function countSealed(db: Kysely<Registry>): Promise<SealedCount[]> {
  const all = sql.join(
    sealedColumns.map((column) => {
      const [table, name] = partsOf(column);
      return sql`select ${kidOf(sql.ref(name))} as kid from ${sql.table(table)} where ${sql.ref(name)} is not null`;
    }),
    sql` union all `,
  );
  const { rows } = await sql<SealedCount>`
    select kid, count(*)::int as rows from (${all}) counted group by kid order by kid`.execute(db);
  return rows;
}

/** The columns that are read from a locked row, which is named `row`. A standby database has the host and port of its cluster. */
const locked: Readonly<Record<'tenants' | 'standby_databases' | 'clusters', RawBuilder<unknown>>> = {
  tenants: sql`row.db_host as host, row.db_port as port, row.db_user as "user" from tenants as row`,
  // A cluster keeps its place while any standby database is on it (src/operations/register-cluster.ts).
  standby_databases: sql`c.host, c.port, row.db_user as "user"
    from standby_databases as row join clusters as c on c.id = row.cluster_id`,
  clusters: sql`row.host, row.port, row.provisioner_user as "user" from clusters as row`,
};

/**
 * Locks rows until the transaction ends, in order of id, and returns their ciphertext. Rows that another transaction has locked
 * are left out: the next run finds them.
 *
 * The ciphertext is read from the locked row itself. If the row changed after the statement began, PostgreSQL reads only that
 * row again: a joined copy of it would still hold the old password.
 *
 * @param kids the keys whose ciphertext is wanted
 */
export async function lockSealed(
  trx: Kysely<Registry>,
  column: SealedColumn,
  { kids, after, limit }: { kids: readonly string[]; after: string | undefined; limit: number },
): Promise<SealedValue[]> {
  const [table, name] = partsOf(column);
  const sealed = sql.ref(`row.${name}`);
  const { rows } = await sql<SealedValue>`
    select row.id, ${sealed} as sealed, ${locked[table]}
    where ${kidOf(sealed)} = any(${kids}) and row.id > coalesce(${after ?? null}::uuid, '00000000-0000-0000-0000-000000000000')
    order by row.id limit ${limit} for no key update of row skip locked`.execute(trx);
  return rows;
}

/**
 * Writes the same secrets in new envelopes, if the column still holds the ciphertext that was read. No change is published,
 * because the secrets stay the same.
 *
 * @param values `was` is the ciphertext that was read, `sealed` its replacement
 * @returns how many rows were written
 */
export async function reseal(
  trx: Kysely<Registry>,
  column: SealedColumn,
  values: readonly { readonly id: string; readonly was: string; readonly sealed: string }[],
): Promise<number> {
  const [table, name] = partsOf(column);
  // The trigger that counts epochs (migration 0010) reads this setting, until the end of the transaction.
  await sql`select set_config('tenantry.resealing', 'on', true)`.execute(trx);
  const given = (key: keyof (typeof values)[number]): string[] => values.map((value) => value[key]);
  const { numAffectedRows } = await sql`
    update ${sql.table(table)} as row set ${sql.ref(name)} = given.sealed
    from unnest(${given('id')}::uuid[], ${given('was')}::text[], ${given('sealed')}::text[]) as given (id, was, sealed)
    where row.id = given.id and ${sql.ref(`row.${name}`)} = given.was`.execute(trx);
  return Number(numAffectedRows ?? 0);
}

/** The key to seal everything with, as set by the replica that started last. */
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

function partsOf(column: SealedColumn): [table: keyof typeof locked, name: string] {
  return column.split('.') as ReturnType<typeof partsOf>;
}
