// One tenant sends more password changes than the processor can hash: users of another tenant can still sign in.
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { ADMIN, startServiceForTest, type Problem, type TestService, type TestTenant } from '../support/app.js';

/** Password changes a second that are sent; each takes two hashes. */
const CHANGES = 33;

/** Changes that are sent at once before, as if left over from some seconds of a flood: the queue is full. */
const ALREADY = 150;

/** Sign-ins of the other tenant, one after the other. */
const SIGN_INS = 5;

/** The number of answers of each status. */
type Answers = Map<number, number>;

/** @returns a function that ends the flood, and resolves when all requests are answered */
function flood({ send }: TestService, tenant: TestTenant): () => Promise<Answers> {
  const answers: Answers = new Map();
  const sent: Promise<void>[] = [];
  const change = (): void => {
    const body = { currentPassword: ADMIN.password, newPassword: ADMIN.password };
    const answered = send('POST', '/auth/password', { token: tenant.adminToken, body });
    sent.push(answered.then(({ status }) => void answers.set(status, (answers.get(status) ?? 0) + 1)));
  };
  for (let index = 0; index < ALREADY; index += 1) change();
  const timer = setInterval(change, 1_000 / CHANGES);
  return async () => {
    clearInterval(timer);
    await Promise.all(sent);
    return answers;
  };
}

async function signIn({ send }: TestService, { slug }: TestTenant): Promise<number> {
  const body = { tenant: slug, email: ADMIN.email, password: ADMIN.password };
  return (await send('POST', '/auth/login', { body })).status;
}

describe('a flood of password changes in one tenant', () => {
  it('does not stop users of another tenant from signing in', async () => {
    // The tests run without budgets: only the turns of the payers keep the promise.
    const service = await startServiceForTest({ env: { HASH_CONCURRENCY: '1' } });
    const [flooded, other] = [await service.createTenant(), await service.createTenant()];
    const endFlood = flood(service, flooded);
    const statuses: number[] = [];
    for (let index = 0; index < SIGN_INS; index += 1) {
      await sleep(200);
      statuses.push(await signIn(service, other));
    }
    const answers = await endFlood();
    expect(statuses).toEqual(new Array(SIGN_INS).fill(200));
    // It was a flood: more requests than one tenant's queue holds.
    expect(answers.get(503)).toBeGreaterThan(0);
  }, 90_000);
});

describe('the budget of password changes', () => {
  const budget = { PASSWORD_BUDGET_ACCOUNT: '2', PASSWORD_BUDGET_TENANT: '3' };

  it('covers every route that hashes for a signed-in user, and such a route answers 429 with Retry-After once the budget is used up', async () => {
    const service = await startServiceForTest({ env: budget });
    const { send } = service;
    const { id, adminToken: token, adminId } = await service.createTenant();
    const password = { currentPassword: ADMIN.password, newPassword: ADMIN.password };
    const person = { password: 'user-password-123', firstName: 'Uma', lastName: 'User', roles: ['member'] };
    const hashing = [
      () => send<Problem>('POST', '/auth/confirm', { token, body: { password: ADMIN.password } }),
      () => send<Problem>('POST', '/auth/password', { token, body: password }),
      () => send<Problem>('POST', '/users', { token, body: { ...person, email: 'uma@example.com' } }),
      () =>
        send<Problem>('PATCH', `/users/${adminId}`, {
          token,
          body: { currentPassword: ADMIN.password, password: ADMIN.password },
        }),
      () =>
        send<Problem>('PATCH', `/users/${adminId}`, {
          token,
          body: { currentPassword: ADMIN.password, email: 'ada@example.com' },
        }),
    ];
    for (const request of hashing.slice(0, 2)) expect((await request()).status).toBeLessThan(300);
    for (const request of hashing) {
      const { status, body, headers } = await request();
      expect([status, body.code]).toEqual([429, 'rate-limited']);
      expect(Number(headers['retry-after'])).toBeGreaterThan(0);
    }
    // Requests without a hash still work, and so does signing in.
    const renamed = await send('PATCH', `/users/${adminId}`, { token, body: { firstName: 'Eva' } });
    expect(renamed.status).toBe(200);
    const login = { tenant: id, email: ADMIN.email, password: ADMIN.password };
    expect((await send('POST', '/auth/login', { body: login })).status).toBe(200);
  });

  it('does not stop an admin from deactivating the account that used it up', async () => {
    const service = await startServiceForTest({ env: { PASSWORD_BUDGET_ACCOUNT: '2', PASSWORD_BUDGET_TENANT: '2' } });
    const { send } = service;
    const tenant = await service.createTenant();
    const greedy = await service.createUser(tenant, 'greedy@example.com');
    const body = { currentPassword: greedy.password, newPassword: 'another-password-1' };
    expect((await send('POST', '/auth/password', { token: greedy.token, body })).status).toBe(204);
    const reset = { token: tenant.adminToken, body: { password: 'reset-password-123' } };
    expect((await send('PATCH', `/users/${greedy.id}`, reset)).status).toBe(429);
    const end = { token: tenant.adminToken, body: { active: false } };
    expect((await send('PATCH', `/users/${greedy.id}`, end)).status).toBe(200);
    expect((await send('POST', '/auth/password', { token: greedy.token, body })).status).toBe(401);
  });

  it('covers operators who create tenants', async () => {
    const service = await startServiceForTest({ env: budget });
    const { send, operatorToken } = service;
    await service.createTenant();
    await service.createTenant();
    const body = { name: 'Third', slug: 'third', admin: ADMIN };
    const refused = await send<Problem>('POST', '/tenants', { token: operatorToken, body });
    expect([refused.status, refused.body.code]).toEqual([429, 'rate-limited']);
    expect(Number(refused.headers['retry-after'])).toBeGreaterThan(0);
  });
});
