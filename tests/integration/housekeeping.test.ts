// Housekeeping: a job runs on one replica at a time, and once per `every` in the fleet. It runs again after a failure, and moves to
// another replica when its own dies or does not end it.
import { setTimeout as sleep } from 'node:timers/promises';
import { sql, type Kysely } from 'kysely';
import { beforeAll, expect, it, onTestFinished } from 'vitest';
import { listJobs, type JobRow } from '../../db/registry/job-rows.js';
import { createLockSession } from '../../db/registry/lock-session.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { createHousekeeping, type Housekeeping } from '../../src/jobs/housekeeping.js';
import { asSuperuser, connectAs, createRegistry } from '../support/app.js';

let registry: string;
beforeAll(async () => {
  registry = await createRegistry();
});

let replicas = 0;

/** Another process, from the registry's point of view. Its id is `replica <n>`, counted from 1. */
function replica(errors: unknown[] = []): Housekeeping {
  const handle = connectAs<Registry>(registry);
  const locked = connectAs<Registry>(registry);
  const locks = createLockSession(locked.db, () => undefined);
  const housekeeping = createHousekeeping({
    registry: handle.db,
    locks,
    replicaId: `replica ${(replicas += 1)}`,
    onError: (error) => errors.push(error),
  });
  onTestFinished(async () => {
    await housekeeping.close();
    await locks.close();
    await Promise.all([locked.close(0), handle.close(0)]);
  });
  return housekeeping;
}

/** The job's row in the registry. */
async function rowOf(name: string): Promise<JobRow | undefined> {
  return asSuperuser(registry, async (db) =>
    (await listJobs(db as unknown as Kysely<Registry>, 1_000)).find((job) => job.name === name),
  );
}

/** The replica that runs the job, also if no beat says that it is alive. */
async function runningOn(name: string): Promise<string | null | undefined> {
  return asSuperuser(registry, async (db) => {
    const { rows } = await sql<{ on: string | null }>`
      select running_on as "on" from jobs where name = ${name}`.execute(db);
    return rows[0]?.on;
  });
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
  // The first run ends after all. It does not change what the second one wrote.
  await expect.poll(async () => (await rowOf('shared'))?.lastRunOn).toBe(`replica ${replicas}`);
  open();
  await expect.poll(() => one.stats()[0]?.runs).toBe(1);
  expect(await rowOf('shared')).toMatchObject({ lastRunOn: `replica ${replicas}`, failuresInARow: 0 });
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

it('runs a job once per `every` in the fleet, however many replicas there are, and on request at any time', async () => {
  const ran: string[] = [];
  const job = (name: string) => ({ name: 'rare', every: 1_500, run: () => Promise.resolve(void ran.push(name)) });
  const [one, other] = [replica(), replica()];
  one.add(job('one'));
  await expect.poll(() => ran).toEqual(['one']);
  await expect.poll(async () => (await rowOf('rare'))?.lastRunAgo).toEqual(expect.any(Number));
  other.add(job('other'));
  await sleep(500);
  expect(ran).toEqual(['one']);
  await other.runNow('rare');
  expect(ran).toEqual(['one', 'other']);
  expect(await rowOf('rare')).toMatchObject({ every: 1_500, lastRunOn: `replica ${replicas}` });
  // Both replicas wait for the same moment, and one of them runs it.
  await expect.poll(() => ran.length, { timeout: 30_000 }).toBe(3);
  await sleep(500);
  expect(ran.length).toBe(3);
});

it('ends a job at its deadline, counts it as failed, and lets another replica take it', async () => {
  const errors: unknown[] = [];
  const [one, other] = [replica(errors), replica()];
  const { opened, open } = gate();
  onTestFinished(open);
  let [begun, atOnce, most] = [0, 0, 0];
  let signal: AbortSignal | undefined;
  one.add({
    name: 'hangs',
    every: 20,
    deadline: 200,
    run: async (given) => {
      signal = given;
      begun += 1;
      atOnce += 1;
      most = Math.max(most, atOnce);
      // It ignores the signal.
      await opened;
      atOnce -= 1;
    },
  });
  await expect.poll(() => errors.length).toBe(1);
  expect(signal?.aborted).toBe(true);
  await expect
    .poll(() => rowOf('hangs'))
    .toMatchObject({
      failuresInARow: 1,
      lastError: 'it did not end within 200 ms',
      lastSuccessAgo: null,
    });
  expect(await runningOn('hangs')).toBeNull();
  let taken = 0;
  other.add({ name: 'hangs', every: 20, run: () => Promise.resolve(void (taken += 1)) });
  await expect.poll(() => taken).toBeGreaterThan(2);
  expect(await rowOf('hangs')).toMatchObject({ failuresInARow: 0, lastError: null });
  await one.runNow('hangs');
  expect([begun, most]).toEqual([1, 1]);
  open();
  // The replica runs the job again after the late run has ended.
  await expect.poll(() => begun, { timeout: 30_000 }).toBeGreaterThan(1);
  expect(most).toBe(1);
});

it('runs a job that a killed replica left running, as soon as it is due', async () => {
  await asSuperuser(registry, (db) =>
    sql`insert into jobs (name, every, running_on, running_since, last_run_at)
      values ('left', 1000, 'gone', now() - interval '1 hour', now() - interval '1 hour')`.execute(db),
  );
  // Nobody who is alive runs it.
  expect(await rowOf('left')).toMatchObject({ runningOn: null, runningFor: null });
  let runs = 0;
  replica().add({ name: 'left', every: NEVER, run: () => Promise.resolve(void (runs += 1)) });
  await expect.poll(() => runs).toBe(1);
  await expect.poll(() => runningOn('left')).toBeNull();
  expect(await rowOf('left')).toMatchObject({ lastRunOn: `replica ${replicas}`, lastError: null });
});

it('does not wait for a time that a wrong clock wrote, and leaves a job due that was broken off', async () => {
  await asSuperuser(registry, (db) =>
    sql`insert into jobs (name, every, last_run_at) values ('future', 1000, now() + interval '1 day')`.execute(db),
  );
  const housekeeping = replica();
  const began = gate();
  housekeeping.add({
    name: 'future',
    every: NEVER,
    run: async (signal) => {
      began.open();
      while (!signal.aborted) await sleep(5);
    },
  });
  await began.opened;
  expect(await runningOn('future')).toBe(`replica ${replicas}`);
  await housekeeping.close();
  expect(await runningOn('future')).toBeNull();
  expect(await rowOf('future')).toMatchObject({ failuresInARow: 0, lastRunOn: null });
});

it('is left to other replicas by one that cannot do it well, unless no other replica runs it', async () => {
  const ran: string[] = [];
  const every = 150;
  const able = replica();
  const unable = replica();
  const job = (who: string): { name: string; every: number; run: () => Promise<void> } => ({
    name: 'choosy',
    every,
    run: async () => void ran.push(who),
  });
  able.add(job('able'));
  await expect.poll(() => ran.length, { timeout: 30_000 }).toBeGreaterThan(0);
  unable.add({ ...job('unable'), reluctant: () => true });
  await expect.poll(() => ran.length, { timeout: 30_000 }).toBeGreaterThan(6);
  expect(ran).not.toContain('unable');
  await able.close();
  const since = performance.now();
  await expect.poll(() => ran.includes('unable'), { timeout: 30_000, interval: 20 }).toBe(true);
  expect(performance.now() - since).toBeGreaterThan(5 * every);
});
