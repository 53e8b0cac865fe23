// The rules behind GET /status: what is shared, what counts as failing, and what is said of it.
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, vi } from 'vitest';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import type { JobRow } from '../../db/registry/job-rows.js';
import { AppError } from '../../src/errors.js';
import type { JobState } from '../../src/jobs/job-states.js';
import { inPlainWords } from '../../src/jobs/plain-words.js';
import { createReports } from '../../src/operations/reports.js';
import { safeHost } from '../../src/replicas/presence.js';
import { createReplicaClock } from '../../src/replicas/replica-clock.js';
import { jobsStatus } from '../../src/status/job-status.js';
import { shareReading } from '../../src/status/shared-reading.js';
import type { FleetStatus } from '../../src/status/status-types.js';
import { verdictOn } from '../../src/status/verdict.js';

describe('a shared reading', () => {
  it('asks once for all who ask at once, and again when the value is old', async () => {
    let asked = 0;
    const read = shareReading(async () => (asked += 1), { lasts: 30, deadline: 1_000 });
    const parts = await Promise.all(Array.from({ length: 50 }, () => read()));
    expect(new Set(parts.map(({ value }) => value))).toEqual(new Set([1]));
    expect(await read()).toEqual({ value: 1 });
    await sleep(40);
    expect(await read()).toEqual({ value: 2 });
  });

  it('answers by its deadline, says so, and asks no second question while the first is under way', async () => {
    let asked = 0;
    let end = (): void => undefined;
    const ended = new Promise<void>((resolve) => (end = resolve));
    const read = shareReading(
      () => {
        asked += 1;
        return ended;
      },
      { lasts: 10_000, deadline: 20 },
    );
    expect(await read()).toEqual({ unreadable: 'a database did not answer in time (no answer within 20 ms)' });
    await sleep(1_050);
    expect(await read()).toEqual({ unreadable: 'a database did not answer in time (no answer within 20 ms)' });
    expect(asked).toBe(1);
    end();
    await sleep(1_050);
    expect(await read()).toEqual({ value: undefined });
    expect(asked).toBe(2);
  });
});

describe('an error in plain words', () => {
  it.each([
    [new DatabaseFault('unavailable', 'ECONNREFUSED'), 'a database could not be used (ECONNREFUSED)'],
    [new DatabaseFault('busy', '53300'), 'a database had no free connection in time (53300)'],
    [new AppError('unavailable', { detail: 'of ada@example.com' }), 'the service refused it (unavailable)'],
    [
      Object.assign(new Error('relation "x" of ada@example.com'), { code: '42P01', severity: 'ERROR' }),
      'a database refused a statement (42P01)',
    ],
    [Object.assign(new Error('open /secret'), { code: 'ENOENT' }), 'the system refused an operation (ENOENT)'],
    [Object.assign(new Error('odd'), { code: 'a password' }), 'an unexpected error, which the log shows'],
    [new TypeError('password=hunter2'), 'an unexpected error, which the log shows'],
    ['password=hunter2', 'an unexpected error, which the log shows'],
  ])('never has the text of %o', (error, words) => {
    expect(inPlainWords(error)).toBe(words);
  });
});

describe('the jobs of the fleet', () => {
  const row: JobRow = {
    name: 'purge',
    every: 60_000,
    runningOn: null,
    runningFor: null,
    lastRunAgo: 5_000,
    lastRunOn: 'one',
    lastDuration: 3,
    lastSuccessAgo: 5_000,
    lastSuccessAt: 1,
    failuresInARow: 0,
    lastError: null,
  };
  const own: JobState = {
    name: 'purge',
    every: 60_000,
    runningFor: 10,
    runs: 2,
    failures: 2,
    failuresInARow: 2,
    lastRunAgo: 1,
    lastSuccessAgo: undefined,
    lastDuration: 4,
    lastError: 'no',
  };

  it('are those of the registry, whatever the answering replica knows of its own runs', () => {
    expect(jobsStatus([{ ...row, runningOn: 'two', runningFor: 10 }], 'three', [own])).toEqual([
      {
        name: 'purge',
        every: 60_000,
        running: [{ replicaId: 'two', runningFor: 10 }],
        lastRunAgo: 5_000,
        lastRunOn: 'one',
        lastDuration: 3,
        lastSuccessAgo: 5_000,
        failing: [],
      },
    ]);
  });

  it('fail with the words of the last run, on the replica that ran it', () => {
    const failed = { ...row, failuresInARow: 4, lastError: 'it did not end within 60 s', lastSuccessAgo: null };
    expect(jobsStatus([failed], 'three', [])[0]?.failing).toEqual([
      { replicaId: 'one', failuresInARow: 4, lastError: 'it did not end within 60 s', lastSuccessAgo: null },
    ]);
  });

  it('are those of the answering replica if the registry cannot be read', () => {
    expect(jobsStatus(undefined, 'three', [own])).toEqual([
      {
        name: 'purge',
        every: 60_000,
        running: [{ replicaId: 'three', runningFor: 10 }],
        lastRunAgo: 1,
        lastRunOn: 'three',
        lastDuration: 4,
        lastSuccessAgo: null,
        failing: [{ replicaId: 'three', failuresInARow: 2, lastError: 'no', lastSuccessAgo: null }],
      },
    ]);
  });
});

describe('reports of databases that are left as they are', () => {
  const tenant = { id: 'a', dbName: 'tn_a', generation: 3 };

  it('are logged once, written once a minute, and written again when the write failed', () => {
    const logged: unknown[] = [];
    const reports = createReports((error) => logged.push(error));
    reports.left(tenant, 'it carries no mark');
    const first = reports.unwritten();
    expect(first.reports).toMatchObject([{ kind: 'evidence', subject: 'a', generation: 3, why: 'it carries no mark' }]);
    first.failed();
    expect(reports.unwritten().reports).toHaveLength(1);
    reports.left(tenant, 'it carries no mark');
    expect(reports.unwritten().reports).toHaveLength(0);
    reports.left({ ...tenant, generation: 4 }, 'it carries no mark');
    expect(reports.unwritten().reports).toMatchObject([{ generation: 4 }]);
    expect(logged).toHaveLength(1);
  });

  it('come to the registry a thousand at a time', () => {
    const reports = createReports(() => undefined);
    for (let id = 0; id < 1_500; id += 1) reports.left({ ...tenant, id: String(id) }, 'it carries no mark');
    expect(reports.unwritten().reports).toHaveLength(1_000);
    expect(reports.unwritten().reports).toHaveLength(500);
    expect(reports.unwritten().reports).toHaveLength(0);
  });
});

describe('the clock of a replica', () => {
  const clockAt = (own: () => number, onChange: (problem: string | undefined) => void = vi.fn()) =>
    createReplicaClock({
      registryClock: () => ({ source: 'a', earliest: 1_000, latest: 1_010 }),
      wallClock: own,
      tolerance: 2_500,
      onChange,
    });
  const skewAt = (own: number): number | undefined => clockAt(() => own).compare();

  it('is wrong only by what is certain', () => {
    expect([skewAt(1_000), skewAt(1_005), skewAt(1_010)]).toEqual([0, 0, 0]);
    expect([skewAt(400), skewAt(2_010)]).toEqual([-599, 1_000]);
  });

  it('counts while it is right, and the registry’s while it is wrong', () => {
    let own = 3_510;
    const onChange = vi.fn();
    const clock = clockAt(() => own, onChange);
    clock.compare();
    expect([clock.now(), clock.problem]).toEqual([3_510, undefined]);
    own = 3_511;
    clock.compare();
    clock.compare();
    expect(clock.problem).toBe("its clock is 3 s ahead of the registry's");
    expect(clock.now()).toBeGreaterThanOrEqual(1_005);
    expect(clock.now()).toBeLessThan(3_000);
    own = 1_005;
    clock.compare();
    expect([clock.now(), clock.problem]).toEqual([1_005, undefined]);
    expect(onChange.mock.calls).toEqual([["its clock is 3 s ahead of the registry's"], [undefined]]);
  });
});

it('shows a host name that any page can show', () => {
  expect(safeHost('web-1.example')).toBe('web-1.example');
  expect(safeHost('<script>"\n')).toBe('_script___');
  expect(safeHost('')).toBe('unknown');
  expect(safeHost('x'.repeat(1_000))).toHaveLength(253);
});

describe('the verdict', () => {
  const fine: Omit<FleetStatus, 'state' | 'reasons'> = {
    unreadable: [],
    here: {
      id: 'one',
      version: '1',
      schemaVersion: '0001',
      clockSkew: 0,
      notReady: null,
      feed: { live: true, notifyQueueUsage: 0 },
      redis: null,
      registry: { connections: 1, idle: 1, waiting: 0 },
      breakers: { clusters: 0, tenants: 0, open: [] },
    },
    tenants: null,
    work: null,
    reports: null,
    clusters: null,
    replicas: null,
    jobs: [],
    rollout: null,
    passwords: null,
  };

  it('is ok when there is nothing to say', () => {
    expect(verdictOn(fine)).toEqual({ state: 'ok', reasons: [] });
  });

  it('says why a rollout has stopped, and nothing of one that runs', () => {
    const items = { pending: 3, running: 0, done: 2, failed: 1, skipped: 0 };
    const rollout = { id: 'one', target: '0002', wave: 1, reason: null, items };
    expect(verdictOn({ ...fine, rollout: { ...rollout, state: 'running' } }).state).toBe('ok');
    expect(verdictOn({ ...fine, rollout: { ...rollout, state: 'stopped', reason: 'too many have failed' } })).toEqual({
      state: 'needs-person',
      reasons: ['The rollout one has stopped: too many have failed.'],
    });
  });

  it('names what needs a person first', () => {
    const reports = { counts: { evidence: 1, orphan: 0 }, oldest: [] };
    const here = { ...fine.here, feed: { live: false, notifyQueueUsage: 0 } };
    const { state, reasons } = verdictOn({ ...fine, here, reports });
    expect(state).toBe('needs-person');
    expect(reasons).toEqual([
      '1 database of a tenant is left as found, because mark and row do not agree.',
      'Replica one does not hear of changes: it asks the databases for what it would remember.',
    ]);
  });

  it('shows a bounded number of reasons', () => {
    const unreadable = Array.from({ length: 80 }, () => ({ part: 'jobs' as const, reason: 'no' }));
    const { state, reasons } = verdictOn({ ...fine, unreadable });
    expect(state).toBe('degraded');
    expect(reasons).toHaveLength(51);
    expect(reasons.at(-1)).toBe('There are 30 more reasons.');
  });

  it('names a job that does not end, and one that fails', () => {
    const job = { name: 'purge', every: 60_000, lastRunAgo: null, lastRunOn: null, lastDuration: null };
    const running = [
      { replicaId: 'one', runningFor: 1_200_000 },
      { replicaId: 'two', runningFor: 900_000 },
    ];
    const failing = [{ replicaId: 'one', failuresInARow: 1, lastError: 'no', lastSuccessAgo: null }];
    expect(verdictOn({ ...fine, jobs: [{ ...job, lastSuccessAgo: null, running, failing }] }).reasons).toEqual([
      'The job "purge" fails on replica one: no; 1 failure in a row.',
      'The job "purge" has been running on replica one for 20 min.',
    ]);
  });

  it('says how long operations have not ended, and which have stopped', () => {
    const work = [
      {
        kind: 'create',
        count: 4,
        states: { waiting: 3, 'needs-person': 1 },
        oldestFor: 7_500_000,
        late: 3,
        needsPerson: 2,
        oldest: [],
      },
      { kind: 'purge', count: 1, states: {}, oldestFor: 7_500_000, late: 1, needsPerson: 1, oldest: [] },
      { kind: 'conquer', count: 1, states: { waiting: 1 }, oldestFor: 700_000, late: 1, needsPerson: 0, oldest: [] },
    ];
    expect(verdictOn({ ...fine, work })).toEqual({
      state: 'needs-person',
      reasons: [
        'Stopped until a person acts: making a tenant (1).',
        'Not ended within an hour: making a tenant (1); the oldest began 2 h ago.',
        'Not ended within an hour: purging a deleted tenant (1); the oldest began 2 h ago.',
        'Not ended within ten minutes: making a tenant (1).',
        'Not ended within ten minutes: the operation "conquer" (1).',
      ],
    });
  });
});
