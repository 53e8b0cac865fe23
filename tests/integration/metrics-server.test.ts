// Where metrics are served: on a port of their own, to whoever asks well, and however the registry is.
import { once } from 'node:events';
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { metricDefinitions } from '../../src/engine/metrics/index.js';
import { AddressError } from '../../src/http/listen-address.js';
import { openMetricsServer, type MetricsServer } from '../../src/http/metrics-server.js';
import {
  createRegistry,
  openApp,
  startService,
  testConfig,
  type TestService,
  type TestTenant,
} from '../support/app.js';
import { parseExposition } from '../support/exposition.js';
import { startProxy, type Proxy } from '../support/proxy.js';

const ANY_PORT = { host: '127.0.0.1', port: 0 };

let service: TestService;
let tenant: TestTenant;
let server: MetricsServer;
beforeAll(async () => {
  service = await startService();
  tenant = await service.createTenant();
  server = await openMetricsServer(service.app.engine.metrics, ANY_PORT);
});
afterAll(async () => {
  await server.close();
  await service.close();
});

const scrape = (): Promise<Response> => fetch(`${server.address}/metrics`);

/** Sends bytes, and returns everything that comes back until the connection ends. */
async function raw(bytes: string): Promise<string> {
  const { hostname, port } = new URL(server.address);
  const socket = connect(Number(port), hostname);
  let answer = '';
  socket.setEncoding('latin1').on('data', (text: string) => (answer += text));
  socket.on('error', () => undefined);
  socket.write(bytes);
  await once(socket, 'close');
  return answer;
}

describe('the port of the metrics', () => {
  it('answers in the text format, with every metric that is defined and those of Node.js', async () => {
    const answer = await scrape();
    expect(answer.status).toBe(200);
    expect(answer.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8');
    expect(answer.headers.get('cache-control')).toBe('no-store');
    const { text } = parseExposition(await answer.text());
    for (const { name, kind } of metricDefinitions) expect(text).toContain(`# TYPE ${name} ${kind}\n`);
    for (const name of ['process_cpu_seconds_total', 'nodejs_eventloop_lag_p99_seconds', 'nodejs_gc_duration_seconds'])
      expect(text).toContain(`# TYPE ${name} `);
  });

  it('answers HEAD with the head only', async () => {
    const answer = await fetch(`${server.address}/metrics?name=x`, { method: 'HEAD' });
    expect(answer.status).toBe(200);
    expect(Number(answer.headers.get('content-length'))).toBeGreaterThan(1_000);
    expect(await answer.text()).toBe('');
  });

  it.each(['/', '/metrics/', '/health/live', '/docs', '//metrics', '/%6detrics'])(
    'has nothing else: %s',
    async (path) => {
      const answer = await fetch(server.address + path);
      expect(answer.status).toBe(404);
      expect(answer.headers.get('content-type')).toMatch(/^application\/problem\+json/);
      expect(await answer.json()).toMatchObject({ code: 'not-found', status: 404 });
    },
  );

  it.each(['POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH'])('refuses %s with 405', async (method) => {
    const body = method === 'OPTIONS' || method === 'DELETE' ? {} : { body: 'x'.repeat(100_000) };
    const answer = await fetch(`${server.address}/metrics`, { method, ...body });
    expect(answer.status).toBe(405);
    expect(answer.headers.get('allow')).toBe('GET, HEAD');
    expect(await answer.json()).toMatchObject({ code: 'method-not-allowed' });
  });

  it.each([
    ['bytes that are not HTTP', 'what?\r\n\r\n', 400],
    ['two lengths', 'GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n', 400],
    ['no Host', 'GET /metrics HTTP/1.1\r\n\r\n', 400],
    ['a head that is too large', `GET /metrics HTTP/1.1\r\nHost: a\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`, 431],
  ])('refuses %s and goes on', async (_, bytes, status) => {
    expect(await raw(bytes)).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
    expect((await scrape()).status).toBe(200);
  });

  it('closes a connection on which no whole request arrives', async () => {
    expect(await raw('GET /metrics HTTP/1.1\r\nHost: a\r\n')).toMatch(/^HTTP\/1.1 408 /);
  });

  it('answers one request of a connection, so that a client that does not read fills no memory', async () => {
    const answer = await raw('GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n'.repeat(20));
    expect(answer.match(/^HTTP\/1\.1 200 /gm)).toHaveLength(1);
    expect(answer.match(/^# TYPE tenantry_tenants gauge$/gm)).toHaveLength(1);
  });

  it('answers fifty scrapes at once, each with a whole answer', async () => {
    const answers = await Promise.all(Array.from({ length: 50 }, scrape));
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
    const texts = await Promise.all(answers.map((answer) => answer.text()));
    for (const text of texts) expect(parseExposition(text).of('tenantry_tenants')).toHaveLength(5);
  });

  it('answers with numbers from after the scrape began, also while others scrape', async () => {
    const count = async (): Promise<number> =>
      parseExposition(await (await scrape()).text()).sum('tenantry_http_request_duration_seconds', {
        route: '/health/live',
      }) ?? 0;
    for (let round = 1; round <= 10; round += 1) {
      const before = await count();
      const others = [count(), count(), count()];
      await service.send('GET', '/health/live');
      expect(await count()).toBeGreaterThan(before);
      await Promise.all(others);
    }
  });
});

describe('the public port', () => {
  it('has no metrics, whoever asks', async () => {
    for (const url of ['/metrics', '/metrics/', '/v1/metrics'])
      for (const token of [undefined, service.operatorToken, tenant.adminToken])
        expect((await service.send('GET', url, { token })).status).toBe(404);
    expect((await service.app.inject('/docs/json')).body).not.toContain('/metrics');
  });
});

describe('a port that cannot be used', () => {
  it('is refused in a sentence that names the variable', async () => {
    const port = Number(new URL(server.address).port);
    const taken = openMetricsServer(service.app.engine.metrics, { host: '127.0.0.1', port });
    await expect(taken).rejects.toThrow(AddressError);
    await expect(taken).rejects.toThrow(`METRICS_PORT: another program listens on port ${port} of 127.0.0.1.`);
    // TEST-NET-1 of RFC 5737: no machine has it.
    await expect(openMetricsServer(service.app.engine.metrics, { host: '192.0.2.1', port: 0 })).rejects.toThrow(
      'METRICS_HOST: this machine has no address 192.0.2.1.',
    );
  });
});

describe('while the registry', () => {
  /** Longer than a scrape may take, and shorter than any deadline of a statement or a connection. */
  const SCRAPE_DEADLINE = 4_000;

  async function serviceBehind(): Promise<{ proxy: Proxy; address: string }> {
    const config = testConfig(await createRegistry());
    const { connection } = config.registry;
    const proxy = await startProxy(connection);
    onTestFinished(() => proxy.close());
    const there = { ...connection, host: proxy.host, port: proxy.port };
    const app = await openApp({ ...config, registry: { ...config.registry, connection: there } });
    onTestFinished(() => app.close());
    const metrics = await openMetricsServer(app.engine.metrics, ANY_PORT);
    onTestFinished(() => metrics.close());
    return { proxy, address: metrics.address };
  }

  it.each(['hang', 'refuse'] as const)(
    'is away (%s), a scrape answers in time, without the numbers of the fleet',
    async (mode) => {
      const { proxy, address } = await serviceBehind();
      proxy.mode = mode;
      const begunAt = performance.now();
      const answers = await Promise.all(
        Array.from({ length: 10 }, async () => (await fetch(`${address}/metrics`)).text()),
      );
      expect(performance.now() - begunAt).toBeLessThan(SCRAPE_DEADLINE);
      for (const text of answers) {
        const found = parseExposition(text);
        expect(found.sum('tenantry_fleet_readable')).toBe(0);
        expect(found.of('tenantry_tenants')).toEqual([]);
        expect(found.of('tenantry_operations')).toEqual([]);
        expect(found.sum('process_cpu_seconds_total')).toBeGreaterThan(0);
      }
      proxy.mode = 'pass';
      await expect
        .poll(async () => parseExposition(await (await fetch(`${address}/metrics`)).text()).sum('tenantry_tenants'), {
          timeout: 30_000,
          interval: 500,
        })
        .toBe(0);
    },
  );
});
