import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** The longest first: one that began last would keep one processor busy and the others idle. */
const LONG = [
  'process/alerts',
  'process/kills',
  'process/api-page',
  'process/docs',
  'process/tenantry',
  'process/each',
  'faults/keyed-acts',
  'faults/read-cache',
  'faults/operations-doors',
  'faults/status',
  'integration/status',
  'faults/operations-create',
  'faults/operations-template',
  'integration/clusters',
  'faults/provisioning',
  'faults/operations-template-workers',
  'security/slow-input',
  'faults/lost-answers-adoption',
  'process/topology',
  'fuzz/api',
  'process/start',
  'process/tenantry-page',
  'faults/door-drift',
  'faults/registry-in-the-past',
  'process/replicas',
  'faults/lifecycle',
  'integration/sessions',
  'process/migrate',
  'integration/metrics-server',
  'security/held-back-body',
  'integration/slot-leases',
  'integration/auth',
  'faults/evidence-adoptions',
  'faults/operations-adopt-remove',
  'security/flood',
  'integration/audit',
  'process/vanished-host',
  'integration/tenant-pools',
  'integration/metrics',
  'process/shared-redis',
  'faults/operations-standby',
  'faults/shared-limits',
  'faults/databases',
  'security/waited-for-connection',
  'faults/evidence-attacks',
  'faults/neighbours',
  'integration/limits',
  'integration/standby',
  'faults/read-cache-histories',
  'faults/breakers',
  'process/first-migrations',
  'process/generated-client',
  'faults/failover',
  'integration/governor',
  'integration/embedded',
  'faults/feed',
  'integration/users',
  'process/metrics',
  'faults/counts',
  'integration/job-pages',
  'integration/tenant-states',
  'integration/rotation',
  'faults/notify-queue',
  'faults/slots',
  'process/log-level',
  'faults/lost-answers',
  'faults/lost-answers-lifecycle',
  'timing/timing',
];

const rankOf = ({ moduleId }: TestSpecification): number => {
  const rank = LONG.findIndex((file) => moduleId.endsWith(`tests/${file}.test.ts`));
  return rank < 0 ? LONG.length : rank;
};

/** The long files first, the others as vitest has them: by size, or by how long they took the last time. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    return (await super.sort(files)).sort((one, other) => rankOf(one) - rankOf(other));
  }
}

export default defineConfig({
  test: {
    include: ['tests/**/*.test.ts'],
    globalSetup: ['tests/support/global-setup.ts'],
    // A file has a database of its own and may run beside others. Files wait for servers and timers as long as they compute. With
    // more workers on two cores, statements would exceed their deadlines.
    maxWorkers: 5,
    // A worker runs many files: it would collect the garbage of a small young generation all the time.
    execArgv: ['--max-semi-space-size=32'],
    // Files share a process and the modules that are loaded in it, which takes longer than most files run.
    isolate: false,
    sequence: { sequencer: LongestFirst },
    // A slow disk can take half a minute to delete the files of one database.
    testTimeout: 60_000,
    hookTimeout: 240_000,
    // A busy machine makes a poll wait. What never happens fails all the same.
    expect: { poll: { timeout: 30_000 } },
    restoreMocks: true,
  },
});
