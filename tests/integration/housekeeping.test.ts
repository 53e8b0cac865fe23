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
