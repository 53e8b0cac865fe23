// Passwords: argon2id with OWASP's parameters, a bound on how many are hashed at once, and the same work for a user that
// does not exist.
import { hash, verify, argon2id } from 'argon2';
import { Slots } from '../slots.js';

/** OWASP Password Storage Cheat Sheet, argon2id: 19 MiB, two passes, one lane. */
const PARAMETERS = { type: argon2id, memoryCost: 19_456, timeCost: 2, parallelism: 1 } as const;

/** Hashes that may wait, per hash that runs: more are refused at once, so that a flood cannot queue up minutes of work. */
const WAITING_PER_SLOT = 50;

/** Longest wait (ms) for a hash to begin, on a machine that has no time for it: nobody waits longer to sign in. */
const PATIENCE = 10_000;

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

/** @param concurrency hashes that run at once; each takes a thread of libuv for some 20 ms */
export async function createPasswords(concurrency: number): Promise<Passwords> {
  const slots = new Slots(concurrency, concurrency * WAITING_PER_SLOT, PATIENCE);
  const nobody = await hash('the password of nobody', PARAMETERS);
  return {
    hash: (password) => slots.run(() => hash(password, PARAMETERS)),
    verify: (passwordHash, password) =>
      slots.run(async () => {
        const matches = await verify(passwordHash ?? nobody, password);
        return matches && passwordHash !== undefined;
      }),
  };
}
