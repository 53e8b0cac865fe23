// Passwords: argon2id with OWASP's parameters, a bound on how many are hashed at once, less of it while other requests need
// the processor, and the same work for a user that does not exist.
import { hash, verify, argon2id } from 'argon2';
import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { Slots } from '../slots.js';

/** OWASP Password Storage Cheat Sheet, argon2id: 19 MiB, two passes, one lane. */
const PARAMETERS = { type: argon2id, memoryCost: 19_456, timeCost: 2, parallelism: 1 } as const;

/** Hashes that may wait, per hash that runs: more are refused at once, so that a flood cannot queue up minutes of work. */
const WAITING_PER_SLOT = 50;

/** Longest wait (ms) for a hash to begin, on a machine that has no time for it: nobody waits longer to sign in. */
const PATIENCE = 10_000;

/** The share of its time that the event loop may be busy before hashing steps back. Signing people in alone uses less. */
const UNHURRIED = 0.5;

/**
 * How much longer than its hash took a slot then rests, for each whole by which the event loop was busier: with 0.75 three
 * times as long. Measured with `npm run bench -- --scenario flood-login` (docs/performance.md).
 */
const REST = 12;

export interface Passwords {
  /** The hash in the PHC string format. @throws AppError `unavailable` while too many hashes wait, or for too long */
  hash(password: string): Promise<string>;
  /**
   * Whether the password is the one behind `passwordHash`. Undefined (no such user) is false after the same work.
   *
   * @throws AppError `unavailable` while too many hashes wait, or for too long
   */
  verify(passwordHash: string | undefined, password: string): Promise<boolean>;
}

/**
 * @param concurrency hashes that run at once; each takes a thread of libuv for some 20 ms
 * @param watch begins to watch the event loop; what it returns tells the share of the time since that it was busy
 */
export async function createPasswords(
  concurrency: number,
  watch: () => () => number = watchEventLoop,
): Promise<Passwords> {
  const slots = new Slots(concurrency, concurrency * WAITING_PER_SLOT, PATIENCE);
  const nobody = await hash('the password of nobody', PARAMETERS);

  /** The answer does not wait for the rest behind it. */
  function inSlot<T>(task: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      slots
        .run(async () => {
          const begunAt = performance.now();
          const busy = watch();
          await task().then(resolve, reject);
          const rest = (performance.now() - begunAt) * REST * (busy() - UNHURRIED);
          if (rest > 0) await sleep(rest, undefined, { ref: false });
        })
        .catch(reject);
    });
  }

  return {
    hash: (password) => inSlot(() => hash(password, PARAMETERS)),
    verify: (passwordHash, password) =>
      inSlot(async () => {
        const matches = await verify(passwordHash ?? nobody, password);
        return matches && passwordHash !== undefined;
      }),
  };
}

function watchEventLoop(): () => number {
  const before = performance.eventLoopUtilization();
  return () => performance.eventLoopUtilization(before).utilization;
}
