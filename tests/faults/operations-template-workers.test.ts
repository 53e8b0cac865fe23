// Making the template of a server as an operation, with several workers: one that vanished, one that lost its operation to an
// operator or another worker, and several at once. Each ends with one template, and without a database that is half-built.
import { sql } from 'kysely';
import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, inject, it, onTestFinished } from 'vitest';
import type { Registry } from '../../db/registry/registry-schema.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { openProvisioner } from '../../src/clusters/provisioner-connections.js';
import { migrateAll } from '../../src/rollouts/migrate-fleet.js';
import { asSuperuser, connectAs, type Answer, type Problem, type TestService } from '../support/app.js';
import { finishOperations } from '../support/operations.js';
import { eventually } from '../support/service-process.js';
import { startTemplateWorld, VERSION, type TemplateWorld } from '../support/template-world.js';

const MIGRATIONS = Object.keys(tenantMigrations).length;

let world: TemplateWorld;
beforeAll(async () => {
  world = await startTemplateWorld();
});
afterAll(() => world.close());
afterEach(() => {
  world.calm();
});

describe('a worker', () => {
  it.each(['make', 'migrate'])(
    'that vanishes after the step %s is replaced within 30 s, and changes nothing more',
    async (step) => {
      await world.dropAll();
      const { reached, resume } = world.pauseAfter(step);
      const { id } = await world.begin();
      await reached;
      await world.endSessions(true);
      await eventually('it is done', async () => (await world.read(id)).state === 'done', 30_000);
      await world.expectOneTemplate();
      resume();
      await finishOperations(world.here.app.engine);
      await world.expectOneTemplate();
    },
    60_000,
  );

  it('that lost only its lock in the registry is waited for, and two templates are never made', async () => {
    await world.dropAll();
    const { reached, resume } = world.pauseAfter('make');
    const { id } = await world.begin();
    await reached;
    await world.endSessions(false);
    await eventually('another worker has it', async () => (await world.read(id)).attempts > 2, 30_000);
    expect(await world.namesOf('template')).toEqual([]);
    resume();
    await eventually('it is done', async () => (await world.read(id)).state === 'done', 30_000);
    await world.expectOneTemplate();
  }, 60_000);

  it('of a newer build keeps its operation, and that of an older build is undone', async () => {
    await world.dropAll();
    const newer = await world.record({ version: '9999_newer' });
    await finishOperations(world.here.app.engine);
    expect(await world.read(newer.id)).toMatchObject({ state: 'waiting' });
    await world.there.send('POST', `/operations/${newer.id}/abandon`, { token: world.there.operatorToken });
    const older = await world.record({ version: '0001_identity' });
    await finishOperations(world.here.app.engine);
    expect(await world.read(older.id)).toMatchObject({
      state: 'undone',
      error: expect.stringContaining('an older schema version') as string,
    });
    expect([await world.namesOf('template'), await world.namesOf('building')]).toEqual([[], []]);
  });
});

describe('an abandoned operation', () => {
  it('drops nothing and seals nothing, and the next building drops what it left', async () => {
    await world.dropAll();
    const { reached, resume } = world.pauseAfter('make');
    const { id, work } = await world.begin();
    await reached;
    const before = await world.namesOf('building');
    expect(before).toHaveLength(1);
    const abandoned = await world.there.send('POST', `/operations/${id}/abandon`, { token: world.there.operatorToken });
    expect(abandoned.status, abandoned.text).toBe(200);
    resume();
    await work;
    expect([await world.namesOf('template'), await world.namesOf('building')]).toEqual([[], before]);
    expect(await world.read(id)).toMatchObject({ state: 'abandoned' });
    await world.record();
    await finishOperations(world.here.app.engine);
    await world.expectOneTemplate();
  });

  it('leaves a template that it has made', async () => {
    await world.dropAll();
    const { reached, resume } = world.pauseAfter('seal');
    const { id, work } = await world.begin();
    await reached;
    await world.there.send('POST', `/operations/${id}/abandon`, { token: world.there.operatorToken });
    resume();
    await work;
    expect(await world.read(id)).toMatchObject({ state: 'abandoned' });
    await world.expectOneTemplate();
  });
});

it('a building drops what earlier ones left, and nothing of a newer build, of another installation, or that a row names', async () => {
  await world.dropAll();
  const own = await world.installation();
  const building = (version: string, installation = own): string => `tenantry ${installation} building ${version}`;
  await world.halfBuilt('tenantry_building_unmarked', null);
  await world.halfBuilt('tenantry_building_same', building(VERSION));
  await world.halfBuilt('tenantry_building_older', building('0001_identity'));
  await world.halfBuilt('tenantry_building_newer', building('9999_newer'));
  await world.halfBuilt('tenantry_building_other', building(VERSION, randomUUID()));
  await world.halfBuilt('tenantry_building_named', building(VERSION));
  await asSuperuser(world.registry, (db) =>
    sql`insert into standby_databases (id, cluster_id, db_name, db_user, db_password, schema_version, ready)
      values (gen_random_uuid(), ${world.clusterId}, 'tenantry_building_named', 'nobody', 'v1.never.opened', '0001', true)`.execute(
      db,
    ),
  );
  onTestFinished(async () => {
    await asSuperuser(world.registry, (db) => sql`delete from standby_databases`.execute(db));
    await world.dropAll();
  });
  await world.record();
  await finishOperations(world.here.app.engine);
  expect(await world.namesOf('template')).toHaveLength(1);
  expect(await world.namesOf('building')).toEqual(
    ['newer', 'other', 'named'].map((name) => `tenantry_building_${name}`).sort(),
  );
});

describe('at once', () => {
  /** What `npm run migrate` does, with the second server as its default cluster. */
  async function migrate(): Promise<{ templateMade: boolean }> {
    const { registryOwner } = inject('cluster');
    const handle = connectAs<Registry>(world.registry, registryOwner);
    const { user } = world.second.provisioner;
    const limits = { max: 2, acquireTimeout: 10_000, timeout: 60_000, idleTimeoutMillis: 1_000 };
    const opened = openProvisioner(world.second.provisioner, limits);
    const place = { host: world.server.host, port: world.server.port };
    try {
      return await migrateAll({ registry: handle.db, ...opened, provisioner: user, place });
    } finally {
      await Promise.all([opened.close(), handle.close(0)]);
    }
  }

  const patch = (service: TestService): Promise<Answer<Problem>> =>
    service.send<Problem>('PATCH', `/clusters/${world.clusterId}`, {
      token: world.there.operatorToken,
      body: { provisionerPassword: world.second.provisioner.password },
    });

  it('two changes and two migrations make one template', async () => {
    await world.dropAll();
    const before = (await world.operations()).map(({ id }) => id);
    const [one, two, ...migrated] = await Promise.all([patch(world.here), patch(world.there), migrate(), migrate()]);
    expect([one.status, two.status], one.text + two.text).toEqual([200, 200]);
    expect(migrated.filter(({ templateMade }) => templateMade).length).toBeLessThan(2);
    await world.expectOneTemplate();
    const made = (await world.operations()).filter(({ id }) => !before.includes(id));
    expect(made.map(({ state }) => state)).toEqual(['done']);
    expect(made[0]).toMatchObject({ clusterId: world.clusterId });
  });

  it('a migration waits for the replica that has the operation, and makes nothing', async () => {
    await world.dropAll();
    const { reached, resume } = world.pauseAfter('make');
    const { id } = await world.begin();
    await reached;
    const migration = migrate();
    resume();
    expect(await migration).toMatchObject({ templateMade: false });
    expect(await world.read(id)).toMatchObject({ state: 'done' });
    await world.expectOneTemplate();
  });

  it('a migration continues the operation of a worker that is gone', async () => {
    await world.dropAll();
    const { id } = await world.record({ worker: 'a replica that died' });
    expect(await migrate()).toMatchObject({ templateMade: true });
    expect(await world.read(id)).toMatchObject({ state: 'done' });
    await world.expectOneTemplate();
  });
});

it('is listed with its progress', async () => {
  await world.dropAll();
  const { reached, resume } = world.pauseAfter('migrate');
  const { id, work } = await world.begin();
  await reached;
  const [operation] = await world.operations(`&cluster=${world.clusterId}`);
  expect(operation).toMatchObject({
    id,
    kind: 'template',
    state: 'running',
    step: 'migrate',
    progress: { done: MIGRATIONS, total: MIGRATIONS },
    message: expect.stringMatching(/making the template database of a cluster at the step "migrate"/) as string,
  });
  resume();
  await work;
  expect(await world.read(id)).toMatchObject({ state: 'done' });
});
