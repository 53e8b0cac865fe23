import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table slot_leases (
      cluster text not null,
      kind text not null check (kind in ('tenants', 'reserve')),
      replica_id text not null check (length(replica_id) between 1 and 100),
      budget integer not null check (budget >= 0),
      slots integer not null check (slots >= 0),
      wanted integer not null check (wanted >= 0),
      renewed_at timestamptz not null,
      primary key (cluster, kind, replica_id)
    )`.execute(db);
  // A replica renews all its leases in one statement a second.
  await sql`create index slot_leases_replica_id on slot_leases (replica_id)`.execute(db);
}
