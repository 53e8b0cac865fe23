// SQL about guests: roles that log in for one run of `tenantry each` and are dropped after it. A guest owns nothing, is a member of
// nothing, and has only the rights that db/tenant/guest-rights.ts gives it in one tenant's database after the other.
import { setTimeout as delay } from 'node:timers/promises';
import { sql } from 'kysely';
import { boundRuntimeRoles, type ClusterDb } from './server-admin.js';

/** Differs from the prefix of marks, so that no guest passes for the role of a tenant. */
const PREFIX = 'tenantry-each';

export interface GuestRole {
  readonly name: string;
  /** The id of the run. */
  readonly run: string;
}

/** The password of a guest is refused after this time, however the run ended. */
const VALID_FOR = '1 day';

/**
 * Creates a guest in one transaction, so that it never exists without its comment, by which a later run finds it.
 *
 * @param guest.verifier a SCRAM verifier, never a password
 * @param guest.connectionLimit the most sessions at once
 * @param guest.writes false makes each of its transactions read-only by default, beside the rights that it lacks
 */
export async function createGuestRole(
  cluster: ClusterDb,
  guest: GuestRole & {
    readonly installation: string;
    readonly verifier: string;
    readonly connectionLimit: number;
    readonly writes: boolean;
  },
): Promise<void> {
  const name = sql.id(guest.name);
  const literal = sql.lit(guest.name);
  // To end a guest's sessions, the provisioner must be a member of it. SET FALSE is not known before PostgreSQL 16.
  await sql`
    create role ${name} with login nosuperuser nocreatedb nocreaterole noinherit noreplication nobypassrls
      connection limit ${sql.lit(guest.connectionLimit)} password ${sql.lit(guest.verifier)};
    do $do$ begin
      execute format('grant %I to current_user', ${literal}) ||
        case when current_setting('server_version_num')::int >= 160000 then ' with inherit true, set false' else '' end;
      execute format('alter role %I valid until %L', ${literal}, now() + ${sql.lit(VALID_FOR)}::interval);
    end $do$;
    alter role ${name} set default_transaction_read_only to ${sql.lit(guest.writes ? 'off' : 'on')};
    comment on role ${name} is ${sql.lit(`${PREFIX} ${guest.installation} ${guest.run}`)}`.execute(cluster);
  await boundRuntimeRoles(cluster, [guest.name]);
}

/** The guests of an installation on this server. */
export async function listGuestRoles(cluster: ClusterDb, installation: string): Promise<GuestRole[]> {
  const begin = `${PREFIX} ${installation} `;
  const { rows } = await sql<GuestRole>`
    select rolname as name, substr(description, length(${begin}::text) + 1) as run
    from pg_shdescription join pg_roles r on r.oid = objoid
    where classoid = 'pg_authid'::regclass and starts_with(description, ${begin}::text)
    order by rolname`.execute(cluster);
  return rows;
}

/** Refuses new sessions of a guest from now on. */
export async function lockGuestRole(cluster: ClusterDb, name: string): Promise<void> {
  await sql`alter role ${sql.id(name)} nologin`.execute(cluster);
}

/** How often the sessions of a guest are looked at, and the pause (ms) between two looks. */
const LOOKS = 40;
const LOOK_AGAIN_AFTER = 50;

/**
 * Ends the sessions of a guest.
 *
 * @param database only those in this database
 * @throws Error if sessions are still there after LOOKS looks
 */
export async function endGuestSessions(cluster: ClusterDb, name: string, database?: string): Promise<void> {
  for (let look = 0; look < LOOKS; look += 1) {
    const { rows } = await sql`
      select pg_terminate_backend(pid) from pg_stat_activity
      where usename = ${name} and (${database ?? null}::text is null or datname = ${database ?? null}::text)`.execute(
      cluster,
    );
    if (rows.length === 0) return;
    await delay(LOOK_AGAIN_AFTER);
  }
  throw new Error('the sessions of a guest could not be ended');
}

/** What became of a transaction, as PostgreSQL says it; undefined if it is too old to know. */
export async function transactionStatus(
  cluster: ClusterDb,
  xid: string,
): Promise<'committed' | 'aborted' | 'in progress' | undefined> {
  const { rows } = await sql<{ status: 'committed' | 'aborted' | 'in progress' | null }>`
    select pg_xact_status(${xid}::text::xid8) as status`.execute(cluster);
  return rows[0]?.status ?? undefined;
}
