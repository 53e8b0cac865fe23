// src/auth/throttle.ts: the counts of a failure, the wait before the next attempt, and that no wait is long. All of this holds if
// attempts are counted in the process and if they are counted in Redis.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LocalAttempts, type AttemptStore } from '../../src/auth/attempts.js';
import { SharedAttempts } from '../../src/auth/shared-attempts.js';
import { createThrottle, Throttled, type Throttle, type ThrottleLimits } from '../../src/auth/throttle.js';
import { AppError } from '../../src/errors.js';
import { noRedis, startRedis, type RedisServer } from '../support/redis.js';
import { openTimedStore, type TimedStore } from '../support/timed-store.js';

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const FORGET = 15 * MINUTE;
const plenty: ThrottleLimits = { account: 1e9, address: 1e9, tenant: 1e9, forget: FORGET };
const ACME = { id: '01890a5d-ac96-774b-bcce-b302099a8057', slug: 'acme' };

interface Attempt {
  readonly tenant?: string;
  readonly email?: string;
  readonly address?: string;
  /** The tenant of the name, if there is one. */
  readonly found?: typeof ACME | undefined;
  readonly outcome?: 'success' | AppError;
}

const FAILURE = new AppError('invalid-credentials');

/** `ok`, the code of the error, or the seconds to wait. */
async function outcomeOf(work: Promise<unknown>): Promise<string | number> {
  return work.then(
    () => 'ok',
    (error: unknown) => {
      const { code, retryAfter } = error as AppError;
      return code === 'rate-limited' ? (retryAfter ?? NaN) : code;
    },
  );
}

/** An attempt that fails by default. */
function attempt(throttle: Throttle, given: Attempt = {}): Promise<string | number> {
  const { tenant = ACME.slug, email = 'a@x.example', address = '192.0.2.1', outcome = FAILURE } = given;
  const found = 'found' in given ? given.found : ACME;
  return outcomeOf(
    throttle.user({ tenant, email, address }, async (resolved) => {
      await resolved(found);
      if (outcome instanceof AppError) throw outcome;
    }),
  );
}

async function times(count: number, work: (index: number) => Promise<string | number>): Promise<(string | number)[]> {
  const outcomes: (string | number)[] = [];
  for (let index = 0; index < count; index += 1) outcomes.push(await work(index));
  return outcomes;
}

const FAILED = 'invalid-credentials';

/** The reasons of refused attempts: `first account` for the first one in a wait on an account. */
async function refusal(throttle: Throttle, given: { email?: string; address?: string } = {}): Promise<string> {
  const { email = 'a@x.example', address = '192.0.2.1' } = given;
  const error = await throttle
    .user({ tenant: ACME.slug, email, address }, () => Promise.reject(FAILURE))
    .then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
  if (!(error instanceof Throttled)) return 'none';
  return `${error.wait.first ? 'first' : 'further'} ${error.wait.on}`;
}

/** This file's Redis and its store; undefined without a Redis. */
let server: RedisServer | undefined;
let timed: TimedStore | undefined;
beforeAll(async () => {
  if (noRedis !== undefined) return;
  server = await startRedis();
  timed = await openTimedStore(server);
});
afterAll(async () => {
  await timed?.close();
  await server?.close();
});

type Bench = (limits: Partial<ThrottleLimits>) => {
  readonly throttle: Throttle;
  /** Moves the clock. */
  readonly pass: (ms: number) => void;
};

const inProcess: Bench = (limits) => {
  let time = 1e6;
  const store = new LocalAttempts(FORGET, () => time);
  return { throttle: createThrottle({ ...plenty, ...limits }, store), pass: (ms) => (time += ms) };
};

/** Two replicas in turns: each attempt goes to the other replica. */
const inRedis: Bench = (limits) => {
  if (!timed) throw new Error('there is no Redis');
  const { store, now, pass } = timed.alone();
  const others = { replicas: 2, onLoss: () => undefined };
  const [one, other] = [1, 2].map(() =>
    createThrottle({ ...plenty, ...limits }, new SharedAttempts(FORGET, store, others, now)),
  );
  if (!one || !other) throw new Error('there are two');
  let turn = 0;
  const next = (): Throttle => ((turn += 1) % 2 === 0 ? one : other);
  return {
    throttle: {
      user: (...given) => next().user(...given),
      operator: (...given) => next().operator(...given),
      confirmation: (...given) => next().confirmation(...given),
    },
    pass,
  };
};

describe.each([
  ['in the process', inProcess, undefined],
  ['in Redis, on two replicas', inRedis, noRedis],
])('counted %s', (_, bench, missing) => {
  describe.skipIf(missing !== undefined)(missing ?? 'failures', () => {
    describe('of the attempts that are refused', () => {
      it('the first of each wait is known, for the audit', async () => {
        const { throttle, pass } = bench({ account: 1 });
        const three = async (): Promise<string[]> => [
          await refusal(throttle),
          await refusal(throttle),
          await refusal(throttle),
        ];
        expect(await three()).toEqual(['none', 'first account', 'further account']);
        pass(SECOND);
        expect(await three()).toEqual(['none', 'first account', 'further account']);
      });

      it('the first one is known even if running failures are reported after it', async () => {
        const { throttle } = bench({ account: 2 });
        const fail: (() => void)[] = [];
        const failsLater = (): Promise<never> =>
          new Promise((_, reject) => {
            fail.push(() => {
              reject(FAILURE);
            });
          });
        const underWay = [1, 2].map(() =>
          throttle.user({ tenant: ACME.slug, email: 'a@x.example', address: '192.0.2.1' }, failsLater),
        );
        expect(await refusal(throttle)).toBe('first account');
        for (const one of fail) one();
        await Promise.allSettled(underWay);
        expect(await refusal(throttle)).toBe('further account');
      });

      it('each names the count that refused it', async () => {
        const { throttle } = bench({ address: 1 });
        expect(await refusal(throttle)).toBe('none');
        expect(await refusal(throttle, { email: 'b@x.example' })).toBe('first address');
        const { throttle: other } = bench({ tenant: 1 });
        expect(await refusal(other)).toBe('none');
        expect(await refusal(other, { email: 'b@x.example', address: '192.0.2.2' })).toBe('first tenant');
      });
    });

    describe('failures on an account', () => {
      it('cost nothing at first, and then a wait that doubles with each', async () => {
        const { throttle, pass } = bench({ account: 3 });
        expect(await times(3, () => attempt(throttle))).toEqual([FAILED, FAILED, FAILED]);
        for (const wait of [1, 2, 4, 8, 16, 32]) {
          expect(await attempt(throttle)).toBe(wait);
          pass(wait * SECOND - 1);
          expect(await attempt(throttle)).toBe(1);
          pass(1);
          expect(await attempt(throttle)).toBe(FAILED);
        }
      });

      it('never cause a wait of more than five minutes, however many there are', async () => {
        const { throttle, pass } = bench({ account: 1 });
        const waits: number[] = [];
        for (let round = 0; round < 40; round += 1) {
          expect(await attempt(throttle)).toBe(FAILED);
          const wait = Number(await attempt(throttle));
          waits.push(wait);
          pass(wait * SECOND);
        }
        expect(Math.max(...waits)).toBe(300);
        expect(waits.at(-1)).toBe(300);
      });

      it('are forgotten one after the other', async () => {
        const { throttle, pass } = bench({ account: 3 });
        await times(3, () => attempt(throttle));
        pass(FORGET / 3);
        expect(await attempt(throttle)).toBe(FAILED);
        expect(await attempt(throttle)).toBe(1);
        pass(2 * FORGET);
        expect(await times(4, () => attempt(throttle))).toEqual([FAILED, FAILED, FAILED, 1]);
      });

      it('are not counted while the account must wait, so that attempts cannot prolong a wait', async () => {
        const { throttle, pass } = bench({ account: 1 });
        await attempt(throttle);
        await times(100, () => attempt(throttle));
        pass(SECOND);
        expect(await attempt(throttle, { outcome: 'success' })).toBe('ok');
      });

      it('refuse the right password as any other, before any check', async () => {
        const { throttle } = bench({ account: 1 });
        await attempt(throttle);
        let looked = false;
        const refused = throttle.user({ tenant: 'acme', email: 'a@x.example', address: '192.0.2.9' }, () => {
          looked = true;
          return Promise.resolve();
        });
        await expect(refused).rejects.toMatchObject({
          code: 'rate-limited',
          status: 429,
          retryAfter: 1,
          detail: undefined,
        });
        expect(looked).toBe(false);
      });

      it('do not affect other accounts and other tenants', async () => {
        const { throttle } = bench({ account: 1 });
        await attempt(throttle);
        expect(await attempt(throttle, { email: 'b@x.example' })).toBe(FAILED);
        expect(await attempt(throttle, { tenant: 'other', found: { id: 'x', slug: 'other' } })).toBe(FAILED);
      });

      it('are forgotten after a success', async () => {
        const { throttle } = bench({ account: 3 });
        const round = ['invalid-credentials', 'invalid-credentials', 'ok'];
        for (let time = 0; time < 3; time += 1) {
          expect(await times(3, (index) => attempt(throttle, index === 2 ? { outcome: 'success' } : {}))).toEqual(
            round,
          );
        }
      });

      it('count from the start of the attempt, or a hundred simultaneous attempts would be free', async () => {
        const { throttle } = bench({ account: 5 });
        const outcomes = await Promise.all(Array.from({ length: 100 }, () => attempt(throttle)));
        expect(outcomes.filter((outcome) => outcome === FAILED)).toHaveLength(5);
        expect(outcomes.filter((outcome) => outcome === 1)).toHaveLength(95);
      });

      it('cause a wait from the time at which they are known, however long the attempt took', async () => {
        const { throttle, pass } = bench({ account: 1 });
        const slow = throttle.user({ tenant: 'acme', email: 'a@x.example', address: '192.0.2.1' }, async (resolved) => {
          await resolved(ACME);
          pass(MINUTE);
          throw FAILURE;
        });
        expect(await outcomeOf(slow)).toBe(FAILED);
        expect(await attempt(throttle)).toBe(1);
      });

      it('are not counted if the password was not checked', async () => {
        const { throttle } = bench({ account: 1, address: 1, tenant: 1 });
        const outcome = new AppError('unavailable');
        expect(await times(5, () => attempt(throttle, { outcome }))).toEqual(new Array(5).fill('unavailable'));
        expect(await attempt(throttle)).toBe(FAILED);
      });
    });

    describe('a tenant', () => {
      it.each([
        ['slug', 'id', ACME.slug, ACME.id],
        ['id', 'slug', ACME.id, ACME.slug],
      ])('with attempts by %s has the same count by %s', async (_one, _other, first, second) => {
        for (const limits of [{ account: 2 }, { tenant: 2 }]) {
          const { throttle } = bench(limits);
          await times(2, () => attempt(throttle, { tenant: first }));
          let looked = false;
          const again = throttle.user({ tenant: second, email: 'a@x.example', address: '192.0.2.1' }, () => {
            looked = true;
            return Promise.resolve();
          });
          expect(await outcomeOf(again)).toBe(1);
          expect(looked).toBe(false);
        }
      });

      it('with simultaneous attempts by both names has one budget', async () => {
        const { throttle } = bench({ account: 4 });
        let wrong = 0;
        const names = Array.from({ length: 40 }, (_, index) => (index % 2 === 0 ? ACME.slug : ACME.id));
        await Promise.all(
          names.map((tenant) =>
            outcomeOf(
              throttle.user({ tenant, email: 'a@x.example', address: '192.0.2.1' }, async (resolved) => {
                // All have passed the first count before the first knows the other name.
                await new Promise((resolve) => setImmediate(resolve));
                await resolved(ACME);
                wrong += 1;
                throw FAILURE;
              }),
            ),
          ),
        );
        expect(wrong).toBeLessThanOrEqual(4);
      });

      it('that does not exist is counted exactly as one that does', async () => {
        const course = async (found: typeof ACME | undefined): Promise<(string | number)[]> => {
          const { throttle, pass } = bench({ account: 3, tenant: 5, address: 8 });
          return times(60, async (index) => {
            pass(700);
            return attempt(throttle, { found, email: `${index % 3}@x.example`, address: `192.0.2.${index % 2}` });
          });
        };
        const known = await course(ACME);
        expect(await course(undefined)).toEqual(known);
        expect(new Set(known).size).toBeGreaterThan(3);
      });

      it('is counted as a whole, whatever the account and the address', async () => {
        const { throttle } = bench({ tenant: 3 });
        const each = (index: number): Promise<string | number> =>
          attempt(throttle, { email: `${index}@x.example`, address: `192.0.2.${index}` });
        expect(await times(5, each)).toEqual([FAILED, FAILED, FAILED, 1, 1]);
        expect(await attempt(throttle, { tenant: 'other', found: undefined })).toBe(FAILED);
      });

      it('has its usual pace again soon: during an attack its sign-ins wait for seconds', async () => {
        const { throttle, pass } = bench({ tenant: 300 });
        let longest = 0;
        for (let second = 0; second < 3_600; second += 1) {
          const outcome = await attempt(throttle, { email: `${second}@x.example` });
          if (typeof outcome === 'number') longest = Math.max(longest, outcome);
          else await attempt(throttle, { email: `${second}@x.example` });
          pass(SECOND);
        }
        expect(longest).toBeGreaterThan(0);
        expect(longest).toBeLessThanOrEqual(8);
      });
    });

    describe('an address', () => {
      it('is counted, whatever it tries', async () => {
        const { throttle } = bench({ address: 3 });
        const each = (index: number): Promise<string | number> =>
          attempt(throttle, { tenant: `t${index}`, found: undefined, email: `${index}@x.example` });
        expect(await times(4, each)).toEqual([FAILED, FAILED, FAILED, 1]);
        expect(
          await outcomeOf(throttle.operator({ email: 'o@x.example', address: '192.0.2.1' }, () => Promise.resolve())),
        ).toBe(1);
        expect(await attempt(throttle, { address: '192.0.2.2' })).toBe(FAILED);
      });

      it('is not cleared by a success, which does not count against it either', async () => {
        const { throttle } = bench({ address: 3 });
        const outcomes = await times(10, (index) => attempt(throttle, index % 2 === 0 ? { outcome: 'success' } : {}));
        expect(outcomes.slice(0, 6)).toEqual(['ok', FAILED, 'ok', FAILED, 'ok', FAILED]);
        expect(outcomes.slice(6)).toEqual([1, 1, 1, 1]);
      });

      it.each([
        ['2001:db8::1', '2001:db8:0:0:ffff:ffff:ffff:ffff'],
        ['2001:db8:0:0::', '2001:DB8::abcd:0:0:1'],
        ['2001:db8:1:2:3:4:5:6', '2001:0db8:0001:0002::192.0.2.1'],
        ['::1', '::2:0:0:0'],
        ['fe80::1%eth0', 'fe80::2'],
        ['192.0.2.1', '::ffff:192.0.2.1'],
      ])('%s is counted with %s', async (one, other) => {
        const { throttle } = bench({ address: 1 });
        await attempt(throttle, { address: one });
        expect(await attempt(throttle, { address: other })).toBe(1);
      });

      it.each([
        ['2001:db8::1', '2001:db8:0:1::1'],
        ['::1:0:0:0:0', '::2:0:0:0:0'],
        ['192.0.2.1', '192.0.2.2'],
        ['::ffff:192.0.2.1', '::ffff:192.0.2.2'],
        ['1:2:3::', '1:2:3:4::'],
      ])('%s is not counted with %s', async (one, other) => {
        const { throttle } = bench({ address: 1 });
        await attempt(throttle, { address: one });
        expect(await attempt(throttle, { address: other })).toBe(FAILED);
      });
    });

    describe('attempts of operators and confirmations of passwords', () => {
      const wrong = new AppError('wrong-password');

      it('delay operators as they delay users', async () => {
        const { throttle } = bench({ account: 2 });
        const operator = (email: string): Promise<string | number> =>
          outcomeOf(throttle.operator({ email, address: '192.0.2.1' }, () => Promise.reject(FAILURE)));
        expect(await times(3, () => operator('o@x.example'))).toEqual([FAILED, FAILED, 1]);
        expect(await operator('p@x.example')).toBe(FAILED);
      });

      it('delay a user that confirms its own password, separately from sign-in', async () => {
        const { throttle } = bench({ account: 2 });
        const confirm = (user: string): Promise<string | number> =>
          outcomeOf(throttle.confirmation(ACME.id, user, () => Promise.reject(wrong)));
        expect(await times(3, () => confirm('u'))).toEqual(['wrong-password', 'wrong-password', 1]);
        expect(await confirm('v')).toBe('wrong-password');
        expect(await attempt(throttle)).toBe(FAILED);
      });
    });
  });
});

describe('the keys of counts', () => {
  it('differ for any two pairs of tenant and address', async () => {
    const seen = new Set<string>();
    const keep: AttemptStore = {
      take: (budgets) => {
        for (const { key } of budgets) seen.add(key);
        return Promise.resolve(undefined);
      },
      failed: () => Promise.resolve(),
      giveBack: () => Promise.resolve(),
      clear: () => Promise.resolve(),
    };
    const throttle = createThrottle(plenty, keep);
    const parts = ['a', 'a:b', 'b:c', 'a","b', 'tenant', 'account', 'operators', 'nobody', 'address', '["a"]'];
    for (const tenant of parts) {
      for (const email of parts) {
        await attempt(throttle, { tenant, email, address: 'a', found: undefined });
        await outcomeOf(throttle.confirmation(tenant, email, () => Promise.resolve()));
      }
    }
    for (const email of parts) {
      await outcomeOf(throttle.operator({ email, address: 'a' }, () => Promise.resolve()));
    }
    const pairs = parts.length ** 2;
    // Accounts under both names, tenants under both names, one address, confirmations, operators and the sum of them.
    expect(seen.size).toBe(2 * pairs + 2 * parts.length + 1 + pairs + parts.length + 1);
    for (const key of seen) expect(key).toHaveLength(44);
  });

  it('are bounded in number, and the longest unused one is dropped first', async () => {
    const store = new LocalAttempts(FORGET, () => 1e6);
    const budget = (key: string) => [{ on: 'account' as const, key, free: 1 }];
    await store.take(budget('first'));
    await store.take(budget('second'));
    expect(await store.take(budget('first'))).toMatchObject({ left: SECOND });
    for (let index = 0; index < 99_999; index += 1) await store.take(budget(String(index)));
    expect(await store.take(budget('second'))).toBeUndefined();
  });
});
