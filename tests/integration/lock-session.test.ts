// The locks of a process in the registry: one connection for all of them, which frees them when the process is gone.
import { sql, type Kysely } from 'kysely';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { createLockSession, type LockSession } from '../../db/registry/lock-session.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import type { DatabaseHandle } from '../../db/driver/client.js';
import { asSuperuser, connectAs, createRegistry } from '../support/app.js';
import { eventually } from '../support/service-process.js';

let registry: string;
let handles: DatabaseHandle<Registry>[];
let here: LockSession;
let there: LockSession;
let lost: unknown[] = [];

beforeAll(async () => {
  registry = await createRegistry();
});

function open(onLost: (error: unknown) => void = () => undefined): LockSession {
  const handle = connectAs<Registry>(registry);
  handles.push(handle);
  return createLockSession(handle.db, onLost);
}

describe('locks', () => {
  beforeAll(() => {
    handles = [];
    here = open((error) => lost.push(error));
    there = open();
  });
  afterAll(async () => {
    await Promise.all([here.close(), there.close()]);
    await Promise.all(handles.map((handle) => handle.close(1_000)));
  });

  it('a lock that another process holds refuses the work, and another lock does not', async () => {
    const outcome = await here.attempt('one', async () => ({
      same: await there.attempt('one', () => Promise.resolve('ran')),
      other: await there.attempt('two', () => Promise.resolve('ran')),
    }));
    expect(outcome?.result).toEqual({ same: undefined, other: { result: 'ran' } });
    expect(await there.attempt('one', () => Promise.resolve('ran'))).toEqual({ result: 'ran' });
  });

  it('a lock that this process holds refuses the work too, although a session may lock twice', async () => {
    const outcome = await here.attempt('one', () => here.attempt('one', () => Promise.resolve('ran')));
    expect(outcome).toEqual({ result: undefined });
  });

  it('an error of the work frees the lock', async () => {
    await expect(here.attempt('one', () => Promise.reject(new Error('made to fail')))).rejects.toThrow('made to fail');
    expect(await there.attempt('one', () => Promise.resolve('ran'))).toEqual({ result: 'ran' });
  });

  it('fifty locks at once are on one connection', async () => {
    const names = Array.from({ length: 50 }, (_, index) => `lock ${index}`);
    let held = 0;
    let end: () => void = () => undefined;
    const ended = new Promise<void>((resolve) => (end = resolve));
    const works = names.map((name) =>
      here.attempt(name, () => {
        held += 1;
        return ended;
      }),
    );
    await eventually('all are held', () => held === names.length);
    const { rows } = await asSuperuser(registry, (db) =>
      sql<{ pid: number; locks: string }>`
        select pid, count(*) as locks from pg_locks where locktype = 'advisory' and database =
          (select oid from pg_database where datname = current_database()) group by pid`.execute(db),
    );
    end();
    await Promise.all(works);
    expect(rows.map(({ locks }) => locks)).toEqual(['50']);
  });

  it('when the connection is lost, the work learns it, and another process can take the lock', async () => {
    lost = [];
    const outcome = await here.attempt('one', async (held) => {
      expect(held.lost).toBe(false);
      await endSessionsWithLocks();
      const taken = await there.attempt('one', () => Promise.resolve('ran'));
      await eventually('the loss is noticed', () => held.lost, 10_000);
      return taken;
    });
    expect(outcome?.result).toEqual({ result: 'ran' });
    expect(lost).toHaveLength(1);
    // A new connection serves the next lock.
    expect(await here.attempt('one', () => Promise.resolve('ran'))).toEqual({ result: 'ran' });
  });
});

it('closing frees the locks, and later work is refused', async () => {
  handles = [];
  const first = open();
  const second = open();
  onTestFinished(async () => {
    await second.close();
    await Promise.all(handles.map((handle) => handle.close(1_000)));
  });
  await first.attempt('one', async () => {
    await first.close();
    await eventually(
      'the lock is free',
      async () => (await second.attempt('one', () => Promise.resolve('ran'))) !== undefined,
    );
  });
  await expect(first.attempt('one', () => Promise.resolve('ran'))).rejects.toThrow('the locks are closed');
});

function endSessionsWithLocks(): Promise<unknown> {
  return asSuperuser(registry, (db: Kysely<unknown>) =>
    sql`select pg_terminate_backend(pid, 5000) from pg_locks where locktype = 'advisory' and database =
      (select oid from pg_database where datname = current_database())`.execute(db),
  );
}
