// src/auth/passwords.ts: how passwords are hashed, how many at once, and that an unknown user has the same cost.
import type * as argon2 from 'argon2';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi, type MockedFunction } from 'vitest';
import type { createPasswords as Create, Passwords } from '../../src/auth/passwords.js';

let createPasswords: typeof Create;
/** The real functions, observed; a test can replace them. */
let verify: MockedFunction<typeof argon2.verify>;
let hash: MockedFunction<typeof argon2.hash>;

let passwords: Passwords;
beforeAll(async () => {
  // Files share their modules: those of another file lack the observed functions, and later files must not get them.
  vi.resetModules();
  vi.doMock('argon2', async (importOriginal) => {
    const real = await importOriginal<typeof argon2>();
    return { ...real, hash: vi.fn(real.hash), verify: vi.fn(real.verify) };
  });
  ({ createPasswords } = await import('../../src/auth/passwords.js'));
  const watched = await import('argon2');
  [verify, hash] = [vi.mocked(watched.verify), vi.mocked(watched.hash)];
  passwords = createPasswords(1);
});
afterAll(() => {
  vi.doUnmock('argon2');
  vi.resetModules();
});
beforeEach(() => {
  verify.mockReset();
  hash.mockReset();
});

describe('a password hash', () => {
  it('is argon2id with OWASP’s parameters, in the PHC string format', async () => {
    const made = await passwords.hash('correct horse', 'acme');
    expect(made).toMatch(/^\$argon2id\$v=19\$[a-z0-9=,]+\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$/);
    expect(made.split('$')[3]?.split(',').sort()).toEqual(['m=19456', 'p=1', 't=2']);
  });

  it('has its own salt', async () => {
    expect(await passwords.hash('correct horse', 'acme')).not.toBe(await passwords.hash('correct horse', 'acme'));
  });
});

describe('a password', () => {
  it('matches its own hash, and no other spelling does', async () => {
    const made = await passwords.hash('Pässwörd 🗝', 'acme');
    expect(await passwords.verify(made, 'Pässwörd 🗝', 'acme')).toBe(true);
    for (const other of ['pässwörd 🗝', 'Pässwörd 🗝 ', ''])
      expect(await passwords.verify(made, other, 'acme')).toBe(false);
  });

  it('matches in every form in which a keyboard types its characters', async () => {
    const forms = ['Caf\u00e9 \ufb01ve', 'Cafe\u0301 \ufb01ve', 'Caf\u00e9 five', 'Cafe\u0301 five'];
    for (const typed of forms) {
      const made = await passwords.hash(typed, 'acme');
      for (const other of forms) expect(await passwords.verify(made, other, 'acme'), `${typed}, ${other}`).toBe(true);
      expect(await passwords.verify(made, 'Cafe five', 'acme')).toBe(false);
    }
  });

  it('still matches the hash that a former build made of the text as it was typed', async () => {
    const typed = 'Cafe\u0301 five';
    const former = await hash(typed, { memoryCost: 19_456, timeCost: 2, parallelism: 1 });
    expect(await passwords.verify(former, typed, 'acme')).toBe(true);
    expect(await passwords.verify(former, 'Cafe five', 'acme')).toBe(false);
  });

  it('counts up to its last character', async () => {
    const long = 'x'.repeat(199);
    const made = await passwords.hash(`${long}1`, 'acme');
    expect(await passwords.verify(made, `${long}2`, 'acme')).toBe(false);
    expect(await passwords.verify(made, `${long}1`, 'acme')).toBe(true);
  });
});

describe('a user that does not exist', () => {
  it('is refused, whatever the password', async () => {
    expect(await passwords.verify(undefined, '', 'acme')).toBe(false);
    expect(await passwords.verify(undefined, 'correct horse', 'acme')).toBe(false);
  });

  it('costs one comparison with a hash of the same parameters, as a known user does', async () => {
    const made = await passwords.hash('correct horse', 'acme');
    await passwords.verify(made, 'wrong', 'acme');
    await passwords.verify(undefined, 'wrong', 'acme');
    // Of the salt and the digest, only the length matters.
    const compared = verify.mock.calls.map(([against]) =>
      against.split('$').map((part, index) => (index < 4 ? part : part.length)),
    );
    expect(compared).toHaveLength(2);
    expect(compared[1]).toEqual(compared[0]);
  });

  it('costs as many comparisons as a known user, also for a password in another form', async () => {
    const made = await passwords.hash('correct horse', 'acme');
    for (const typed of ['wrong', 'wr\u00f6ng', 'wro\u0308ng']) {
      verify.mockClear();
      await passwords.verify(made, typed, 'acme');
      const known = verify.mock.calls.length;
      await passwords.verify(undefined, typed, 'acme');
      expect(verify.mock.calls.length - known, typed).toBe(known);
    }
  });

  it('causes no new hash', async () => {
    await passwords.verify(undefined, 'one', 'acme');
    await passwords.verify(undefined, 'two', 'acme');
    expect(hash).not.toHaveBeenCalled();
  });
});

describe('hashing beside other requests', () => {
  /** When each of three comparisons of about 20 ms began, in ms after the first, with the given load of the event loop. */
  async function begunAt(utilization: number): Promise<number[]> {
    const begun: number[] = [];
    verify.mockImplementation(async () => {
      begun.push(performance.now());
      await new Promise((resolve) => setTimeout(resolve, 20));
      return true;
    });
    const besideOthers = createPasswords(1, () => () => utilization);
    await Promise.all(['a', 'b', 'c'].map((password) => besideOthers.verify('hash', password, 'acme')));
    return begun.map((at) => at - (begun[0] ?? 0));
  }

  it('rests its slot after each hash, for longer if the event loop is busier', async () => {
    // A timer may fire a millisecond early.
    const [, second = 0, third = 0] = await begunAt(0.75);
    expect(second).toBeGreaterThanOrEqual(19 + 3 * 19);
    expect(third - second).toBeGreaterThanOrEqual(19 + 3 * 19);
    const [, busier = 0] = await begunAt(1);
    expect(busier).toBeGreaterThanOrEqual(19 + 6 * 19);
  });

  it('does not delay an answer by the rest', async () => {
    verify.mockResolvedValue(true);
    // A very long rest: the comparison ends at once, and so must its answer.
    const besideOthers = createPasswords(1, () => () => 10_000);
    expect(await besideOthers.verify('hash', 'a', 'acme')).toBe(true);
  });
});

describe('hashing under load', () => {
  /** Comparisons that wait to be ended. */
  function slowVerify(): (() => void)[] {
    const ends: (() => void)[] = [];
    verify.mockImplementation(
      () =>
        new Promise((resolve) => {
          ends.push(() => {
            resolve(true);
          });
        }),
    );
    return ends;
  }

  it('runs the configured number at once, and lets 50 wait for each; one more is refused at once', async () => {
    hash.mockResolvedValueOnce('the stand-in');
    const busy = createPasswords(2, () => () => 0);
    const ends = slowVerify();
    const accepted = Array.from({ length: 2 + 2 * 50 }, () => busy.verify('a hash', 'x', 'acme'));
    expect(ends).toHaveLength(2);
    const refusal = { code: 'unavailable', status: 503, retryAfter: 1 };
    await expect(busy.verify('a hash', 'x', 'acme')).rejects.toMatchObject(refusal);
    await expect(busy.verify(undefined, 'x', 'acme')).rejects.toMatchObject(refusal);
    await expect(busy.hash('x', 'acme')).rejects.toMatchObject(refusal);
    // No waiting comparison is lost.
    for (let ended = 0; ended < accepted.length; ended += 1) {
      ends[ended]?.();
      await new Promise((resolve) => setImmediate(resolve));
      expect(ends.length).toBeLessThanOrEqual(ended + 3);
    }
    expect(new Set(await Promise.all(accepted))).toEqual(new Set([true]));
  });

  it('continues after a comparison that fails', async () => {
    hash.mockResolvedValueOnce('the stand-in');
    const one = createPasswords(1, () => () => 0);
    verify.mockRejectedValueOnce(new Error('not a hash'));
    verify.mockResolvedValueOnce(true);
    const [broken, next] = await Promise.allSettled([
      one.verify('not a hash', 'x', 'acme'),
      one.verify('a hash', 'x', 'acme'),
    ]);
    expect(broken.status).toBe('rejected');
    expect(next).toEqual({ status: 'fulfilled', value: true });
  });
});
