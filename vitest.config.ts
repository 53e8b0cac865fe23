import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** The longest first: one that began last would keep one processor busy and the others idle. */
const LONG = [
  'process/alerts',
  'process/docs',
  'process/start',
  'faults/operations-doors',
  'faults/lost-answers',
  'faults/registry-in-the-past',
  'faults/failover',
  'faults/lost-answers-adoption',
  'process/kills',
  'faults/operations-template',
  'process/replicas',
  'faults/lost-answers-lifecycle',
  'faults/provisioning',
  'fuzz/api',
  'process/topology',
  'process/first-migrations',
  'security/slow-input',
  'faults/lifecycle',
  'faults/operations-standby',
  'faults/standby-away',
  'faults/operations-template-workers',
  'faults/door-drift',
  'faults/operations-create',
  'faults/operations-adopt-remove',
  'timing/timing',
  'integration/rotation',
  'integration/keys',
  'faults/rotation',
  'faults/rotation-races',
  'faults/databases',
  'faults/evidence',
  'faults/evidence-attacks',
  'faults/evidence-adoptions',
  'process/vanished-host',
  'faults/shared-limits',
  'faults/notify-queue',
  'faults/counts',
  'faults/slots',
  'faults/destinations',
  'faults/breakers',
  'integration/idempotency',
  'integration/pools',
  'integration/lifecycle',
  'security/waited-for-connection',
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
    // A file has a database of its own and may run beside others. Files wait for servers and timers more than they compute: four
    // workers use 80 % of two cores. With more of them, statements would exceed their deadlines.
    maxWorkers: 4,
    // Files share a process and the modules that are loaded in it, which takes longer than most files run.
    isolate: false,
    sequence: { sequencer: LongestFirst },
    // A slow disk can take half a minute to delete the files of one database.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    restoreMocks: true,
  },
});
