// What `npm run migrate` writes on a terminal.
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import { HistoryDiffers } from '../../db/shared/migration-history.js';
import { showProgress, showReport } from '../../src/cli/terminal-report.js';
import type { MigrationReport } from '../../src/rollouts/migrate-fleet.js';

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['performance'] });
});
afterEach(() => {
  vi.useRealTimers();
});

const tenant = (slug: string): TenantRecord => ({ id: `id-of-${slug}`, slug }) as TenantRecord;

it('shows a line a second with the time that is left, each failure, and the last tenant', () => {
  let text = '';
  const { registry, tenant: told } = showProgress((more) => (text += more));
  registry?.(['0018_more']);
  for (let done = 1; done <= 10; done += 1) {
    vi.advanceTimersByTime(400);
    told?.(tenant(`t${done}`), { done, all: 10 });
  }
  told?.(tenant('late'), { done: 10, all: 11, error: new HistoryDiffers(['It has run 0002_b.']), again: true });
  told?.(tenant('late'), { done: 11, all: 11, error: new Error('its text is not shown') });
  expect(text.split('\n')).toEqual([
    'registry   ran 0018_more',
    'tenants    3 of 10, 3 s left',
    'tenants    6 of 10, 2 s left',
    'tenants    9 of 10, 1 s left',
    'tenants    10 of 10',
    "  failed, tried again later: late (id-of-late): The history of the database differs from this build's. It has run 0002_b.",
    '  failed: late (id-of-late): an unexpected error, which the log shows.',
    'tenants    11 of 11',
    '',
  ]);
});

it('ends with what was done, and what was not', () => {
  const nothing: MigrationReport = {
    registry: [],
    templateMade: false,
    clustersFailed: [],
    tenantsMigrated: 0,
    tenantsCurrent: 3,
    tenantsUnfinished: 0,
    tenantsOfFailedClusters: 0,
    standbyWithdrawn: 0,
    rolesBounded: 0,
    databasesMarked: 0,
    newer: [],
    templatesLeft: [],
    failed: [],
  };
  const shown = (report: Partial<MigrationReport>): string => {
    let text = '';
    showReport((more) => (text += more), { ...nothing, ...report });
    return text;
  };
  expect(shown({})).toBe('template   up to date\ntenants    0 migrated, 3 up to date, 0 failed\n');
  expect(
    shown({
      templateMade: true,
      clustersFailed: [{ cluster: '10.0.0.1:5432', error: new Error('hidden') }],
      tenantsUnfinished: 1,
      tenantsOfFailedClusters: 6,
      standbyWithdrawn: 2,
      rolesBounded: 4,
      databasesMarked: 5,
      newer: ['0099_x'],
      templatesLeft: [{ name: 'tenantry_template_a', why: 'its mark changed' }],
      failed: [{ tenant: tenant('acme'), error: new Error('hidden') }],
    }),
  ).toBe(
    [
      'template   made',
      '  failed: the cluster 10.0.0.1:5432: an unexpected error, which the log shows.',
      'standby    2 databases of an older build withdrawn',
      'tenants    0 migrated, 3 up to date, 1 failed',
      '  not reached: 6 on clusters that failed',
      '  unfinished: 1 that an older build is making. Run this again when it has ended',
      'roles      4 bounded',
      'marks      5 databases of a former build marked',
      '  kept: the template tenantry_template_a, because its mark changed',
      'newer      the fleet is newer than this build, which leaves it as it is: 0099_x',
      '  failed: acme (id-of-acme): an unexpected error, which the log shows.',
      '',
    ].join('\n'),
  );

  const rollout = { id: 'r1', state: 'done', reason: null, differences: 0, firstDifference: null } as const;
  expect(shown({ rollout })).toBe(shown({}));
  expect(
    shown({
      rollout: { ...rollout, state: 'stopped', reason: '3 have failed', differences: 2, firstDifference: 'acme: x' },
    }),
  ).toBe(
    [
      'template   up to date',
      'tenants    0 migrated, 3 up to date, 0 failed',
      'rollout    r1 is stopped: 3 have failed',
      'drift      2 tenants differ from the template, first acme: x',
      '',
    ].join('\n'),
  );
  expect(shown({ rollout: { ...rollout, state: 'running' } })).toContain(
    'rollout    r1 goes on when the clusters answer, on a replica of this build or in the next run\n',
  );
  expect(shown({ blocked: 'the rollout r1 is paused: run this with --resume to go on' })).toContain(
    '  not begun: the rollout r1 is paused: run this with --resume to go on\n',
  );
});
