// Housekeeping: a job runs on one replica at a time, runs again after a failure, and moves to another replica when its own dies.
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { beforeAll, expect, it, onTestFinished } from 'vitest';
import type { Registry } from '../../db/registry/registry-schema.js';
import { createHousekeeping, type Housekeeping } from '../../src/jobs/housekeeping.js';
import { asSuperuser, connectAs, createRegistry } from '../support/app.js';

let registry: string;
beforeAll(async () => {
  registry = await createRegistry();
});

/** Another process, from the registry's point of view. */
function replica(errors: unknown[] = []): Housekeeping {
  const handle = connectAs<Registry>(registry);
  const housekeeping = createHousekeeping({ registry: handle.db, onError: (error) => errors.push(error) });
  onTestFinished(async () => {
    await housekeeping.close();
    await handle.close(0);
  });
  return housekeeping;
}

/** A promise that the test resolves. */
function gate(): { opened: Promise<void>; open: () => void } {
  let open = (): void => undefined;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { opened, open };
}

const NEVER = 3_600_000;

it('housekeeping runs a job at once, again after its time, and on request', async () => {
  let runs = 0;
  const job = { run: () => Promise.resolve(void (runs += 1)) };
  const housekeeping = replica();
  housekeeping.add({ name: 'often', every: 10, ...job });
  await expect.poll(() => runs).toBeGreaterThanOrEqual(3);
  let asked = 0;
  housekeeping.add({ name: 'seldom', every: NEVER, run: () => Promise.resolve(void (asked += 1)) });
  await expect.poll(() => asked).toBe(1);
  await housekeeping.runNow('seldom');
  expect(asked).toBe(2);
  await expect(housekeeping.runNow('unknown')).rejects.toThrow('there is no job "unknown"');
});

it('housekeeping runs a job on one replica at a time, and on another after the connection of the first is gone', async () => {
  const { opened, open } = gate();
  const ran: string[] = [];
  const [one, other] = [replica(), replica()];
  // Registered after the replicas, so that the gate opens before they close.
  onTestFinished(open);
  one.add({
    name: 'shared',
    every: NEVER,
    run: () => {
      ran.push('one');
      return opened;
    },
  });
  await expect.poll(() => ran).toEqual(['one']);
  other.add({ name: 'shared', every: 20, run: () => Promise.resolve(void ran.push('other')) });
  await sleep(200);
  expect(ran).toEqual(['one']);
  await asSuperuser('postgres', (db) =>
    sql`select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted
      and database = (select oid from pg_database where datname = ${registry})`.execute(db),
  );
  await expect.poll(() => ran.length).toBeGreaterThan(1);
  expect(ran[1]).toBe('other');
});

it('housekeeping runs a job once more for all requests during a run, because the run may have looked already', async () => {
  let runs = 0;
  const { opened, open } = gate();
  const housekeeping = replica();
  housekeeping.add({
    name: 'asked',
    every: NEVER,
    run: async () => {
      runs += 1;
      await opened;
    },
  });
  await expect.poll(() => runs).toBe(1);
  const asked = Promise.all([housekeeping.runNow('asked'), housekeeping.runNow('asked')]);
  open();
  await asked;
  expect(runs).toBe(2);
});

it('housekeeping reports a failure, frees the lock and tries again', async () => {
  const errors: unknown[] = [];
  let runs = 0;
  const failure = new Error('not this time');
  replica(errors).add({
    name: 'failing',
    every: 10,
    run: () => {
      runs += 1;
      return runs < 3 ? Promise.reject(failure) : Promise.resolve();
    },
  });
  await expect.poll(() => runs).toBeGreaterThanOrEqual(4);
  expect(errors).toEqual([failure, failure]);
});

it('housekeeping signals a running job to stop, and waits for it', async () => {
  const housekeeping = replica();
  const began = gate();
  let stopped = false;
  housekeeping.add({
    name: 'long',
    every: 1,
    run: async (signal) => {
      began.open();
      while (!signal.aborted) await sleep(5);
      stopped = true;
    },
  });
  await began.opened;
  await housekeeping.close();
  expect(stopped).toBe(true);
  stopped = false;
  await housekeeping.runNow('long');
  expect(stopped).toBe(false);
});

it('housekeeping starts no queued job after it was closed', async () => {
  const { opened, open } = gate();
  const ran: string[] = [];
  const handle = connectAs<Registry>(registry);
  onTestFinished(() => handle.close(0));
  const housekeeping = createHousekeeping({ registry: handle.db, atOnce: 1, onError: () => undefined });
  const job = (name: string) => ({ name, every: NEVER, run: () => (ran.push(name), opened) });
  housekeeping.add(job('long'));
  housekeeping.add(job('waits'));
  await expect.poll(() => ran).toEqual(['long']);
  const closed = housekeeping.close();
  open();
  await closed;
  expect(ran).toEqual(['long']);
});

it('knows of each job when it last ran and worked, and says in plain words why it fails', async () => {
  const housekeeping = replica();
  let broken = true;
  const { opened, open } = gate();
  housekeeping.add({
    name: 'mended',
    every: 10,
    run: () =>
      broken
        ? Promise.reject(
            Object.assign(new Error('relation "secret" does not exist'), { code: '42P01', severity: 'ERROR' }),
          )
        : Promise.resolve(),
  });
  housekeeping.add({ name: 'long', every: NEVER, run: () => opened });
  const of = (name: string) => housekeeping.stats().find((job) => job.name === name);
  await expect.poll(() => of('mended')?.failuresInARow).toBeGreaterThan(1);
  expect(of('mended')).toMatchObject({
    every: 10,
    lastError: 'a database refused a statement (42P01)',
    lastSuccessAgo: undefined,
    lastRunAgo: expect.any(Number) as unknown,
    lastDuration: expect.any(Number) as unknown,
  });
  expect(of('long')).toMatchObject({ runs: 0, runningFor: expect.any(Number) as unknown, lastRunAgo: undefined });
  broken = false;
  open();
  await expect.poll(() => of('mended')?.failuresInARow).toBe(0);
  expect(of('mended')).toMatchObject({ lastError: undefined, lastSuccessAgo: expect.any(Number) as unknown });
  await expect.poll(() => of('long')).toMatchObject({ runs: 1, failures: 0, runningFor: undefined });
});

it('counts no run of a job that another replica runs', async () => {
  const { opened, open } = gate();
  const [one, other] = [replica(), replica()];
  onTestFinished(open);
  one.add({ name: 'taken', every: NEVER, run: () => opened });
  await expect.poll(() => one.stats()[0]?.runningFor).toEqual(expect.any(Number));
  other.add({ name: 'taken', every: 10, run: () => Promise.resolve() });
  await sleep(100);
  expect(other.stats()).toMatchObject([{ runs: 0, failures: 0, runningFor: undefined, lastRunAgo: undefined }]);
});
