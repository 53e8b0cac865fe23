// Several processes begin at once on an empty registry, as the first rollout of several replicas does.
import { sql, type RawBuilder } from 'kysely';
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { createDatabase } from '../../db/driver/client.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { boundRuntimeRoles } from '../../db/server/server-admin.js';
import { migrateToLatest } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { grantRuntimeRights } from '../../db/tenant/tenant-grants.js';
import { openProvisioner, type Provisioner } from '../../src/clusters/provisioner-connections.js';
import { migrateAll } from '../../src/rollouts/migrate-fleet.js';
import { startSecondCluster, type SecondCluster } from '../support/second-cluster.js';
import { urlOf } from '../support/service.js';
import { build, makeDataDir, runProgram, startProcess } from '../support/service-process.js';

const AT_ONCE = 4;

const LIMITS = { max: 2, acquireTimeout: 10_000, timeout: 60_000, idleTimeoutMillis: 1_000 };

let server: SecondCluster;

beforeAll(async () => {
  await build();
  server = await startSecondCluster('first');
});
afterAll(() => server.stop());

/** The environment of a service on an empty registry, on a server without a template. */
async function emptyRegistry(): Promise<Record<string, string>> {
  const database = `registry_${randomBytes(6).toString('hex')}`;
  await server.asSuperuser('postgres', async (db) => {
    const { rows } = await sql<{ name: string }>`
      select datname as name from pg_database where datname like 'tenantry_template_%'`.execute(db);
    for (const { name } of rows) await sql`drop database ${sql.id(name)} with (force)`.execute(db);
    await sql`create database ${sql.id(database)} owner unused_owner`.execute(db);
    await sql`revoke all on database ${sql.id(database)} from public`.execute(db);
    await sql`grant connect on database ${sql.id(database)} to unused_service`.execute(db);
  });
  const data = await makeDataDir();
  onTestFinished(() => data.remove());
  const { superuser, provisioner } = server;
  return {
    STANDBY_DATABASES: '0',
    DATA_DIR: data.dir,
    DATABASE_URL: urlOf({ ...superuser, user: 'unused_service', password: 'unused-service-password', database }),
    MIGRATION_DATABASE_URL: urlOf({ ...superuser, user: 'unused_owner', password: 'unused-owner-password', database }),
    TENANT_DATABASE_URL: urlOf(provisioner),
  };
}

describe('the first `npm run migrate` on an empty registry', () => {
  it.each([1, 2])('succeeds in each of several processes at once (round %i)', async (round) => {
    const env = await emptyRegistry();
    const dirs = await Promise.all(Array.from({ length: AT_ONCE }, () => makeDataDir()));
    onTestFinished(async () => {
      await Promise.all(dirs.map((dir) => dir.remove()));
    });
    const runs = await Promise.all(
      // Processes of one host share the folder of their secrets, those of several hosts do not.
      dirs.map(({ dir }) => runProgram('src/cli/migrate.js', round % 2 === 0 ? env : { ...env, DATA_DIR: dir })),
    );
    expect(runs.map(({ code, stderr }) => ({ code, stderr }))).toEqual(runs.map(() => ({ code: 0, stderr: '' })));
    // Each process reports what it did itself.
    expect(runs.filter(({ stdout }) => stdout.includes('"report":{"registry":["0001_registry"'))).toHaveLength(1);
    expect(runs.filter(({ stdout }) => stdout.includes('"templateMade":true'))).toHaveLength(1);
  });

  it('succeeds beside a first start, which starts or is refused in words', async () => {
    const env = await emptyRegistry();
    const start = (): Promise<string> =>
      startProcess(env).then(
        async (service) => {
          service.signal('SIGTERM');
          expect(await service.exited).toBe(0);
          return 'started';
        },
        (error: unknown) => (error as Error).message,
      );
    const [migrated, ...started] = await Promise.all([runProgram('src/cli/migrate.js', env), start(), start()]);
    expect(migrated).toMatchObject({ code: 0, stderr: '' });
    for (const outcome of started)
      expect(outcome).toMatch(
        /^started$|^the service ended:\n(?:.*\n)*The configuration is not usable:\n {2}- .*npm run migrate/,
      );
    expect(await start()).toBe('started');
  });

  it('succeeds for every one of many workers that arrive at the same step together', async () => {
    const env = await emptyRegistry();
    const registryOf = new URL(env['MIGRATION_DATABASE_URL'] ?? '').pathname.slice(1);
    const reports = await Promise.all(
      Array.from({ length: 12 }, async () => {
        const options = { applicationName: 'tests', preparedStatements: false };
        const owner = { ...server.superuser, user: 'unused_owner', password: 'unused-owner-password' };
        const registry = createDatabase<Registry>({ ...owner, database: registryOf }, LIMITS, options);
        const opened = openProvisioner(server.provisioner, LIMITS);
        const { user: provisioner } = server.provisioner;
        try {
          await sql`select 1`.execute(registry.db);
          return await migrateAll({ registry: registry.db, registryService: 'unused_service', ...opened, provisioner });
        } finally {
          await Promise.all([opened.close(), registry.close(0)]);
        }
      }),
    );
    expect(reports.filter(({ registry }) => registry.length > 0)).toHaveLength(1);
    expect(reports.filter(({ templateMade }) => templateMade)).toHaveLength(1);
  });
});

describe('rights that two workers give at once', () => {
  it('are given to the runtime role of a former build, and no worker fails', async () => {
    await server.asSuperuser('postgres', (db) => sql`create role former_role`.execute(db));
    await server.asSuperuser('postgres', (db) =>
      sql`grant former_role to ${sql.id(server.provisioner.user)} with admin option`.execute(db),
    );
    const bounded = await whileBlocked(
      'postgres',
      sql`alter role former_role set application_name to 'blocked'`,
      async ({ cluster }) => boundRuntimeRoles(cluster, ['former_role']),
    );
    expect(bounded).toEqual([1, 1]);
    const { rows } = await server.asSuperuser('postgres', (db) =>
      sql`select unnest(rolconfig) from pg_roles where rolname = 'former_role'`.execute(db),
    );
    expect(rows).toHaveLength(4);
  });

  it('are given in a database, and no worker fails', async () => {
    const owner = openProvisioner(server.provisioner, LIMITS);
    onTestFinished(() => owner.close());
    await sql`create database rights_at_once`.execute(owner.cluster);
    await sql`create role runtime_role`.execute(owner.cluster);
    await owner.inDatabase('rights_at_once', (db) => migrateToLatest(db, tenantMigrations));
    await whileBlocked('rights_at_once', sql`grant usage on schema public to unused_service`, ({ inDatabase }) =>
      inDatabase('rights_at_once', (db) => grantRuntimeRights(db, 'runtime_role')),
    );
    const { rows } = await server.asSuperuser('rights_at_once', (db) =>
      sql`select has_table_privilege('runtime_role', 'users', 'insert') as given`.execute(db),
    );
    expect(rows).toEqual([{ given: true }]);
  });

  /** Lets two workers meet at a change of the catalog that is not committed, and is then rolled back. */
  async function whileBlocked<T>(
    database: string,
    change: RawBuilder<unknown>,
    work: (worker: Provisioner) => Promise<T>,
  ): Promise<T[]> {
    const workers = [1, 2].map(() => openProvisioner(server.provisioner, LIMITS));
    onTestFinished(async () => {
      await Promise.all(workers.map((worker) => worker.close()));
    });
    return server.asSuperuser(database, async (db) => {
      const trx = await db.startTransaction().execute();
      await change.execute(trx);
      const both = Promise.all(workers.map(work));
      both.catch(() => undefined);
      await expect
        .poll(async () => {
          const { rows } = await sql`
            select from pg_stat_activity where wait_event_type = 'Lock' and datname = ${database}`.execute(db);
          return rows.length;
        })
        .toBe(2);
      await trx.rollback().execute();
      return both;
    });
  }
});
