import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // A password that is sealed again is still the same password. The transaction that only seals sets tenantry.resealing;
  // otherwise a change of keys would make every replica build every pool again. The trigger's condition checks the setting, so
  // that its function stays unchanged.
  await sql`drop trigger tenants_next_epoch on tenants`.execute(db);
  await sql`
    create trigger tenants_next_epoch before update on tenants
    for each row when (coalesce(current_setting('tenantry.resealing', true), '') <> 'on')
    execute function tenants_next_epoch()`.execute(db);

  // The key to seal everything with: the current key of the replica that started last. While replicas are replaced one by one,
  // older replicas would otherwise seal back what newer replicas have sealed.
  await sql`alter table installation add column encryption_kid text`.execute(db);
}
