// A replica whose clock is wrong: it says so and takes no requests, and those that reach it are decided by the registry's time.
import { describe, expect, it } from 'vitest';
import { ADMIN, createRegistry, startServiceForTest, type TestService } from '../support/app.js';

const MINUTE = 60_000;
const SOON = { timeout: 30_000, interval: 50 };

/** Two replicas of one fleet. The clock of the second is wrong by `wrongBy` ms, which can be changed. */
async function startTwo(wrongBy: number) {
  const registry = await createRegistry();
  const lines: string[] = [];
  const clock = { wrongBy };
  const right = await startServiceForTest({ registry });
  const wrong = await startServiceForTest({
    registry,
    operator: false,
    env: { LOG_LEVEL: 'info' },
    overrides: {
      wallClock: () => Date.now() + clock.wrongBy,
      logStream: { write: (line: string) => void lines.push(line) },
    },
  });
  const ready = async ({ send }: TestService): Promise<number> => (await send('GET', '/health/ready')).status;
  return { right, wrong, clock, lines, ready };
}

async function signIn({ send }: TestService, slug: string): Promise<{ accessToken: string; refreshToken: string }> {
  const body = { tenant: slug, email: ADMIN.email, password: ADMIN.password };
  const answer = await send<{ accessToken: string; refreshToken: string }>('POST', '/auth/login', { body });
  expect(answer.status, answer.text).toBe(200);
  return answer.body;
}

function claimsOf(token: string): { iat: number; exp: number; auth_time: number } {
  return JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()) as {
    iat: number;
    exp: number;
    auth_time: number;
  };
}

describe.each([
  ['ahead of', 10 * MINUTE],
  ['behind', -10 * MINUTE],
])('a replica whose clock is 10 min %s the registry’s', (direction, wrongBy) => {
  it('is not ready and says why, and every replica accepts every token', { timeout: 60_000 }, async () => {
    const { right, wrong, clock, lines, ready } = await startTwo(wrongBy);
    const { slug } = await right.createTenant();
    await expect.poll(() => ready(wrong), SOON).toBe(503);
    expect(await ready(right)).toBe(200);
    expect((await wrong.send('GET', '/health/ready')).text).toContain('The clock of this replica differs');
    expect((await wrong.send('GET', '/health/live')).status).toBe(200);
    const said = lines.filter((line) => line.includes(`10 min ${direction} the registry's`));
    expect(said.map((line) => (JSON.parse(line) as { level: string }).level)).toEqual(['error']);
    const reasons = async (): Promise<string> =>
      (await right.send('GET', '/status', { token: right.operatorToken })).text;
    await expect.poll(reasons, SOON).toContain(`takes no requests: its clock is 10 min ${direction} the registry's`);

    // A balancer without any ready replica still leads requests to it.
    for (const [signing, other] of [
      [wrong, right],
      [right, wrong],
    ] as const) {
      const { accessToken: token, refreshToken } = await signIn(signing, slug);
      const now = Date.now() / 1_000;
      const { iat, auth_time: provedAt } = claimsOf(token);
      expect(Math.abs(iat - now)).toBeLessThan(5);
      expect(Math.abs(provedAt - now)).toBeLessThan(5);
      for (const service of [signing, other])
        expect((await service.send('GET', '/auth/me', { token })).status).toBe(200);
      // It needs a recent sign-in.
      const email = signing === wrong ? 'one@acme.example' : 'two@acme.example';
      const person = { email, password: ADMIN.password, firstName: 'Uma', lastName: 'User', roles: ['admin'] };
      const added = await other.send('POST', '/users', { token, body: person });
      expect(added.status, added.text).toBe(201);
      const renewed = await other.send('POST', '/auth/refresh', { body: { refreshToken } });
      expect(renewed.status, renewed.text).toBe(200);
    }

    clock.wrongBy = 0;
    await expect.poll(() => ready(wrong), SOON).toBe(200);
    expect(lines.join('\n')).toContain('agrees with that of the registry again');
    expect(Math.abs(claimsOf((await signIn(wrong, slug)).accessToken).iat - Date.now() / 1_000)).toBeLessThan(5);
  });
});

it('does not keep a session alive that was ended', { timeout: 60_000 }, async () => {
  const { right, wrong, ready } = await startTwo(-10 * MINUTE);
  const { slug } = await right.createTenant();
  await expect.poll(() => ready(wrong), SOON).toBe(503);
  const { accessToken: token } = await signIn(right, slug);
  expect((await wrong.send('GET', '/auth/me', { token })).status).toBe(200);
  expect((await right.send('POST', '/auth/logout', { token })).status).toBe(204);
  await expect.poll(async () => (await wrong.send('GET', '/auth/me', { token })).status, SOON).toBe(401);
});
