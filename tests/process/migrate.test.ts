// `npm run migrate`, and what the start demands of an external registry.
import { sql } from 'kysely';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant, recordOlderSchema } from '../../db/registry/tenant-queries.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { asSuperuser, beginSession, connectAs, startServiceForTest, urlOf } from '../support/app.js';
import { isMissing, skipNote } from '../support/programs.js';
import { build, makeDataDir, runProgram, startProcess } from '../support/service-process.js';

type Run = Awaited<ReturnType<typeof runProgram>>;

interface Line {
  readonly level: string;
  readonly tenantId?: string;
  readonly err?: object;
  readonly all?: number;
  readonly report?: {
    readonly registry: readonly string[];
    readonly templateMade: boolean;
    readonly blocked?: string;
    readonly rollout?: { readonly state: string; readonly reason: string | null };
  };
}

/** Without a terminal, each line of the command is a JSON object. */
function linesOf({ stdout }: Run): Line[] {
  return stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Line);
}

function reportOf(run: Run): NonNullable<Line['report']> {
  const { report } = linesOf(run).at(-1) ?? {};
  if (!report) throw new Error(run.stdout + run.stderr);
  return report;
}

describe('an external registry', () => {
  const { superuser, registryOwner, registryService, provisioner } = inject('cluster');
  const database = `registry_${randomBytes(6).toString('hex')}`;
  const env: Record<string, string> = {
    // A standby database's password is sealed with this process's key, which the others here do not have.
    STANDBY_DATABASES: '0',
    DATABASE_URL: urlOf({ ...superuser, ...registryService, database }),
    MIGRATION_DATABASE_URL: urlOf({ ...superuser, ...registryOwner, database }),
    TENANT_DATABASE_URL: urlOf(provisioner),
  };
  let data: Awaited<ReturnType<typeof makeDataDir>>;

  beforeAll(async () => {
    await build();
    data = await makeDataDir();
    env['DATA_DIR'] = data.dir;
    await asSuperuser('postgres', async (db) => {
      await sql`create database ${sql.id(database)} owner ${sql.id(registryOwner.user)}`.execute(db);
      await sql`revoke all on database ${sql.id(database)} from public`.execute(db);
      await sql`grant connect on database ${sql.id(database)} to ${sql.id(registryService.user)}`.execute(db);
    });
  });
  afterAll(() => data.remove());

  it('is refused until it is migrated, with the command that does it', async () => {
    const { code, stderr } = await runProgram('src/server.js', env);
    expect(code).toBe(1);
    expect(stderr).toContain('npm run migrate');
  });

  it('is migrated by the command, which can be repeated', async () => {
    const first = await runProgram('src/cli/migrate.js', env);
    expect(first.code).toBe(0);
    expect(reportOf(first).registry[0]).toBe('0001_registry');
    const again = await runProgram('src/cli/migrate.js', env);
    expect(reportOf(again)).toMatchObject({ registry: [], templateMade: false });
    expect(again.code).toBe(0);
  });

  it('is refused by the start and by the command if another build has run other migrations under the same names', async () => {
    const setHash = (hash: string): Promise<string | undefined> =>
      asSuperuser(database, async (db) => {
        const name = '0016_operations';
        const { rows } = await sql<{ hash: string }>`
          select hash from migration.kysely_migration where name = ${name}`.execute(db);
        await sql`update migration.kysely_migration set hash = ${hash} where name = ${name}`.execute(db);
        return rows[0]?.hash;
      });
    const before = await setHash('another');
    for (const program of ['src/server.js', 'src/cli/migrate.js']) {
      const { code, stderr } = await runProgram(program, env);
      expect(code).toBe(1);
      expect(stderr).toContain('It has run another migration under the name 0016_operations.');
      expect(stderr).not.toMatch(/^ +at /m);
    }
    await setHash(before ?? '');
    expect((await runProgram('src/cli/migrate.js', env)).code).toBe(0);
  });

  it('is refused if the service’s role lacks its rights, which the command grants again', async () => {
    await asSuperuser(database, (db) =>
      sql`revoke usage on schema migration from ${sql.id(registryService.user)}`.execute(db),
    );
    const refused = await runProgram('src/server.js', env);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(
      /^The configuration is not usable:\n {2}- the role "registry_service" of DATABASE_URL has no rights .*npm run migrate/,
    );
    expect((await runProgram('src/cli/migrate.js', env)).code).toBe(0);
  });

  it('can be used once it is migrated, with the operator from the environment', async () => {
    const service = await startProcess({
      ...env,
      OPERATOR_EMAIL: 'Root@Example.com',
      OPERATOR_PASSWORD: 'a-password-of-mine',
    });
    const answer = await fetch(`${service.url}/auth/operator/login`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ email: 'root@example.com', password: 'a-password-of-mine' }),
    });
    expect(answer.status).toBe(200);
    expect(service.stdout).not.toContain('a-password-of-mine');
    expect(service.stdout).not.toContain('can change the registry');
    service.signal('SIGTERM');
    expect(await service.exited).toBe(0);
  });

  it('that a newer build has migrated is served, unless it needs a build that knows the new migration', async () => {
    const onRegistry = (statement: string): Promise<void> =>
      asSuperuser(database, async (db) => {
        await sql.raw(statement).execute(db);
      });
    await onRegistry("insert into migration.kysely_migration values ('9999_newer', now()::text)");
    const service = await startProcess(env);
    service.signal('SIGTERM');
    expect(await service.exited).toBe(0);
    expect(await runProgram('src/cli/migrate.js', env)).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('9999_newer') as string,
    });

    await onRegistry("update migration.kysely_migration set needs = name where name = '9999_newer'");
    for (const program of ['src/server.js', 'src/cli/migrate.js']) {
      const { code, stderr, stdout } = await runProgram(program, env);
      expect(code).toBe(1);
      // Nothing was migrated.
      expect(stdout).not.toContain('template');
      expect(stderr).toContain(
        'the registry was migrated by a newer build, and needs one that knows 9999_newer. Start that build, or a newer one',
      );
      expect(stderr).not.toMatch(/^ +at /m);
    }
    await onRegistry("delete from migration.kysely_migration where name = '9999_newer'");
  });

  it('can be used by its owner, with a warning that the owner can change the audit', async () => {
    const { MIGRATION_DATABASE_URL: asOwner = '', ...rest } = env;
    const service = await startProcess({ ...rest, DATABASE_URL: asOwner });
    service.signal('SIGTERM');
    expect(await service.exited).toBe(0);
    const warnings = service.stdout.match(
      /the role \\"registry_owner\\" of DATABASE_URL can change the registry's audit/g,
    );
    expect(warnings).toHaveLength(1);
    const line = service.stdout.split('\n').find((text) => text.includes('can change the registry'));
    expect(JSON.parse(line ?? '')).toMatchObject({ security: true, event: 'weak-setup', reason: 'audit-rewritable' });
  });

  it('is reported by its address if it cannot be reached, without the password', async () => {
    const nowhere = 'postgres://someone:canary-password@127.0.0.1:1/registry';
    const unreachable = { ...env, DATABASE_URL: nowhere, MIGRATION_DATABASE_URL: nowhere };
    for (const program of ['src/server.js', 'src/cli/migrate.js']) {
      const { code, stdout, stderr } = await runProgram(program, unreachable);
      expect(code).toBe(1);
      expect(stderr).toContain('127.0.0.1:1');
      expect(stdout + stderr).not.toContain('canary-password');
    }
  });

  it('is reported as read-only at the start, as a standby is', async () => {
    const settings = sql`role ${sql.id(registryService.user)} in database ${sql.id(database)}`;
    await asSuperuser('postgres', (db) => sql`alter ${settings} set default_transaction_read_only to on`.execute(db));
    try {
      const { code, stderr } = await runProgram('src/server.js', env);
      expect(code).toBe(1);
      expect(stderr).toMatch(/the registry at \S+ cannot be used \(read-only\)/);
    } finally {
      await asSuperuser('postgres', (db) => sql`alter ${settings} reset default_transaction_read_only`.execute(db));
    }
  });

  it('is migrated by a command that explains itself with --help', async () => {
    const { code, stdout } = await runProgram('src/cli/migrate.js', {}, ['--help']);
    expect(code).toBe(0);
    expect(stdout).toContain('Usage: npm run migrate');
  });

  it.skipIf(isMissing('script'))(
    `is migrated with progress in words on a terminal (script)${skipNote('script')}`,
    async () => {
      const command = `${process.execPath} dist/src/cli/migrate.js`;
      const { stdout } = await promisify(execFile)(
        'script',
        ['--quiet', '--return', '--command', command, '/dev/null'],
        {
          env: { PATH: process.env['PATH'], ...env },
        },
      );
      // The log warns of databases that other tests have left open.
      const lines = stdout.split(/\r?\n/).filter((line) => line !== '' && !line.includes('WARN'));
      expect(lines).toEqual([
        'registry   up to date',
        'template   up to date',
        'tenants    0 migrated, 0 up to date, 0 failed',
      ]);
    },
  );

  it('has its outdated tenant databases migrated, and a database that cannot be migrated reported', async () => {
    const service = await startServiceForTest({ registry: database });
    const behind = await service.createTenant('behind');
    const broken = await service.createTenant('broken');
    for (const { id } of [behind, broken]) {
      const tenant = await findTenant(service.app.engine.registry, id);
      if (!tenant) throw new Error('the tenant has no row');
      await service.app.engine.tenantPools.retire(id);
      await asSuperuser(tenant.dbName, async (db) => {
        // As the first migration left it.
        const { rows } = await sql<{ name: string }>`
          select relname as name from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace
          and relname <> all (array['tenant_marker', 'users', 'roles', 'user_roles'])`.execute(db);
        await sql`drop view tenant_schema_version`.execute(db);
        for (const { name } of rows) await sql`drop table ${sql.table(name)} cascade`.execute(db);
        await sql`alter table roles drop description, drop created_at, drop updated_at`.execute(db);
        await sql`alter table tenant_marker drop claim`.execute(db);
        await sql`delete from migration.kysely_migration where name > '0001_identity'`.execute(db);
        // The table has another owner, so that the migration's own statement fails.
        if (id === broken.id) await sql`create table products (id int)`.execute(db);
      });
      await recordOlderSchema(service.app.engine.registry, id, '0001_identity');
    }

    const run = await runProgram('src/cli/migrate.js', env);
    expect(run.code).toBe(3);
    const failed = { id: broken.id, slug: 'broken', reason: 'a database refused a statement (42P07).' };
    expect(reportOf(run)).toMatchObject({ tenantsMigrated: 1, tenantsCurrent: 0, failed: [failed] });
    // It was tried twice, the second time after the others.
    const attempts = linesOf(run).filter(({ tenantId, err }) => tenantId === broken.id && err !== undefined);
    expect(attempts.map(({ level, all }) => ({ level, all }))).toEqual([
      { level: 'warn', all: 2 },
      { level: 'error', all: undefined },
    ]);

    const registry = connectAs<Registry>(database);
    expect((await findTenant(registry.db, behind.id))?.schemaVersion).toBe(latestVersion(tenantMigrations));
    expect((await findTenant(registry.db, broken.id))?.schemaVersion).toBe('0001_identity');
    await registry.close(0);
    // The runtime role has its rights on the new table too. The previous session was removed with its table.
    const token = await beginSession(service.app, { kind: 'user', tenantId: behind.id, userId: behind.adminId });
    const made = await service.send('POST', '/products', {
      token,
      body: { name: 'Lamp', price: '1.00' },
    });
    expect(made.status).toBe(201);
  });

  it('with a tenant that fails is migrated by a rollout, which stops beyond its budget, and goes on with --resume', async () => {
    const registry = connectAs<Registry>(database);
    const broken = await registry.db
      .selectFrom('tenants')
      .select(['id', 'db_name as dbName'])
      .where('slug', '=', 'broken')
      .executeTakeFirstOrThrow();
    const flags = ['--canary', broken.id, '--waves', '10,50', '--budget', '0'];
    const migrate = (...args: string[]): Promise<Run> => runProgram('src/cli/migrate.js', env, args);

    const none = await migrate('--no-tenants');
    expect(none.code).toBe(0);
    expect(reportOf(none)).toMatchObject({ tenantsMigrated: 0 });
    expect(reportOf(none).rollout).toBeUndefined();

    const stopped = await migrate(...flags);
    expect(stopped.code).toBe(3);
    expect(reportOf(stopped).rollout).toMatchObject({
      state: 'stopped',
      reason: '1 of its tenants have failed, which is more than its budget of 0',
    });
    const again = await migrate();
    expect(again.code).toBe(3);
    expect(reportOf(again).blocked).toMatch(
      /^the rollout \S+ is stopped, because .*: run this with --resume to go on$/,
    );

    await asSuperuser(broken.dbName, (db) => sql`drop table products`.execute(db));
    const resumed = await migrate('--resume');
    expect(resumed.code).toBe(0);
    expect(reportOf(resumed)).toMatchObject({ tenantsMigrated: 1, failed: [], rollout: { state: 'done' } });
    expect((await findTenant(registry.db, broken.id))?.schemaVersion).toBe(latestVersion(tenantMigrations));
    await registry.close(0);
  });

  it('is left alone by a command with flags that mean nothing, which names them', async () => {
    for (const [flag, value] of [
      ['--canary', '0'],
      ['--canary', '101%'],
      ['--canary', 'acme'],
      ['--waves', '50,10'],
      ['--waves', '0'],
      ['--budget', '-1'],
    ] as const) {
      const { code, stderr } = await runProgram('src/cli/migrate.js', env, [flag, value]);
      expect(code, `${flag} ${value}`).toBe(2);
      expect(stderr).toContain(flag);
    }
  });
});
