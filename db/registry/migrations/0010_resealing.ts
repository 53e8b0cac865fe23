import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // A password that is sealed anew is still the same one: a transaction that does nothing else says so, or else a change of
  // keys would make every replica build every pool anew. By the trigger's condition, so that its function stays what it is.
  await sql`drop trigger tenants_next_epoch on tenants`.execute(db);
  await sql`
    create trigger tenants_next_epoch before update on tenants
    for each row when (coalesce(current_setting('tenantry.resealing', true), '') <> 'on')
    execute function tenants_next_epoch()`.execute(db);

  // Which key everything is to be sealed with: the current one of the replica that started last. While replicas are replaced
  // one after the other, those before would seal back what those after have sealed.
  await sql`alter table installation add column encryption_kid text`.execute(db);
}
