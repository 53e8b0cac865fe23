// Hashes passwords: argon2id with OWASP's parameters. The number of hashes at once is bounded, tenants take turns, and hashing
// slows down while other requests need the processor. A user that does not exist costs the same work.
//
// Keyboards differ in how they type a character such as "é": as one code point, or as two. So the normal form NFKC is hashed, as
// NIST SP 800-63B advises.
import { hash, verify, argon2id } from 'argon2';
import { randomBytes } from 'node:crypto';
import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { FairSlots } from './fair-slots.js';
import { ClientLeft, type Requester } from '../lib/requester.js';
import type { Principal } from './tokens.js';

/** OWASP Password Storage Cheat Sheet, argon2id: 19 MiB, two passes, one lane. */
const PARAMETERS = { type: argon2id, memoryCost: 19_456, timeCost: 2, parallelism: 1 } as const;

/**
 * Hashes of one payer that may wait, per running hash. More are refused at once, so that a flood cannot fill the queue with
 * minutes of work.
 */
const WAITING_PER_SLOT = 50;

/** Full queues in total. Beyond this, the payer with the longest queue loses its newest hash to another payer. */
const FULL_QUEUES = 4;

/** All operators count as one payer. */
export const OPERATORS = 'operators';

/**
 * All sign-ins to tenants that do not exist count as one payer. If each unknown name were a payer, made-up names could take
 * nearly all turns.
 */
export const NO_TENANT = 'no tenant';

/** The payer of a caller's hashes: its tenant. */
export function payerOf(principal: Principal): string {
  return principal.kind === 'user' ? principal.tenantId : OPERATORS;
}

/** Longest wait (ms) for a hash to begin on an overloaded machine. No sign-in waits longer. */
const PATIENCE = 10_000;

/** Hashing slows down above this utilisation of the event loop. Sign-ins alone use less. */
const UNHURRIED = 0.5;

/**
 * The rest of a slot after a hash: `rest = hashTime × 12 × (utilisation − 0.5)`. At a utilisation of 0.75 the slot rests three
 * times as long as its hash took. Measured with `npm run bench -- --scenario flood-login` (docs/inside/performance.md).
 */
const REST = 12;

export interface Passwords {
  /**
   * Hashes the normal form (NFKC) of a password; the result is in the PHC string format.
   *
   * @param payer the tenant's id, `OPERATORS` or `NO_TENANT`: payers take turns
   * @param requester ends the wait when it leaves; a hash that has begun is finished
   * @throws AppError `unavailable` if too many hashes wait, or if the wait was too long; ClientLeft
   */
  hash(password: string, payer: string, requester?: Requester): Promise<string>;
  /**
   * Whether the password matches `passwordHash`. If `passwordHash` is undefined (no such user), the result is false after the
   * same work. A password that is not in its normal form is also tried as it was typed, because former builds hashed it so.
   *
   * @param payer as for `hash`
   * @param requester as for `hash`
   * @throws as `hash` does
   */
  verify(passwordHash: string | undefined, password: string, payer: string, requester?: Requester): Promise<boolean>;
  /** Slots in use, resting ones included, and hashes that wait. */
  readonly load: { readonly running: number; readonly waiting: number };
}

/** What happens to hashes, for those who count it. */
export interface HashEvents {
  /** @param seconds how long the hash took, without its wait */
  done(act: 'hash' | 'verify', seconds: number): void;
  /** Too many hashes wait, or the wait was too long. */
  refused(): void;
}

/**
 * @param concurrency hashes that run at once; each uses a thread of libuv for about 20 ms
 * @param watch begins to watch the event loop; returns a function that gives the utilisation since then (0 to 1)
 * @param events receives each hash
 */
export function createPasswords(
  concurrency: number,
  watch: () => () => number = watchEventLoop,
  events: HashEvents = { done: () => undefined, refused: () => undefined },
): Passwords {
  const perPayer = concurrency * WAITING_PER_SLOT;
  const slots = new FairSlots(concurrency, { perPayer, total: perPayer * FULL_QUEUES }, PATIENCE);
  const nobody = hashOfNobody();

  /** The answer is sent before the slot rests. */
  function inSlot<T>(
    act: 'hash' | 'verify',
    payer: string,
    requester: Requester | undefined,
    task: () => Promise<T>,
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      slots
        .run(
          payer,
          async () => {
            const begunAt = performance.now();
            const busy = watch();
            await task().then(resolve, reject);
            const took = performance.now() - begunAt;
            events.done(act, took / 1_000);
            const rest = took * REST * (busy() - UNHURRIED);
            if (rest > 0) await sleep(rest, undefined, { ref: false });
          },
          requester,
        )
        .catch((refusal: unknown) => {
          if (!(refusal instanceof ClientLeft)) events.refused();
          throw refusal;
        })
        .catch(reject);
    });
  }

  return {
    hash: (password, payer, requester) => inSlot('hash', payer, requester, () => hash(normal(password), PARAMETERS)),
    verify: (passwordHash, password, payer, requester) =>
      inSlot('verify', payer, requester, async () => {
        // The number of tries depends on the typed text alone, whether there is such a user or not.
        for (const form of new Set([normal(password), password]))
          if (await verify(passwordHash ?? nobody, form)) return passwordHash !== undefined;
        return false;
      }),
    get load() {
      return slots.load;
    },
  };
}

function normal(password: string): string {
  return password.normalize('NFKC');
}

/**
 * A hash that no password matches: a random digest in the PHC string format. Checking it takes the same work as any other hash.
 * Making it takes none: 19 MiB for a first hash would stay with the process.
 */
function hashOfNobody(): string {
  const { memoryCost, timeCost, parallelism } = PARAMETERS;
  const random = (bytes: number): string => randomBytes(bytes).toString('base64').replaceAll('=', '');
  return `$argon2id$v=19$m=${memoryCost},p=${parallelism},t=${timeCost}$${random(16)}$${random(32)}`;
}

function watchEventLoop(): () => number {
  const before = performance.eventLoopUtilization();
  return () => performance.eventLoopUtilization(before).utilization;
}
