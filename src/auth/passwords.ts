// Passwords: argon2id with OWASP's parameters, a bound on how many are hashed at once, turns by tenant, less of it while other
// requests need the processor, and the same work for a user that does not exist.
import { hash, verify, argon2id } from 'argon2';
import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { FairSlots } from './fair-slots.js';
import type { Principal } from './tokens.js';

/** OWASP Password Storage Cheat Sheet, argon2id: 19 MiB, two passes, one lane. */
const PARAMETERS = { type: argon2id, memoryCost: 19_456, timeCost: 2, parallelism: 1 } as const;

/** Hashes of one payer that may wait, per hash that runs: more are refused at once, so that a flood cannot queue up minutes. */
const WAITING_PER_SLOT = 50;

/** Payers that fill their queues before the payer with the longest queue loses its newest hash to another payer. */
const FULL_QUEUES = 4;

/** All operators pay as one. */
export const OPERATORS = 'operators';

/**
 * All sign-ins to tenants that do not exist pay as one. If each name that is typed had turns of its own, made-up names could
 * take nearly all turns.
 */
export const NO_TENANT = 'no tenant';

/** Who pays for the hashes of a caller: its tenant. */
export function payerOf(principal: Principal): string {
  return principal.kind === 'user' ? principal.tenantId : OPERATORS;
}

/** Longest wait (ms) for a hash to begin, on a machine that has no time for it: nobody waits longer to sign in. */
const PATIENCE = 10_000;

/** The share of its time that the event loop may be busy before hashing steps back. Signing people in alone uses less. */
const UNHURRIED = 0.5;

/**
 * How much longer than its hash took a slot then rests, for each whole by which the event loop was busier: with 0.75 three
 * times as long. Measured with `npm run bench -- --scenario flood-login` (docs/inside/performance.md).
 */
const REST = 12;

export interface Passwords {
  /**
   * The hash in the PHC string format.
   *
   * @param payer the tenant's id, `OPERATORS` or `NO_TENANT`: payers take turns
   * @throws AppError `unavailable` while too many hashes wait, or for too long
   */
  hash(password: string, payer: string): Promise<string>;
  /**
   * Whether the password is the one behind `passwordHash`. Undefined (no such user) is false after the same work.
   *
   * @param payer as for `hash`
   * @throws AppError `unavailable` while too many hashes wait, or for too long
   */
  verify(passwordHash: string | undefined, password: string, payer: string): Promise<boolean>;
}

/**
 * @param concurrency hashes that run at once; each takes a thread of libuv for some 20 ms
 * @param watch begins to watch the event loop; what it returns tells the share of the time since that it was busy
 */
export async function createPasswords(
  concurrency: number,
  watch: () => () => number = watchEventLoop,
): Promise<Passwords> {
  const perPayer = concurrency * WAITING_PER_SLOT;
  const slots = new FairSlots(concurrency, { perPayer, total: perPayer * FULL_QUEUES }, PATIENCE);
  const nobody = await hash('the password of nobody', PARAMETERS);

  /** The answer does not wait for the rest behind it. */
  function inSlot<T>(payer: string, task: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      slots
        .run(payer, async () => {
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
    hash: (password, payer) => inSlot(payer, () => hash(password, PARAMETERS)),
    verify: (passwordHash, password, payer) =>
      inSlot(payer, async () => {
        const matches = await verify(passwordHash ?? nobody, password);
        return matches && passwordHash !== undefined;
      }),
  };
}

function watchEventLoop(): () => number {
  const before = performance.eventLoopUtilization();
  return () => performance.eventLoopUtilization(before).utilization;
}
