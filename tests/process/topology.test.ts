// The promises of docker-compose.yml, on the same topology as processes: HAProxy, two replicas, two PostgreSQL servers, Redis.
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { skipNote } from '../support/programs.js';
import { walkReadme } from '../support/readme.js';
import { notThereOnce, send, startLoad } from '../support/rolling-load.js';
import { build, eventually } from '../support/service-process.js';
import { startTopology, type Topology } from '../support/topology.js';

const ADMIN = { email: 'ada@acme.example', password: 'correct horse battery', firstName: 'Ada', lastName: 'Acme' };
const SIGN_IN_LIMIT = 10;

const skipped = skipNote('haproxy', 'psql', 'openssl', 'setsid');

describe.skipIf(skipped !== '')(`two replicas behind HAProxy${skipped}`, () => {
  let topology: Topology;
  let operator: string;
  let token: string;
  let productId: string;

  beforeAll(async () => {
    await build();
    topology = await startTopology({
      env: {
        RATE_LIMIT_MAX: '1000000',
        SIGN_IN_LIMIT: String(SIGN_IN_LIMIT),
        // Shorter than in production (5,000), and long enough for the balancer to notice.
        SHUTDOWN_DRAIN_MS: '3000',
      },
      // Every client of the tests is one source.
      balancer: { SOURCE_REQUEST_RATE: '1000000', SOURCE_CONNECTION_RATE: '1000000' },
    });
    const signedIn = await send(`${topology.url}/auth/operator/login`, 'POST', { body: topology.operator });
    operator = String(signedIn.body['accessToken']);
    await createTenant(topology.url, 'acme');
    token = await signIn(topology.url, 'acme');
    const product = await send(`${topology.url}/products`, 'POST', { token, body: { name: 'Lamp', price: '12.50' } });
    productId = String(product.body['id']);
  }, 120_000);
  afterAll(() => topology.stop());

  async function createTenant(url: string, slug: string): Promise<string> {
    const made = await send(`${url}/tenants`, 'POST', { token: operator, body: { name: slug, slug, admin: ADMIN } });
    expect(made).toMatchObject({ status: 201 });
    return String(made.body['id']);
  }

  async function signIn(url: string, tenant: string): Promise<string> {
    const answer = await send(`${url}/auth/login`, 'POST', {
      body: { tenant, email: ADMIN.email, password: ADMIN.password },
    });
    expect(answer).toMatchObject({ status: 200 });
    return String(answer.body['accessToken']);
  }

  const readThrough = async (url: string): Promise<number> =>
    (await send(`${url}/products/${productId}`, 'GET', { token })).status;

  it('serve metrics each on a port of its own, and HAProxy leads to none of them', async () => {
    for (const { metricsUrl, url } of topology.replicas) {
      const answer = await fetch(metricsUrl);
      expect(answer.status).toBe(200);
      expect(await answer.text()).toContain('tenantry_fleet_readable 1\n');
      expect((await fetch(`${url}/metrics`)).status).toBe(404);
    }
    expect((await fetch(`${topology.url}/metrics`)).status).toBe(404);
  });

  it('both get requests, and keep the request ID that the client chose', async () => {
    let turn = 0;
    // Repeated until it holds: the balancer rightly leaves out a starved replica whose checks fail.
    await eventually('both have logged some', async () => {
      const id = `balanced-${(turn += 1)}`;
      const answer = await send(`${topology.url}/products`, 'GET', { token, headers: { 'x-request-id': id } });
      expect(answer).toMatchObject({ status: 200, headers: { 'x-request-id': id } });
      const logs = await Promise.all(topology.replicas.map(({ logFile }) => readFile(logFile, 'utf8')));
      return logs.every((log) => log.includes('"balanced-'));
    });
  });

  it('passes the trace of a caller on to the replicas', async () => {
    const traceId = 'a1'.repeat(16);
    const headers = { traceparent: `00-${traceId}-b7ad6b7169203331-01` };
    expect(await send(`${topology.url}/products`, 'GET', { headers })).toMatchObject({
      status: 401,
      body: { traceId },
    });
  });

  it('serve the walk of the README, as docs/guide/deploy.md says', async () => {
    expect(await walkReadme(topology.url, topology.operator)).toContain('"name":"Wayne Enterprises"');
  });

  it('count a client by its real address, whatever X-Forwarded-For it sends', async () => {
    const attempt = async (from: string, claimed: string): Promise<number> => {
      // The limit is checked before the body.
      const headers = { 'x-forwarded-for': claimed, forwarded: `for=${claimed}` };
      return (await send(`${topology.url}/auth/login`, 'POST', { from, body: {}, headers })).status;
    };
    const statuses: number[] = [];
    // Each replica counts for itself.
    const allowed = 2 * SIGN_IN_LIMIT;
    for (let turn = 0; turn < allowed + 10; turn += 1) statuses.push(await attempt('127.0.0.9', `203.0.113.${turn}`));
    expect(statuses.filter((status) => status === 400).length).toBeLessThanOrEqual(allowed);
    expect(statuses.at(-1)).toBe(429);
    // Another client is not limited by it, even if it claims to be the first.
    expect(await attempt('127.0.0.10', '127.0.0.9')).toBe(400);
  });

  it('both serve a new tenant at once, whichever of them created it', async () => {
    const [first, second] = topology.replicas;
    await createTenant(first.url, 'made-on-one');
    const session = await signIn(second.url, 'made-on-one');
    expect((await send(`${first.url}/users`, 'GET', { token: session })).status).toBe(200);
    expect((await send(`${second.url}/users`, 'GET', { token: session })).status).toBe(200);
  });

  it('apply a suspension, a resumption and a deletion by the other replica within a second', async () => {
    const [first, second] = topology.replicas;
    const id = await createTenant(first.url, 'short-lived');
    const session = await signIn(second.url, 'short-lived');
    const status = async (): Promise<number> => (await send(`${second.url}/users`, 'GET', { token: session })).status;
    for (const [active, expected] of [
      [false, 403],
      [true, 200],
    ] as const) {
      const changed = await send(`${first.url}/tenants/${id}`, 'PATCH', { token: operator, body: { active } });
      expect(changed.status).toBe(200);
      await eventually(`status ${expected}`, async () => (await status()) === expected, 1_000);
    }
    expect((await send(`${first.url}/tenants/${id}`, 'DELETE', { token: operator })).status).toBe(204);
    await eventually('gone', async () => [401, 403].includes(await status()), 1_000);
  });

  it('fail no request while they are restarted one after the other', { timeout: 60_000 }, async () => {
    const load = startLoad({ url: topology.url, token, productId });
    for (const replica of topology.replicas) {
      expect(await replica.stop('SIGTERM')).toBe(0);
      await replica.start();
    }
    const { sent, created, failures } = await load.stop();
    expect(failures).toEqual([]);
    expect(sent).toBeGreaterThan(500);
    expect(await notThereOnce({ url: topology.url, token }, created)).toEqual([]);
  });

  it('fail only requests that were running on a replica when it was killed', { timeout: 60_000 }, async () => {
    const [killed] = topology.replicas;
    await eventually('in again', async () => (await balancerLog()).endsWith('UP'));
    const load = startLoad({ url: topology.url, token, productId });
    await sleep(500);
    const killedAt = performance.now();
    await killed.stop('SIGKILL');
    await eventually('taken out', async () => (await balancerLog()).endsWith('DOWN'));
    await sleep(500);
    const { failures, created } = await load.stop();
    expect(failures.length).toBeLessThanOrEqual(load.clients);
    expect(failures.filter(({ at }) => at > killedAt + 1_000)).toEqual([]);
    expect(await notThereOnce({ url: topology.url, token }, created)).toEqual([]);
    await killed.start();

    /** The balancer's last line about the killed replica. */
    async function balancerLog(): Promise<string> {
      const log = await readFile(`${topology.folder}/balancer.log`, 'utf8');
      return [...log.matchAll(/Server ready\/replica-1 is (?:UP|DOWN)/g)].at(-1)?.[0] ?? 'UP';
    }
  });

  it('continue while Redis is away, and use it when it is back', async () => {
    const seen = async (): Promise<unknown[]> => {
      const answers = await Promise.all(
        topology.replicas.map(({ url }) => send(`${url}/pools?limit=1`, 'GET', { token: operator })),
      );
      return answers.map(({ body }) => (body['redis'] as { available: boolean }).available);
    };
    await eventually('used by both', async () => (await seen()).every((available) => available === true));
    await topology.redis.stop('SIGKILL');
    await eventually('missed by both', async () => (await seen()).every((available) => available === false));
    for (const { url } of topology.replicas) {
      expect(await readThrough(url)).toBe(200);
      expect((await send(`${url}/health/ready`, 'GET')).status).toBe(200);
    }
    await topology.redis.start();
    await eventually('used again by both', async () => (await seen()).every((available) => available === true));
  });

  it.skipIf(process.platform !== 'linux')(
    'keep their secrets in files: none is in the environment or the arguments of a process',
    async () => {
      const secrets = await Promise.all(
        ['database_url', 'redis_auth', 'jwt_keys', 'encryption_keys', 'operator_password'].map((name) =>
          readFile(`${topology.folder}/secrets/${name}`, 'utf8'),
        ),
      );
      const values = secrets.map((text) => text.trim().replace(/^requirepass /, ''));
      for (const pid of [...topology.replicas, topology.redis].map((each) => each.pid)) {
        const shown = await Promise.all(
          ['environ', 'cmdline'].map((file) => readFile(`/proc/${pid ?? ''}/${file}`, 'utf8')),
        );
        for (const value of values) expect(shown.join('\n')).not.toContain(value);
      }
    },
  );

  it('serve known tenants while the registry is away', async () => {
    for (const { url } of topology.replicas) expect(await readThrough(url)).toBe(200);
    await topology.registry.stop();
    await eventually('unready', async () => (await send(`${topology.url}/health/ready`, 'GET')).status === 503);
    // Longer than the balancer takes to notice that no replica is ready.
    for (let turn = 0; turn < 30; turn += 1) {
      expect(await readThrough(topology.url)).toBe(200);
      await sleep(100);
    }
    await topology.registry.start();
    await eventually('ready again', async () => (await send(`${topology.url}/health/ready`, 'GET')).status === 200);
  });

  it('leave a 503 in the form of the API to HAProxy when both are gone, and leave no files', async () => {
    await Promise.all(topology.replicas.map((replica) => replica.stop('SIGKILL')));
    const headers = { 'x-request-id': 'both-gone' };
    const answer = await send(`${topology.url}/products`, 'GET', { token, headers });
    expect(answer).toMatchObject({
      status: 503,
      headers: {
        ...headers,
        'content-type': 'application/problem+json',
        'retry-after': '1',
        'cache-control': 'no-store',
      },
      body: { status: 503, code: 'unavailable', requestId: 'both-gone' },
    });
    await topology.stop();
    await expect(readFile(`${topology.folder}/balancer.log`)).rejects.toThrow('ENOENT');
    await expect(send(topology.url, 'GET')).rejects.toThrow('ECONNREFUSED');
  });
});
