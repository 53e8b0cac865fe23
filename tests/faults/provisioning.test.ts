// Making a tenant that fails at every step: by a hook that throws, and for real reasons. A failed step is reported and rolled
// back, and an incomplete rollback is finished later.
import type { FastifyInstance } from 'fastify';
import { sql } from 'kysely';
import { randomBytes, randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { findInstallationId } from '../../db/registry/installation.js';
import { findOperatorByEmail, insertOperator } from '../../db/registry/operator-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenantBySlug, type TenantRecord } from '../../db/registry/tenant-queries.js';
import type { DatabaseHandle } from '../../db/driver/client.js';
import { createRuntimeRole, createTenantDatabase } from '../../db/server/server-admin.js';
import { markText } from '../../db/server/marks.js';
import { scramVerifier } from '../../db/server/scram.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { openApp } from '../support/service.js';
import { newDatabaseName, newTenantId } from '../../src/tenants/tenant-ids.js';
import { createLockSession } from '../../db/registry/lock-session.js';
import { createTenantLocks } from '../../src/tenants/tenant-locks.js';
import { migrateAll } from '../../src/rollouts/migrate-fleet.js';
import { openProvisioner, type Provisioner } from '../../src/clusters/provisioner-connections.js';
import { provisioningSteps, type ProvisioningStep } from '../../src/operations/create/create-steps.js';
import { templateName } from '../../src/operations/template/template-names.js';
import {
  beginSession,
  ADMIN,
  asSuperuser,
  connectAs,
  createRegistry,
  sender,
  testConfig,
  type Answer,
  type Send,
} from '../support/app.js';
import { finishOperations } from '../support/operations.js';

// A separate provisioner with its own template: this file breaks both, while other tests use theirs.
const provisionerRole = `provisioner_${randomBytes(6).toString('hex')}`;
const template = templateName(tenantMigrations, provisionerRole);

let registry: string;
let central: DatabaseHandle<Registry>;
let provisioner: Provisioner;
let app: FastifyInstance;
let send: Send;
let token: string;

/** Called after each step, with the row of the tenant that is being made. */
let afterStep: ((step: ProvisioningStep, row: TenantRecord) => Promise<void> | void) | undefined;
/** The slug that is being made, for the hook. */
let making = '';

beforeAll(async () => {
  // The reconciler must not run by itself during these tests.
  const config = testConfig((registry = await createRegistry()), { RECONCILE_EVERY_MS: '3600000' });
  central = connectAs<Registry>(registry);
  const password = 'password-of-this-provisioner';
  await asSuperuser('postgres', async (db) => {
    const verifier = sql.lit(await scramVerifier(password, 1));
    await sql`create role ${sql.id(provisionerRole)} login createdb createrole password ${verifier}`.execute(db);
    await sql`grant connect on database postgres to ${sql.id(provisionerRole)}`.execute(db);
  });
  const connection = { ...config.tenants.provisioner, user: provisionerRole, password };
  provisioner = openProvisioner(connection, config.tenants.provisionerPool);
  await migrateAll({ registry: central.db, ...provisioner, provisioner: provisionerRole });

  app = await openApp(
    { ...config, tenants: { ...config.tenants, provisioner: connection } },
    {
      afterOperationStep: async (_kind, step) => {
        if (!isProvisioningStep(step)) return;
        const row = await findTenantBySlug(central.db, making);
        if (row) await afterStep?.(step, row);
      },
      operationTimes: { removeDeadline: 3_000 },
    },
  );
  send = sender(app);
  await insertOperator(app.engine.registry, { email: 'operator@example.com', passwordHash: 'not used' });
  const operator = await findOperatorByEmail(app.engine.registry, 'operator@example.com');
  token = await beginSession(app, { kind: 'operator', operatorId: operator?.id ?? '' });
});
afterAll(async () => {
  await Promise.all([app.close(), provisioner.close(), central.close(0)]);
});

function isProvisioningStep(step: string): step is ProvisioningStep {
  return provisioningSteps.some((known) => known === step);
}

let slugs = 0;
const newSlug = (): string => `faulty-${(slugs += 1)}`;

async function make(slug: string): Promise<Answer<{ id: string; code: string; detail: string }>> {
  making = slug;
  return send('POST', '/tenants', { token, body: { name: 'Faulty', slug, admin: ADMIN } });
}

async function expectWorkingTenant(slug: string): Promise<void> {
  const again = await make(slug);
  expect(again.status, again.text).toBe(201);
  const { email, password } = ADMIN;
  expect((await send('POST', '/auth/login', { body: { tenant: slug, email, password } })).status).toBe(200);
}

/** Everything that exists of a tenant. */
async function remainsOf(slug: string, name: string): Promise<{ row?: string; database: boolean; role: boolean }> {
  const row = await findTenantBySlug(central.db, slug);
  const { rows } = await asSuperuser('postgres', (db) =>
    sql<{ database: boolean; role: boolean }>`
      select exists (select from pg_database where datname = ${name}) as database,
             exists (select from pg_roles where rolname = ${name}) as role`.execute(db),
  );
  const [found = { database: false, role: false }] = rows;
  return { ...(row && { row: row.status }), ...found };
}

const NOTHING = { database: false, role: false };

describe('a failure before the database is marked as a tenant’s is undone and reported, and the same request then succeeds:', () => {
  const undone = provisioningSteps.slice(0, provisioningSteps.indexOf('mark'));
  it.each(undone)('%s', async (failing) => {
    const slug = newSlug();
    let name = '';
    const passed: string[] = [];
    afterStep = (step, row) => {
      name = row.dbName;
      passed.push(step);
      if (step === failing) throw new Error('made to fail');
    };
    const failed = await make(slug);
    afterStep = undefined;

    expect(failed).toMatchObject({ status: 503, body: { code: 'provisioning-failed' } });
    expect(failed.headers['retry-after']).toBe('5');
    expect(failed.body.detail).toContain(`the step "${failing}". Everything was undone`);
    expect(passed.at(-1)).toBe(failing);
    expect(name).toMatch(/^tn_/);
    expect(await remainsOf(slug, name)).toEqual(NOTHING);
    await expectWorkingTenant(slug);
  });
});

describe('a failure after that mark does not undo the tenant, whose creation continues:', () => {
  it.each(['mark', 'activate'] as const)('%s', async (failing) => {
    const slug = newSlug();
    afterStep = (step) => {
      if (step === failing) throw new Error('made to fail');
    };
    const made = await make(slug);
    afterStep = undefined;
    expect(made, made.text).toMatchObject({ status: 201, body: { status: 'active', slug } });
    const { email, password } = ADMIN;
    expect((await send('POST', '/auth/login', { body: { tenant: slug, email, password } })).status).toBe(200);
    const told = await central.db
      .selectFrom('audit')
      .select('actor_kind')
      .where('tenant_id', '=', made.body.id)
      .where('action', '=', 'tenant.created')
      .execute();
    expect(told).toEqual([{ actor_kind: 'operator' }]);
  });
});

describe('a failure with a real cause is undone at every step:', () => {
  const onServer = (statement: string) => (): Promise<void> => run('postgres', statement);
  const onRegistry = (statement: string) => (): Promise<void> => run(registry, statement);
  const refuse = `create function refuse() returns trigger language plpgsql as $$ begin raise exception 'refused'; end $$;`;

  it.each<[string, ProvisioningStep, () => Promise<void>, () => Promise<void>]>([
    [
      'the registry refuses the row',
      'register',
      onRegistry(`${refuse} create trigger refuse after insert on tenants execute function refuse()`),
      onRegistry('drop function refuse cascade'),
    ],
    [
      'the provisioner may not make roles',
      'role',
      onServer(`alter role ${provisionerRole} nocreaterole`),
      onServer(`alter role ${provisionerRole} createrole`),
    ],
    [
      'the provisioner may not make databases',
      'database',
      onServer(`alter role ${provisionerRole} nocreatedb`),
      onServer(`alter role ${provisionerRole} createdb`),
    ],
    [
      'the template is missing',
      'database',
      onServer(`alter database ${template} rename to ${template}_gone`),
      onServer(`alter database ${template}_gone rename to ${template}`),
    ],
    [
      'the template is not whole',
      'fill',
      () => inTemplate(`update roles set name = 'chief' where name = 'admin'`),
      () => inTemplate(`update roles set name = 'admin' where name = 'chief'`),
    ],
    [
      'the registry refuses to activate it',
      'activate',
      onRegistry(
        `${refuse} create trigger refuse after update on tenants for each row when (new.status = 'active') execute function refuse()`,
      ),
      onRegistry('drop function refuse cascade'),
    ],
  ])('%s', async (_what, step, breakIt, mendIt) => {
    const slug = newSlug();
    const before = await namesOnServer();
    let failed;
    await breakIt();
    try {
      failed = await make(slug);
    } finally {
      await mendIt();
    }
    expect(failed).toMatchObject({ status: 503, body: { code: 'provisioning-failed' } });
    expect(failed.body.detail).toContain(`the step "${step}". Everything was undone`);
    expect(await findTenantBySlug(central.db, slug)).toBeUndefined();
    expect(await namesOnServer()).toEqual(before);
    await expectWorkingTenant(slug);
  });
});

describe('when the undo fails too,', () => {
  /** Fails after a step, with a session in the new database that the provisioner may not end. */
  async function leaveHalf(
    slug: string,
    failing: ProvisioningStep,
  ): Promise<{ name: string; id: string; unblock: () => Promise<void> }> {
    let name = '';
    let unblock = async (): Promise<void> => undefined;
    afterStep = async (step, row) => {
      if (step !== failing) return;
      name = row.dbName;
      unblock = await enter(name);
      throw new Error('made to fail');
    };
    const failed = await make(slug);
    afterStep = undefined;
    expect(failed).toMatchObject({ status: 503, body: { code: 'provisioning-failed' } });
    const id = /DELETE \/tenants\/([0-9a-f-]{36}) does it at once/.exec(failed.body.detail)?.[1] ?? '';
    expect(await findTenantBySlug(central.db, slug)).toMatchObject({ id, status: 'deleting', active: false });
    return { name, id, unblock };
  }

  it.each(['database', 'fill'] as const)('after "%s" the row stays, and DELETE finishes it', async (step) => {
    const slug = newSlug();
    const { name, id, unblock } = await leaveHalf(slug, step);
    const stillBlocked = await send('DELETE', `/tenants/${id}`, { token });
    expect(stillBlocked).toMatchObject({ status: 503, body: { code: 'operation-unfinished' } });
    expect(stillBlocked.headers['retry-after']).toBe('5');
    expect(await remainsOf(slug, name)).toEqual({ row: 'deleting', database: true, role: true });

    await unblock();
    // The service may have finished it before.
    const isFinished = async (): Promise<boolean> =>
      [204, 404].includes((await send('DELETE', `/tenants/${id}`, { token })).status);
    await expect.poll(isFinished, { timeout: 25_000 }).toBe(true);
    expect(await remainsOf(slug, name)).toEqual(NOTHING);
    await expectWorkingTenant(slug);
  });

  it('the same request completes the undo as soon as that is possible', async () => {
    const slug = newSlug();
    const { name, unblock } = await leaveHalf(slug, 'fill');
    expect(await make(slug)).toMatchObject({ status: 503, body: { code: 'unavailable' } });
    await unblock();
    await expectWorkingTenant(slug);
    expect(await remainsOf(slug, name)).toEqual({ ...NOTHING, row: 'active' });
  });

  it('no user can sign in to the incomplete tenant', async () => {
    const slug = newSlug();
    const { unblock } = await leaveHalf(slug, 'fill');
    const { email, password } = ADMIN;
    expect((await send('POST', '/auth/login', { body: { tenant: slug, email, password } })).status).toBe(401);
    await unblock();
  });
});

describe('a tenant whose creation ended with its process', () => {
  it.each<[string, boolean]>([
    ['behind its database', true],
    ['behind its row', false],
  ])('is removed when its slug is requested again; the creation had ended %s', async (_where, withDatabase) => {
    const slug = newSlug();
    const name = await abandon(slug, withDatabase);
    await expectWorkingTenant(slug);
    expect(await remainsOf(slug, name)).toEqual({ ...NOTHING, row: 'active' });
    const row = await findTenantBySlug(central.db, slug);
    expect(row?.dbName).not.toBe(name);
  });

  it('is left alone while another worker holds its lock', async () => {
    const slug = newSlug();
    const name = await abandon(slug, true);
    const { id = '' } = (await findTenantBySlug(central.db, slug)) ?? {};
    await createTenantLocks(createLockSession(central.db, () => undefined)).attempt(id, async () => {
      expect(await make(slug)).toMatchObject({ status: 409, body: { code: 'slug-taken' } });
      await finishOperations(app.engine);
      expect(await remainsOf(slug, name)).toEqual({ row: 'provisioning', database: true, role: true });
    });
    await finishOperations(app.engine);
    expect(await remainsOf(slug, name)).toEqual(NOTHING);
  });

  /** Leaves the remains of a process that was killed after the row, or after the database. Returns the database's name. */
  async function abandon(slug: string, withDatabase: boolean): Promise<string> {
    const name = newDatabaseName();
    const { host, port } = testConfig(registry).tenants.provisioner;
    const id = newTenantId();
    const claim = randomUUID();
    await central.db
      .insertInto('tenants')
      .values({
        id,
        name: 'Abandoned',
        slug,
        status: 'provisioning',
        cluster_id: null,
        db_host: host,
        db_port: port,
        db_name: name,
        db_user: name,
        db_password: 'v1.test.never.opened.here',
        pool_options: '{}',
        schema_version: '0001',
        claim,
        generation: 1,
      })
      .execute();
    const installation = await findInstallationId(central.db);
    const mark = markText({ installation, id, state: 'making', claim, generation: 1 });
    if (withDatabase) {
      const verifier = await scramVerifier('never-used', 1);
      await createRuntimeRole(provisioner.cluster, { name, verifier, connectionLimit: 1, mark });
      await createTenantDatabase(provisioner.cluster, { name, template, runtimeRole: name, mark });
    }
    return name;
  }
});

it('creates one tenant from simultaneous requests with one slug, and leaves nothing of the others', async () => {
  const slug = newSlug();
  const before = await namesOnServer();
  const answers = await Promise.all([make(slug), make(slug), make(slug)]);
  expect(answers.map(({ status }) => status).sort()).toEqual([201, 409, 409]);
  const after = await namesOnServer();
  expect(after).toHaveLength(before.length + 2);
});

/** Keeps a superuser's session in a database, which the provisioner cannot end. Returns a function that ends it. */
async function enter(database: string): Promise<() => Promise<void>> {
  const handle = connectAs<unknown>(database);
  let isIn: (pid: number) => void = () => undefined;
  let leave: () => void = () => undefined;
  const inside = new Promise<number>((resolve) => (isIn = resolve));
  const left = new Promise<void>((resolve) => (leave = resolve));
  const stay = handle.db.connection().execute(async (db) => {
    const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(db);
    isIn(rows[0]?.pid ?? 0);
    await left;
  });
  const pid = await Promise.race([inside, stay]);
  const end = async (): Promise<void> => {
    leave();
    await stay;
    await handle.close(0);
    // A session ends for its client a moment before it ends for the server.
    await asSuperuser('postgres', (db) => sql`select pg_terminate_backend(${pid}, 5000)`.execute(db));
  };
  let ended: Promise<void> | undefined;
  const unblock = (): Promise<void> => (ended ??= end());
  onTestFinished(unblock);
  return unblock;
}

async function run(database: string, statements: string): Promise<void> {
  await asSuperuser(database, (db) => sql.raw(statements).execute(db));
}

async function inTemplate(statement: string): Promise<void> {
  await run('postgres', `alter database ${template} allow_connections true`);
  await run(template, statement);
  await run('postgres', `alter database ${template} allow_connections false`);
}

/** Databases that this file's provisioner owns, and roles of which it is a member. */
async function namesOnServer(): Promise<string[]> {
  const { rows } = await asSuperuser('postgres', (db) =>
    sql<{ name: string }>`
      select 'database ' || datname as name from pg_database where datdba = ${provisionerRole}::regrole
      union all
      select distinct 'role ' || roleid::regrole from pg_auth_members where member = ${provisionerRole}::regrole
      order by 1`.execute(db),
  );
  return rows.map(({ name }) => name);
}
