// Databases that do not agree with their tenants' rows, on many tenants and two servers: what a run finds although its page does
// not contain it, and a server that does not answer.
import { sql, type Kysely } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import type { Registry } from '../../db/registry/registry-schema.js';
import { startFleetEngine, type FleetEngine } from '../support/fleet-engine.js';
import { startProxy, type Proxy } from '../support/proxy.js';

/** Ten tenants on each server. */
const TENANTS = 20;
const PAGE = 3;

let fleet: FleetEngine;
let registry: Kysely<Registry>;
/** The way to the second server. Its port is lower than that of the first one, so that it is listed first. */
let proxy: Proxy;
/** Names of the databases, in order. */
let here: string[];
let there: string[];

beforeAll(async () => {
  fleet = await startFleetEngine(TENANTS, async ({ superuser }) => {
    const port = 15_000 + Math.floor(Math.random() * 10_000);
    return (proxy = await startProxy(superuser, { host: '127.0.0.1', port }));
  });
  ({ registry } = fleet.engine);
  const at = async (isProxy: boolean): Promise<string[]> => {
    const query = registry.selectFrom('tenants').select('db_name').orderBy('db_name');
    const rows = await query.where('db_port', isProxy ? '=' : '<>', proxy.port).execute();
    return rows.map((row) => row.db_name);
  };
  [here, there] = [await at(false), await at(true)];
});
afterAll(async () => {
  await fleet.close();
  await proxy.close();
});
beforeEach(async () => {
  await registry.deleteFrom('operations').execute();
});

const { signal } = new AbortController();

/** The names of databases for which an operation is recorded. */
async function recorded(): Promise<string[]> {
  const rows = await registry
    .selectFrom('operations')
    .innerJoin('tenants', 'tenants.id', 'operations.subject')
    .select('db_name')
    .orderBy('db_name')
    .execute();
  return rows.map((row) => row.db_name);
}

function allow(names: readonly string[], connections: boolean): Promise<void> {
  return fleet.server.asSuperuser('postgres', async (db) => {
    for (const name of names)
      await sql`alter database ${sql.id(name)} allow_connections ${sql.lit(connections)}`.execute(db);
  });
}

/** Changes the number in the marks of a database. */
function markAs(name: string, generation: number): Promise<unknown> {
  return fleet.server.asSuperuser('postgres', async (db) => {
    const { rows } = await sql<{ mark: string }>`
      select shobj_description(oid, 'pg_database') as mark from pg_database where datname = ${name}`.execute(db);
    const mark = (rows[0]?.mark ?? '').replace(/\d+$/, String(generation));
    await sql`comment on database ${sql.id(name)} is ${sql.lit(mark)}`.execute(db);
  });
}

it('a status that was changed by SQL is noticed in the next run, whichever page the tenant is on', async () => {
  const drift = fleet.driftOf(PAGE);
  const last = here.at(-1) ?? '';
  await drift.settleAll(signal);
  expect(await recorded()).toEqual([]);
  await sql`update tenants set status = 'active' where db_name = ${last}`.execute(registry);
  await drift.settleAll(signal);
  expect(await recorded()).toEqual([last]);

  // Also by a replica that has not run the job before.
  await registry.deleteFrom('operations').execute();
  await fleet.driftOf(PAGE).settleAll(signal);
  expect(await recorded()).toEqual([last]);

  await sql`update tenants set status = 'suspended', generation = 4 where db_name = ${last}`.execute(registry);
  await markAs(last, 4);
});

it('a database that is left as it is is reported in each run, until the evidence is there', async () => {
  const reports: string[] = [];
  const drift = fleet.driftOf(PAGE, { report: ({ dbName }) => reports.push(dbName) });
  const [first = ''] = here;
  await allow([first], true);
  await markAs(first, 9);
  for (let times = 1; times <= 3; times += 1) {
    await drift.settleAll(signal);
    expect(reports).toEqual(Array.from({ length: times }, () => first));
  }
  expect(await recorded()).toEqual([]);
  await markAs(first, 2);
  // Its page was the first one.
  await drift.settleAll(signal);
  expect(reports).toHaveLength(3);
  expect(await recorded()).toEqual([first]);
  await allow([first], false);
});

it('a status that was changed while its server did not answer is noticed as soon as the server answers', async () => {
  let errors = 0;
  const drift = fleet.driftOf(PAGE, { onError: () => (errors += 1) });
  const last = there.at(-1) ?? '';
  await drift.settleAll(signal);
  proxy.mode = 'hang';
  // The run gives the server up, and the server's page goes on.
  await drift.settleAll(signal);
  expect(errors).toBe(1);
  await sql`update tenants set status = 'active' where db_name = ${last}`.execute(registry);
  await drift.settleAll(signal);
  expect(errors).toBe(2);
  proxy.mode = 'pass';
  let before: number;
  do {
    await sleep(200);
    before = errors;
    await drift.settleAll(signal);
  } while (errors > before);
  expect(await recorded()).toEqual([last]);
  await sql`update tenants set status = 'suspended', generation = 4 where db_name = ${last}`.execute(registry);
  await markAs(last, 4);
}, 120_000);

it('a server that does not answer delays no other, and its tenants are settled when it answers again', async () => {
  const drift = fleet.driftOf(PAGE);
  // The first run also looks at what has changed in the last minute.
  await drift.settleAll(signal);
  await allow([...here, ...there], true);
  proxy.mode = 'hang';
  const run = drift.settleAll(signal);
  await expect.poll(recorded, { timeout: 30_000, interval: 50 }).toEqual(here.slice(PAGE, 2 * PAGE));
  await run;
  // The run has ended although the server still hangs.
  await drift.settleAll(signal);
  expect(await recorded()).toEqual(here.slice(PAGE, 3 * PAGE));
  proxy.mode = 'pass';
  await expect
    .poll(
      async () => {
        await drift.settleAll(signal);
        return recorded();
      },
      { timeout: 60_000, interval: 500 },
    )
    .toEqual([...here, ...there].sort());
  await allow([...here, ...there], false);
}, 120_000);
