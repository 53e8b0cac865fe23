// RateLimit and RateLimit-Policy: when they are sent, and that their values are true.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ADMIN, startService, type Answer, type TestService, type TestTenant } from '../support/app.js';
import { dereferenced } from '../support/dereferenced.js';

let service: TestService;
let tenant: TestTenant;
beforeAll(async () => {
  service = await startService({
    env: { RATE_LIMIT_MAX: '40', USER_RATE_LIMIT_MAX: '10', SIGN_IN_LIMIT: '4', CORS_ORIGINS: 'https://app.example' },
  });
  tenant = await service.createTenant();
});
afterAll(() => service.close());

interface Item {
  readonly name: string;
  readonly parameters: Readonly<Record<string, number>>;
}

/** A structured list (RFC 9651) of strings with whole numbers as parameters. */
function parseList(value: unknown): Item[] {
  return String(value)
    .split(', ')
    .map((item) => {
      const [, name, rest] = /^"([a-z-]+)"((?:;[a-z]=\d+)+)$/.exec(item) ?? [];
      if (name === undefined || rest === undefined) throw new Error(`${item} is no item of the list`);
      const pairs = rest.slice(1).split(';');
      return { name, parameters: Object.fromEntries(pairs.map((pair) => [pair.charAt(0), Number(pair.slice(2))])) };
    });
}

async function from(remoteAddress: string, token?: string, url = '/products', body?: object): Promise<Answer> {
  const { statusCode, headers, payload } = await service.app.inject({
    method: body ? 'POST' : 'GET',
    url,
    remoteAddress,
    headers: { origin: 'https://app.example', ...(token !== undefined && { authorization: `Bearer ${token}` }) },
    ...(body && { payload: body }),
  });
  return { status: statusCode, headers, text: payload, body: {} };
}

describe('RateLimit and RateLimit-Policy', () => {
  it('are sent when less than half of a limit is left, and count down to a 429 that has both', async () => {
    const address = '192.0.2.10';
    const left: (number | undefined)[] = [];
    for (let turn = 0; turn < 41; turn += 1) {
      const { status, headers } = await from(address);
      if (headers['ratelimit'] === undefined) {
        expect(headers['ratelimit-policy']).toBeUndefined();
        left.push(undefined);
        continue;
      }
      expect(headers['ratelimit-policy']).toBe('"address";q=40;w=60');
      const [first] = parseList(headers['ratelimit']);
      if (!first) throw new Error('the list is empty');
      const { name, parameters } = first;
      expect([name, Object.keys(parameters)]).toEqual(['address', ['r', 't']]);
      expect(parameters['t']).toBeGreaterThan(0);
      expect(parameters['t']).toBeLessThanOrEqual(61);
      left.push(parameters['r']);
      if (status === 429) expect(parameters['r']).toBe(0);
    }
    expect(left.slice(0, 19)).toEqual(new Array(19).fill(undefined));
    const counted = left.filter((count) => count !== undefined);
    expect(counted.length).toBeGreaterThanOrEqual(20);
    expect(counted).toEqual([...counted].sort((one, other) => other - one));
    expect(counted.at(-1)).toBe(0);
  });

  it('have an item for each limit: for the address, the user and the tenant', async () => {
    await service.send('PATCH', `/tenants/${tenant.id}`, {
      token: service.operatorToken,
      body: { limits: { requestsPerSecond: 1 } },
    });
    const { token } = await service.createUser(tenant, 'uma@example.com');
    for (let turn = 0; turn < 30; turn += 1) await from('192.0.2.11');
    for (let turn = 0; turn < 7; turn += 1) await from('192.0.2.12', token);
    const { headers } = await from('192.0.2.11', token);
    expect(parseList(headers['ratelimit-policy'])).toEqual([
      { name: 'address', parameters: { q: 40, w: 60 } },
      { name: 'user', parameters: { q: 10, w: 60 } },
      { name: 'tenant', parameters: { q: 1, w: 1 } },
    ]);
    expect(parseList(headers['ratelimit']).map(({ name }) => name)).toEqual(['address', 'user', 'tenant']);
  });

  it('name the separate limit of sign-ins, and every 429 has Retry-After', async () => {
    const body = { tenant: tenant.slug, email: ADMIN.email, password: 'not-the-password' };
    const statuses: number[] = [];
    for (let turn = 0; turn < 6; turn += 1) {
      const { status, headers } = await from('192.0.2.13', undefined, '/auth/login', body);
      statuses.push(status);
      if (status !== 429) continue;
      expect(headers['ratelimit-policy']).toBe('"sign-in";q=4;w=60');
      expect(Number(headers['retry-after'])).toBeGreaterThan(0);
    }
    expect(statuses.slice(0, 4)).toEqual([401, 401, 401, 401]);
    expect(statuses).toContain(429);
  });

  it('can be read by browsers, and are in the API description', async () => {
    const { headers } = await from('192.0.2.14');
    expect(String(headers['access-control-expose-headers'])).toMatch(/ratelimit, ratelimit-policy/);
    const document = await service.app.inject('/docs/json');
    const { paths } = dereferenced(
      document.json<{ paths: Record<string, Record<string, { responses: Record<string, { headers?: object }> }>> }>(),
    );
    const responses = paths['/products']?.['get']?.responses ?? {};
    const named = (status: string): string[] => Object.keys(responses[status]?.headers ?? {});
    expect(named('200')).toEqual(['RateLimit', 'RateLimit-Policy', 'X-Request-Id']);
    expect(named('429')).toEqual(['Retry-After', 'RateLimit', 'RateLimit-Policy', 'X-Request-Id']);
    expect(named('503')).toEqual(['Retry-After', 'X-Request-Id']);
  });
});
