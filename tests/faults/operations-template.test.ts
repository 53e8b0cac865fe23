// Making the template of a server as an operation: an error or a lost answer at each step, also while the server is registered. Each
// ends with one template, and without a database that is half-built.
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { parseExposition } from '../support/exposition.js';
import { sampleOf } from '../support/lost-answers.js';
import { finishOperations } from '../support/operations.js';
import { eventually } from '../support/service-process.js';
import type { Verdict } from '../support/statement-proxy.js';
import { startTemplateWorld, type TemplateWorld } from '../support/template-world.js';

const STEPS = ['make', 'migrate', 'seal'] as const;

let world: TemplateWorld;
beforeAll(async () => {
  world = await startTemplateWorld();
});
afterAll(() => world.close());
afterEach(() => {
  world.calm();
});

const lost = (): Error => new DatabaseFault('unavailable', 'connection lost');
const refused = (): Error => new Error('the step was refused');

describe('a step', () => {
  it.each(STEPS)('%s whose answer is lost is done by the next attempt', async (step) => {
    await world.dropAll();
    world.failAfter(step, lost());
    const { id, work } = await world.begin();
    await work;
    await finishOperations(world.here.app.engine);
    await eventually('it is done', async () => (await world.read(id)).state === 'done');
    expect((await world.read(id)).attempts).toBeGreaterThan(2);
    await world.expectOneTemplate();
  });

  it.each(STEPS)('%s that is refused leaves nothing half-built, and drops no template', async (step) => {
    await world.dropAll();
    world.failAfter(step, refused());
    const { id, work } = await world.begin();
    await work;
    await finishOperations(world.here.app.engine);
    await eventually('it is undone', async () => (await world.read(id)).state === 'undone');
    expect(await world.namesOf('building')).toEqual([]);
    expect(await world.namesOf('template')).toHaveLength(step === 'seal' ? 1 : 0);
    await finishOperations(world.here.app.engine);
    await world.record();
    await finishOperations(world.here.app.engine);
    await world.expectOneTemplate();
  });

  it.each([
    ['the lock', /select pg_advisory_lock/],
    ['the search for half-built templates', /starts_with\(datname/],
    ['the database', /create database/],
    ['its mark', /comment on database .* allow_connections true/s],
    ['a migration', /create table "?products/],
    ['the commit of the migrations', /^commit/],
    ['closing', /^alter database \S+ allow_connections false/],
    ['the name', /rename to/],
    ['the release of the lock', /pg_advisory_unlock\(hashtext/],
  ])('whose statement loses its answer ends with one template: %s', async (_name, pattern) => {
    await world.dropAll();
    const happened = world.loseAnswer(world.server, (statement) => pattern.test(statement));
    const { id, work } = await world.begin();
    await work;
    await finishOperations(world.here.app.engine);
    await eventually('it is done', async () => (await world.read(id)).state === 'done');
    expect(happened()).toBe(true);
    await world.expectOneTemplate();
  });

  it('that has ended the operation counts, if only the release of the lock loses its answer', async () => {
    await world.dropAll();
    const ended = async (): Promise<number> => {
      const { body } = await world.here.app.engine.metrics.expose();
      return parseExposition(body).sum('tenantry_operations_ended_total', { kind: 'template', outcome: 'done' }) ?? 0;
    };
    const before = await ended();
    const happened = world.loseAnswer(world.server, (statement) => statement.includes('pg_advisory_unlock(hashtext'));
    await (
      await world.begin()
    ).work;
    expect([happened(), (await ended()) - before]).toEqual([true, 1]);
  });

  it('whose statement in the registry loses its answer ends with one template, whichever statement it is', async () => {
    /** @param nth 0 loses no answer */
    const makeWithLoss = async (nth: number): Promise<{ seen: readonly string[]; happened: boolean }> => {
      await world.dropAll();
      const seen: string[] = [];
      const isLost = world.loseAnswer(world.central, (statement) => seen.push(statement) === nth);
      const { id, work } = await world.begin();
      await work.catch(() => undefined);
      world.central.onStatement = () => 'pass';
      await eventually(`it is done, without the answer to statement ${nth}`, async () => {
        await finishOperations(world.there.app.engine);
        return (await world.read(id)).state === 'done';
      });
      await world.expectOneTemplate();
      return { seen, happened: isLost() };
    };
    const { seen } = await makeWithLoss(0);
    let losses = 0;
    for (const nth of sampleOf(seen, 2)) if ((await makeWithLoss(nth)).happened) losses += 1;
    // Otherwise nothing was tested.
    expect(losses).toBeGreaterThan(4);
  }, 240_000);
});

describe('registering a cluster', () => {
  it.each(STEPS)('makes one template, also if the answer is lost at the step %s', async (step) => {
    await world.dropAll();
    world.failAfter(step, lost());
    const answer = await world.register(await world.newPlace());
    expect(answer.status, answer.text).toBe(201);
    await world.expectOneTemplate();
    // After a lost answer a replica ends it.
    await expect
      .poll(async () => (await world.operations())[0], { timeout: 30_000 })
      .toMatchObject({ state: 'done', clusterId: null });
  });

  it('is refused if a step is refused, and leaves nothing half-built', async () => {
    await world.dropAll();
    world.failAfter('migrate', refused());
    const place = await world.newPlace();
    expect(await world.register(place)).toMatchObject({ status: 422, body: { code: 'cluster-unusable' } });
    expect([await world.namesOf('template'), await world.namesOf('building')]).toEqual([[], []]);
    expect((await world.operations())[0]).toMatchObject({ state: 'undone' });
    expect((await world.register(place)).status).toBe(201);
    await world.expectOneTemplate();
  });

  it('is answered at its deadline while the server hangs, and what began is finished without it', async () => {
    await world.dropAll();
    const place = await world.newPlace();
    let release = (): void => undefined;
    const held = new Promise<void>((resolve) => (release = resolve));
    onTestFinished(() => {
      release();
    });
    place.onStatement = async ({ sql: statement }): Promise<Verdict> => {
      if (statement.startsWith('create database')) await held;
      return 'pass';
    };
    expect(await world.register(place)).toMatchObject({ status: 503, body: { code: 'unavailable' } });
    expect((await world.operations())[0]).toMatchObject({ state: 'running' });
    release();
    await eventually('it is done', async () => (await world.operations())[0]?.state === 'done');
    await world.expectOneTemplate();
  }, 60_000);

  it('that a crash cut short leaves an undone operation, and the next building drops what it left', async () => {
    await world.dropAll();
    const place = await world.newPlace();
    const { reached, resume } = world.pauseAfter('migrate');
    const first = world.register(place);
    await reached;
    const [operation] = await world.operations();
    await world.endSessions(true);
    await eventually('it is undone', async () => (await world.read(operation?.id ?? '')).state === 'undone', 30_000);
    expect((await world.read(operation?.id ?? '')).error).toContain('the cluster is not registered');
    expect([await world.namesOf('template'), (await world.namesOf('building')).length]).toEqual([[], 1]);
    resume();
    expect(await first).toMatchObject({ status: 503, body: { code: 'unavailable' } });
    expect((await world.register(place)).status).toBe(201);
    await world.expectOneTemplate();
  }, 60_000);
});
