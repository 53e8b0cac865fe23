// src/auth/password-budgets.ts: how many requests that hash an account and a tenant may send, and when the next is allowed.
import { describe, expect, it } from 'vitest';
import { PasswordBudgets, REFILL, type PasswordBudgetLimits } from '../../src/auth/password-budgets.js';
import type { AppError } from '../../src/errors.js';
import { Counts } from '../../src/replicas/counts.js';

function budgets(limits: PasswordBudgetLimits): {
  /** Seconds to wait; 0 if the request was admitted. */
  user: (tenantId: string, userId: string) => Promise<number>;
  operator: (operatorId: string) => Promise<number>;
  pass: (ms: number) => void;
} {
  let time = 0;
  const kept = new PasswordBudgets(limits, new Counts(() => time));
  const outcome = async (take: Promise<void>): Promise<number> => {
    try {
      await take;
      return 0;
    } catch (error) {
      const { code, status, retryAfter } = error as AppError;
      expect([code, status]).toEqual(['rate-limited', 429]);
      return retryAfter ?? 0;
    }
  };
  const sessionId = 'a session';
  return {
    user: (tenantId, userId) => outcome(kept.take({ kind: 'user', tenantId, userId, sessionId })),
    operator: (operatorId) => outcome(kept.take({ kind: 'operator', operatorId, sessionId })),
    pass: (ms) => (time += ms),
  };
}

describe('the budget of an account', () => {
  it('allows as many requests at once as it has tokens, and then one for each new token', async () => {
    const { user, pass } = budgets({ account: 3, tenant: 100 });
    expect(await Promise.all([1, 2, 3, 4].map(() => user('t', 'u')))).toEqual([0, 0, 0, 10]);
    pass(REFILL / 3);
    expect(await Promise.all([1, 2].map(() => user('t', 'u')))).toEqual([0, 10]);
    pass(100 * REFILL);
    expect(await Promise.all([1, 2, 3, 4].map(() => user('t', 'u')))).toEqual([0, 0, 0, 10]);
  });

  it('gives a wait after which the request is admitted', async () => {
    const { user, pass } = budgets({ account: 7, tenant: 100 });
    while ((await user('t', 'u')) === 0);
    const wait = await user('t', 'u');
    expect(wait).toBeGreaterThan(0);
    pass(wait * 1_000);
    expect(await user('t', 'u')).toBe(0);
  });

  it('is separate, even from an account with the same id in another tenant', async () => {
    const { user, operator } = budgets({ account: 1, tenant: 100 });
    expect(await Promise.all([user('t', 'u'), user('t', 'v'), user('s', 'u'), operator('u'), operator('v')])).toEqual([
      0, 0, 0, 0, 0,
    ]);
    expect(await user('t', 'u')).toBeGreaterThan(0);
  });
});

describe('the budget of a tenant', async () => {
  it('is shared by its users, and by no other tenant', async () => {
    const { user } = budgets({ account: 10, tenant: 2 });
    expect(await Promise.all([user('t', 'u'), user('t', 'v')])).toEqual([0, 0]);
    expect(await user('t', 'w')).toBe(15);
    expect(await user('s', 'u')).toBe(0);
  });

  it('is shared by all operators', async () => {
    const { operator, user } = budgets({ account: 10, tenant: 2 });
    expect(await Promise.all([operator('o'), operator('p')])).toEqual([0, 0]);
    expect(await operator('q')).toBe(15);
    expect(await user('t', 'u')).toBe(0);
  });

  it('loses nothing by the refusals of an account, nor an account’s by the refusals of the tenant', async () => {
    const { user, pass } = budgets({ account: 1, tenant: 2 });
    expect(await user('t', 'u')).toBe(0);
    for (let refused = 0; refused < 10; refused += 1) expect(await user('t', 'u')).toBeGreaterThan(0);
    expect(await user('t', 'v')).toBe(0);
    expect(await user('t', 'w')).toBeGreaterThan(0);
    pass(REFILL / 2);
    expect(await user('t', 'w')).toBe(0);
  });
});
