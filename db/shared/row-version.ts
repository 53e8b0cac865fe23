// The version of a row, from which ETags are made (src/http/row-versions.ts).
//
// It is a hash of all columns, so every change makes another version, also a change by hand or by a former build. A counter would
// need a write and a migration, and would repeat its numbers after a restore to an earlier moment. The system column xmin would
// show a tenant how much the other tenants of its server write. Each column needs a type that PostgreSQL can hash: jsonb, not json.
import { sql, type AliasedRawBuilder, type RawBuilder } from 'kysely';

/** A row with its version. */
export interface Versioned {
  readonly rowVersion: string;
}

/** The versions that a change may replace; undefined for any version. */
export type ExpectedVersions = readonly string[] | undefined;

/**
 * The version of a row as the column `rowVersion`. Where a join or a list does not need it, leave it out.
 *
 *     db.selectFrom('orders').select([...columns, rowVersion('orders')])
 */
export function rowVersion(table: string): AliasedRawBuilder<string, 'rowVersion'> {
  return versionOf(table).as('rowVersion');
}

/**
 * The condition that a row has one of the versions. In the WHERE of an UPDATE or DELETE it is checked again on the newest version
 * of the row, after another transaction has changed it.
 */
export function hasVersion(table: string, expected: ExpectedVersions): RawBuilder<boolean> {
  return expected === undefined ? sql<boolean>`true` : sql<boolean>`${versionOf(table)} = any(${expected}::text[])`;
}

function versionOf(table: string): RawBuilder<string> {
  return sql<string>`to_hex(hash_record_extended(${sql.table(table)}, 0))`;
}
