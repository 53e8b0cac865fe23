// The jobs that look at a page of all tenants in each run: three runs with three tenants each see seven tenants, and then begin
// again.
import { sql, type RawBuilder } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createStorageRelief } from '../../src/clusters/storage-relief.js';
import { createOrphans } from '../../src/operations/orphans.js';
import { createConnectionLimits } from '../../src/operations/role-limits.js';
import { startFleetEngine, type FleetEngine } from '../support/fleet-engine.js';

const TENANTS = 7;
const PAGE = 3;
const RUNS = [3, 6, 7];

let fleet: FleetEngine;
beforeAll(async () => {
  fleet = await startFleetEngine(TENANTS);
});
afterAll(() => fleet.close());

const { signal } = new AbortController();

const fail = (error: unknown): void => {
  throw error;
};

/** Runs a statement for each tenant's name. */
function onServer(statement: (name: RawBuilder<unknown>) => RawBuilder<unknown>): Promise<void> {
  return fleet.server.asSuperuser('postgres', async (db) => {
    for (const name of fleet.names) await statement(sql.id(name)).execute(db);
  });
}

/** Runs a job once for each page. Returns how many tenants were done after each run. */
async function runPages(run: () => Promise<void>, countDone: () => Promise<number>): Promise<number[]> {
  const counts: number[] = [];
  while (counts.length < RUNS.length) {
    await run();
    counts.push(await countDone());
  }
  return counts;
}

async function countOnServer(query: RawBuilder<{ count: number }>): Promise<number> {
  const { rows } = await fleet.server.asSuperuser('postgres', (db) => query.execute(db));
  return rows[0]?.count ?? -1;
}

it('databases that do not agree with their rows: in order of name, and from the beginning after the last page', async () => {
  const drift = fleet.driftOf(PAGE);
  const { names } = fleet;
  const { registry } = fleet.engine;
  const recorded = async (): Promise<string[]> => {
    const rows = await registry
      .selectFrom('operations')
      .innerJoin('tenants', 'tenants.id', 'operations.subject')
      .select('db_name')
      .where('kind', '=', 'close')
      .orderBy('db_name')
      .execute();
    return rows.map((row) => row.db_name);
  };
  const reopen = (): Promise<void> => onServer((name) => sql`alter database ${name} allow_connections true`);
  await reopen();
  for (const seen of RUNS) {
    await drift.settleAll(signal);
    expect(await recorded()).toEqual(names.slice(0, seen));
  }
  await registry.deleteFrom('operations').execute();
  await reopen();
  await drift.settleAll(signal);
  expect(await recorded()).toEqual(names.slice(0, PAGE));
  await registry.deleteFrom('operations').execute();
  await onServer((name) => sql`alter database ${name} allow_connections false`);
});

it('limits of roles', async () => {
  const { registry, provisioners } = fleet.engine;
  const owner = sql.id(fleet.server.provisioner.user);
  await onServer((name) => sql`grant ${name} to ${owner} with admin option`);
  await onServer((name) => sql`alter role ${name} connection limit 1`);
  const limits = createConnectionLimits({ registry, provisioners, defaults: { connections: 9 }, onError: fail }, PAGE);
  const countDone = (): Promise<number> =>
    countOnServer(
      sql`select count(*)::int as count from pg_roles where rolconnlimit = 9 and rolname = any(${fleet.names})`,
    );
  expect(await runPages(() => limits.applyAll(signal), countDone)).toEqual(RUNS);
});

it('databases and roles without a row', async () => {
  const { registry, provisioners, installation } = fleet.engine;
  const reported = new Set<string>();
  const reports = {
    ...fleet.engine.reports,
    orphan: ({ name }: { name: string }) => {
      reported.add(name);
      return false;
    },
  };
  const orphans = createOrphans(
    { registry, provisioners, locks: fleet.locks, installation, reports, onError: fail },
    PAGE,
  );
  // The rows name other databases: all of the server's are orphans.
  await fleet.engine.registry
    .updateTable('tenants')
    .set({ db_name: sql`'x' || db_name`, db_user: sql`'x' || db_user` })
    .execute();
  expect(
    await runPages(
      () => orphans.dropAll(signal),
      async () => reported.size,
    ),
    // The first page has the template of new databases too, which is no orphan.
  ).toEqual([2, 5, 7]);
  expect([...reported].sort()).toEqual([...fleet.names].sort());
  await fleet.engine.registry
    .updateTable('tenants')
    .set({ db_name: sql`substr(db_name, 2)`, db_user: sql`substr(db_user, 2)` })
    .execute();
});

it('tenants with a limit of their own on storage', async () => {
  const { registry, provisioners } = fleet.engine;
  const owner = sql.id(fleet.server.provisioner.user);
  await onServer((name) => sql`alter database ${name} allow_connections true`);
  const before = new Map<string, number>();
  const fileOf = (name: string): Promise<number> =>
    fleet.server.asSuperuser(name, async (db) => {
      const { rows } = await sql<{ file: number }>`select pg_relation_filenode('public.rows')::int as file`.execute(db);
      return rows[0]?.file ?? -1;
    });
  for (const name of fleet.names) {
    await fleet.server.asSuperuser(name, async (db) => {
      await sql`create table public.rows as select n from generate_series(1, 100) n`.execute(db);
      await sql`alter table public.rows owner to ${owner}`.execute(db);
      await sql`delete from public.rows`.execute(db);
    });
    before.set(name, await fileOf(name));
  }
  // What a session has counted is in the statistics when it has ended.
  await expect
    .poll(
      async () => {
        const counted = fleet.names.map((name) =>
          fleet.server.asSuperuser(name, async (db) => {
            const { rows } = await sql<{ gone: number }>`
              select n_tup_del::int as gone from pg_stat_user_tables where relname = 'rows'`.execute(db);
            return rows[0]?.gone;
          }),
        );
        return new Set(await Promise.all(counted));
      },
      { timeout: 30_000 },
    )
    .toEqual(new Set([100]));
  await fleet.engine.registry
    .updateTable('tenants')
    .set({ status: 'active', limits: JSON.stringify({ storageBytes: 1 }) })
    .execute();
  const relieve = createStorageRelief({ registry, provisioners, defaults: {}, onError: fail }, PAGE);
  const countDone = async (): Promise<number> => {
    const files = await Promise.all(fleet.names.map(fileOf));
    return fleet.names.filter((name, index) => files[index] !== before.get(name)).length;
  };
  expect(await runPages(() => relieve(signal), countDone)).toEqual(RUNS);
});
