// Measures how long a running service takes to refuse a sign-in, for every reason. The test and `npm run timing` use it.
import { Agent, request as httpRequest } from 'node:http';

/** The reasons. All others are compared with the first. The last is the first again, to show the influence of chance. */
export const CLASSES = [
  'wrong password',
  'unknown tenant',
  'unknown user',
  'inactive user',
  'suspended tenant',
  'wrong password again',
] as const;

export type FailureClass = (typeof CLASSES)[number];

/** Bodies of failing sign-ins, by reason. */
export type Attempts = Readonly<Record<FailureClass, object>>;

/** ms, by reason. */
export type Times = Readonly<Record<FailureClass, readonly number[]>>;

const admin = { email: 'admin@timing.example', password: 'the-right-password', firstName: 'Ada', lastName: 'Admin' };
const inactive = {
  email: 'quiet@timing.example',
  password: 'the-right-password',
  firstName: 'Ina',
  lastName: 'User',
};

/**
 * Makes two tenants, suspends one, and deactivates a user of the other. All names have the same length, so that all requests have
 * the same size and take the same time to send.
 *
 * @throws Error if an answer has an unexpected status
 */
export async function prepare(url: string, operator: { email: string; password: string }): Promise<Attempts> {
  const call = async <T>(method: string, path: string, token: string | undefined, body: object): Promise<T> => {
    const headers = {
      'content-type': 'application/json',
      ...(token !== undefined && { authorization: `Bearer ${token}` }),
    };
    const response = await fetch(url + path, { method, headers, body: JSON.stringify(body) });
    if (!response.ok) throw new Error(`${method} ${path} answers ${response.status}: ${await response.text()}`);
    return (await response.json()) as T;
  };
  const signIn = async (path: string, body: object): Promise<string> =>
    (await call<{ accessToken: string }>('POST', path, undefined, body)).accessToken;

  const operatorToken = await signIn('/auth/operator/login', operator);
  const makeTenant = (slug: string): Promise<{ id: string }> =>
    call('POST', '/tenants', operatorToken, { name: slug, slug, admin });
  await makeTenant('tenant-known');
  const { id } = await makeTenant('tenant-still');
  await call('PATCH', `/tenants/${id}`, operatorToken, { active: false });
  const adminToken = await signIn('/auth/login', {
    tenant: 'tenant-known',
    email: admin.email,
    password: admin.password,
  });
  await call('POST', '/users', adminToken, { ...inactive, active: false });

  const attempt = (tenant: string, email: string, password = 'the-right-password'): object => ({
    tenant,
    email,
    password,
  });
  return {
    'wrong password': attempt('tenant-known', admin.email, 'the-false-password'),
    'unknown tenant': attempt('tenant-wrong', admin.email),
    'unknown user': attempt('tenant-known', 'other@timing.example'),
    'inactive user': attempt('tenant-known', inactive.email),
    'suspended tenant': attempt('tenant-still', admin.email),
    'wrong password again': attempt('tenant-known', admin.email, 'the-false-password'),
  };
}

/**
 * Makes every attempt `samples` times, in rounds of all attempts, each round in its own order.
 *
 * @param atOnce simultaneous attempts
 * @throws Error if an answer is not 401
 */
export async function measure(
  url: string,
  attempts: Attempts,
  { samples, atOnce = 1, onRound }: { samples: number; atOnce?: number; onRound?: (round: number) => void },
): Promise<Times> {
  const times = Object.fromEntries(CLASSES.map((name) => [name, []])) as unknown as Record<FailureClass, number[]>;
  const agent = new Agent({ keepAlive: true, maxSockets: atOnce });
  try {
    for (let round = -WARMUP; round < samples; round += 1) {
      const waiting = shuffled(CLASSES);
      const work = async (): Promise<void> => {
        for (let name = waiting.pop(); name !== undefined; name = waiting.pop()) {
          const time = await timeOf(agent, url, attempts[name]);
          if (round >= 0) times[name].push(time);
        }
      };
      await Promise.all(Array.from({ length: atOnce }, work));
      if (round >= 0) onRound?.(round + 1);
    }
  } finally {
    agent.destroy();
  }
  return times;
}

/** Rounds before the measured ones, in which connections are opened and code is compiled. */
const WARMUP = 5;

function timeOf(agent: Agent, url: string, body: object): Promise<number> {
  return new Promise((resolve, reject) => {
    const begunAt = performance.now();
    const sent = httpRequest(
      `${url}/auth/login`,
      { agent, method: 'POST', headers: { 'content-type': 'application/json' } },
      (response) => {
        response.resume();
        response.on('error', reject);
        response.on('end', () => {
          if (response.statusCode === 401) resolve(performance.now() - begunAt);
          else reject(new Error(`a sign-in that should fail answers ${String(response.statusCode)}`));
        });
      },
    );
    sent.on('error', reject);
    sent.end(JSON.stringify(body));
  });
}

function shuffled<T>(items: readonly T[]): T[] {
  const all = [...items];
  for (let last = all.length - 1; last > 0; last -= 1) {
    const other = Math.floor(Math.random() * (last + 1));
    [all[last], all[other]] = [all[other] as T, all[last] as T];
  }
  return all;
}
