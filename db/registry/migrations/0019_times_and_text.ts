import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const [table, columns] of Object.entries({
    operators: ['created_at', 'updated_at'],
    tenants: ['created_at', 'updated_at', 'deleted_at'],
    clusters: ['created_at', 'updated_at'],
    sessions: ['created_at', 'refreshed_at', 'expires_at'],
    operations: ['not_before', 'created_at', 'updated_at', 'ended_at'],
    audit: ['at'],
  })) {
    const conditions = columns.map(
      (column) =>
        sql`${sql.ref(column)} >= '0001-01-01 00:00:00+00' and ${sql.ref(column)} < '10000-01-01 00:00:00+00'`,
    );
    // Not valid for the rows that are there, which can still be read.
    await sql`
      alter table ${sql.table(table)} drop constraint if exists ${sql.id(`${table}_times_in_range`)},
        add constraint ${sql.id(`${table}_times_in_range`)} check (${sql.join(conditions, sql` and `)}) not valid`.execute(
      db,
    );
  }
  // The API accepts text in the normal form NFC only: a name in another form could not be found. A name whose normal form is taken or
  // too long stays as it is. NFC is defined only for UTF-8.
  for (const table of ['tenants', 'clusters'])
    await sql`
      do $do$
      declare found uuid;
      begin
        if current_setting('server_encoding') <> 'UTF8' then return; end if;
        for found in select id from ${sql.table(table)} where name is not nfc normalized loop
          begin
            update ${sql.table(table)} set name = normalize(name, nfc) where id = found;
          exception when unique_violation or check_violation then null;
          end;
        end loop;
      end $do$`.execute(db);
}
