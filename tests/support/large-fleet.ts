// Many tenants without the work of making them: rows, their roles, and for a few of them a database. Row, role and database agree,
// so that no job finds anything to do.
import { sql, type Kysely } from 'kysely';
import { createDatabase, type ConnectionSettings } from '../../db/driver/client.js';
import { STANDARD_CONNECTIONS } from '../../src/tenants/tenant-limits.js';

/** A server that is registered as a cluster. */
export interface FleetPlace {
  /** As its superuser, to the maintenance database. */
  readonly connection: ConnectionSettings;
  /** The role that owns the tenants' databases. */
  readonly provisioner: string;
}

const limits = { max: 2, acquireTimeout: 10_000, timeout: 600_000, idleTimeoutMillis: 1_000 };

/** Of 10,000 tenants 400 are suspended, and 290 deleted and within their grace time. The others are active. */
const STATUS = sql`case when n % 10000 < 400 then 'suspended' when n % 10000 < 690 then 'deleted' else 'active' end`;

/** The same number gives the same tenant: row, role and database are made apart. */
const NAME = sql`'tn_' || md5('database ' || n)`;
const ID = sql`md5('tenant ' || n)::uuid`;
const CLAIM = sql`md5('claim ' || n)::uuid`;
const GENERATION = sql`case when n % 10000 < 690 then 2 else 1 end`;

/**
 * @param registry a superuser's connection to the registry's database
 * @param places take the tenants in turn
 * @param fleet.databases how many tenants have a database; they are spread over all statuses
 */
export async function fillFleet(
  registry: Kysely<unknown>,
  places: readonly FleetPlace[],
  fleet: { readonly tenants: number; readonly databases: number },
): Promise<void> {
  const { rows } = await sql<{ id: string }>`select id from installation`.execute(registry);
  const installation = rows[0]?.id ?? '';
  for (const [index, place] of places.entries()) {
    const mine = sql`generate_series(${sql.lit(index)}::int, ${sql.lit(fleet.tenants - 1)}, ${sql.lit(places.length)}) as n`;
    await insertRows(registry, place, mine);
    await makeOnServer(place, mine, installation, Math.ceil(fleet.tenants / Math.max(1, fleet.databases)));
  }
  await sql`vacuum analyze tenants`.execute(registry);
}

/** @param mine a series of numbers `n` */
async function insertRows(
  registry: Kysely<unknown>,
  { connection: { host, port } }: FleetPlace,
  mine: ReturnType<typeof sql>,
): Promise<void> {
  // As long as a sealed password, and of the key that the tests use.
  const sealed = sql`'v1.test.' || substr(md5(n::text), 1, 16) || '.' || repeat('a', 58) || '.' || repeat('b', 22)`;
  await sql`
    insert into tenants (id, name, slug, status, cluster_id, db_host, db_port, db_name, db_user, db_password, schema_version,
      claim, generation, deleted_at, status_before_deletion)
    select ${ID}, 'Tenant ' || n, 'fleet-' || n, ${STATUS}, (select id from clusters where host = ${host} and port = ${port}),
      ${host}, ${port}, ${NAME}, ${NAME}, ${sealed}, '0001', ${CLAIM}, ${GENERATION},
      case when ${STATUS} = 'deleted' then now() end, case when ${STATUS} = 'deleted' then 'active' end
    from ${mine}`.execute(registry);
}

async function makeOnServer(
  { connection, provisioner }: FleetPlace,
  mine: ReturnType<typeof sql>,
  installation: string,
  every: number,
): Promise<void> {
  const handle = createDatabase<unknown>(connection, limits, { applicationName: 'tests', preparedStatements: false });
  const mark = sql`concat_ws(' ', 'tenantry', ${sql.lit(installation)}::text, ${ID},
    case ${STATUS} when 'active' then 'tenant' else ${STATUS} end, ${CLAIM}, ${GENERATION})`;
  try {
    await sql`
      do $do$ declare made record; begin
        for made in select ${NAME} as name, ${mark} as mark from ${mine} loop
          execute format('create role %I login connection limit ${sql.raw(String(STANDARD_CONNECTIONS))}', made.name);
          execute format('comment on role %I is %L', made.name, made.mark);
        end loop;
      end $do$`.execute(handle.db);
    const { rows } = await sql<{ name: string; mark: string; open: boolean }>`
      select ${NAME} as name, ${mark} as mark, ${STATUS} = 'active' as open from ${mine}
      where n % ${sql.lit(every)}::int < 2`.execute(handle.db);
    for (const { name, mark: text, open } of rows) {
      const database = sql.id(name);
      await sql`create database ${database} owner ${sql.id(provisioner)} template template0 strategy file_copy
        allow_connections ${sql.lit(open)}`.execute(handle.db);
      await sql`comment on database ${database} is ${sql.lit(text)}`.execute(handle.db);
    }
    await sql`analyze`.execute(handle.db);
  } finally {
    await handle.close(0);
  }
}
