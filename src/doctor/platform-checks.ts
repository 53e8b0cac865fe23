// What the doctor finds about the installation as a whole: its registry, Redis, clock, keys, waiting work and disk.
import { countWaitingForPerson, readRegistryTime } from '../../db/registry/fleet/doctor-queries.js';
import { registryMigrations } from '../../db/registry/migrations/index.js';
import { canRewriteAudit } from '../../db/registry/registry-grants.js';
import { CROWDED, queueUsage } from '../../db/server/notify-queue.js';
import { historyOf } from '../../db/shared/migrator.js';
import { duration } from '../lib/duration-words.js';
import { within } from '../lib/deadline.js';
import { inPlainWords } from '../jobs/plain-words.js';
import type { DoctorRooms } from './doctor-rooms.js';
import { finding, someOf, type Finding } from './findings.js';

/** A disk with a smaller share of free space than this is almost full. */
const LEAST_FREE = 0.05;

/** Longest wait (ms) for the first answer of Redis. */
const REDIS_PATIENCE = 3_000;

/** @param dataDir the folder of the PostgreSQL that starts by itself */
type Check = (rooms: DoctorRooms, dataDir: string | undefined) => Promise<Finding[]>;

/**
 * Examines the installation. A check that fails is a finding, and stops no other.
 *
 * @param dataDir the folder of the PostgreSQL that starts by itself; undefined if there is none
 */
export async function examinePlatform(rooms: DoctorRooms, dataDir?: string): Promise<Finding[]> {
  const found = await Promise.all(
    checks.map(async ([what, check]) => {
      try {
        return await check(rooms, dataDir);
      } catch (error) {
        return [finding('not-checked', {}, `The doctor could not check ${what}: ${inPlainWords(error)}.`)];
      }
    }),
  );
  return found.flat();
}

const checks: readonly (readonly [what: string, check: Check])[] = [
  [
    "the registry's schema",
    async ({ registry }) => {
      const { newer } = await historyOf(registry, registryMigrations);
      return newer.length === 0 ? [] : [finding('registry-newer', {}, `It has run ${someOf(newer)}.`)];
    },
  ],
  [
    "the rights on the registry's audit",
    async ({ registry }) =>
      (await canRewriteAudit(registry))
        ? [finding('audit-rewritable', {}, 'The role of DATABASE_URL can change or remove rows of the audit.')]
        : [],
  ],
  [
    'Redis',
    async ({ sharedStore }) => {
      if (!sharedStore) return [];
      await within(sharedStore.settled, REDIS_PATIENCE, () => new Error('late')).catch(() => undefined);
      const { available, reason } = sharedStore.state;
      return available ? [] : [finding('redis-away', {}, `Redis cannot be used: ${reason ?? 'it does not answer'}.`)];
    },
  ],
  [
    'the clock',
    async ({ registry, wallClock, clockTolerance }) => {
      const { skew, took } = await readRegistryTime(registry, wallClock);
      if (Math.abs(skew) - took / 2 <= clockTolerance) return [];
      const by = `${duration(Math.abs(skew))} ${skew > 0 ? 'ahead of' : 'behind'}`;
      return [finding('clock-wrong', {}, `The clock of this machine is ${by} the registry's.`)];
    },
  ],
  [
    'the queue of notifications',
    async ({ registry }) => {
      const usage = await queueUsage(registry);
      const share = `${Math.round(usage * 100)} %`;
      return usage < CROWDED
        ? []
        : [finding('notify-queue-full', {}, `The queue of the registry's server is ${share} full.`)];
    },
  ],
  [
    'the keys',
    async ({ reencryption }) => {
      const uses = await reencryption.uses();
      const lost = uses.filter(({ held }) => !held);
      const older = uses.filter(({ held, current, rows }) => held && !current && rows > 0);
      return [
        ...lost.map(({ kid, rows }) => {
          const key = kid === null ? 'no key that is known' : `the key "${kid}"`;
          return finding('key-missing', {}, `${rows} passwords are encrypted with ${key}.`);
        }),
        ...older.map(({ kid, rows }) =>
          finding('key-old', {}, `${rows} passwords are encrypted with the older key "${kid ?? ''}".`),
        ),
      ];
    },
  ],
  [
    'the operations',
    async ({ registry }) => {
      const waiting = await countWaitingForPerson(registry);
      if (waiting.length === 0) return [];
      return [
        finding('work-waits', {}, `These wait: ${waiting.map(({ kind, count }) => `${count} ${kind}`).join(', ')}.`),
      ];
    },
  ],
  [
    'the disk',
    async ({ freeDisk }, dataDir) => {
      const free = dataDir === undefined ? undefined : await freeDisk(dataDir);
      if (free === undefined || free >= LEAST_FREE) return [];
      return [finding('disk-full', {}, `${Math.floor(free * 100)} % of the disk of DATA_DIR are free.`)];
    },
  ],
];
