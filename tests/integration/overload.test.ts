// An event loop that cannot keep up: what is refused, what is still served, and how it ends.
import { once } from 'node:events';
import { connect } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { startService, type TestService, type TestTenant } from '../support/app.js';
import { exchange, expectProblem, listen, parseAnswer, sendBytes, type Received } from '../support/wire.js';

const SOON = { timeout: 30_000, interval: 50 };

/** Each turn works for longer than the limit. */
const LIMIT = 100;
const BUSY_FOR = 120;

const ORIGIN = 'https://shop.example.com';

let service: TestService;
let tenant: TestTenant;
let port: number;
const written: string[] = [];

beforeAll(async () => {
  const logStream = { write: (text: string): void => void written.push(text) };
  const env = { LOG_LEVEL: 'info', MAX_EVENT_LOOP_DELAY_MS: String(LIMIT), CORS_ORIGINS: ORIGIN };
  service = await startService({ env, overrides: { logStream } });
  tenant = await service.createTenant();
  port = await listen(service);
});
afterAll(() => service.close());

let isBusy = false;
afterEach(async () => {
  isBusy = false;
  await expect.poll(() => service.app.engine.traffic.overloaded, SOON).toBe(false);
});

/** Makes every turn of this process's event loop long, and waits until requests are refused. */
async function overload(of: TestService = service): Promise<void> {
  isBusy = true;
  const work = (): void => {
    if (!isBusy) return;
    const since = performance.now();
    while (performance.now() - since < BUSY_FOR);
    // The next turn begins after the input that arrived meanwhile.
    setImmediate(work);
  };
  setImmediate(work);
  await expect.poll(() => of.app.engine.traffic.overloaded, { timeout: 30_000, interval: 1 }).toBe(true);
}

function lines(about: RegExp): Record<string, unknown>[] {
  const all = written.join('').split('\n');
  return all.filter((line) => about.test(line)).map((line) => JSON.parse(line) as Record<string, unknown>);
}

const authorized = (): Record<string, string> => ({ authorization: `Bearer ${tenant.adminToken}` });
const create = (headers: Record<string, string> = {}, name = 'Lamp'): Promise<Received> =>
  exchange(port, 'POST', '/products', {
    headers: { ...authorized(), 'content-type': 'application/json', ...headers },
    body: JSON.stringify({ name, price: '1.00' }),
  });

async function namesOfProducts(): Promise<string[]> {
  const { body } = await service.send<{ data: { name: string }[] }>('GET', '/products?limit=100', {
    token: tenant.adminToken,
  });
  return body.data.map(({ name }) => name);
}

describe('while the event loop is overloaded', () => {
  it('requests are 503 with Retry-After, and nothing is done for them', async () => {
    await overload();
    const answers = [await create({}, 'refused'), await exchange(port, 'GET', '/products', { headers: authorized() })];
    for (const answer of answers) {
      expectProblem(answer, 503, 'overloaded');
      expect(['1', '2', '3']).toContain(answer.headers['retry-after']);
    }
    isBusy = false;
    expect(await namesOfProducts()).not.toContain('refused');
  });

  it('an Idempotency-Key of a refused request is unused: the same request succeeds later', async () => {
    const key = { 'idempotency-key': 'order-4711' };
    await overload();
    expect((await create(key, 'later')).status).toBe(503);
    isBusy = false;
    await expect.poll(async () => (await create(key, 'later')).status, SOON).toBe(201);
    expect((await namesOfProducts()).filter((name) => name === 'later')).toHaveLength(1);
  });

  it('refusals have the headers of every answer, and the ids of the request', async () => {
    const trace = '0af7651916cd43dd8448eb211c80319c';
    const headers = {
      origin: ORIGIN,
      'x-request-id': 'mine-1',
      traceparent: `00-${trace}-b7ad6b7169203331-01`,
    };
    const usual = await exchange(port, 'GET', '/products', { headers });
    expect(usual.status).toBe(401);
    await overload();
    const refused = await exchange(port, 'GET', '/products', { headers });
    expect(refused.status).toBe(503);
    expect(JSON.parse(refused.text)).toMatchObject({ requestId: 'mine-1', traceId: trace, status: 503 });
    expect(refused.headers['x-request-id']).toBe('mine-1');
    const ofAnswer = ['www-authenticate', 'date', 'content-length', 'ratelimit', 'ratelimit-policy', 'keep-alive'];
    for (const [name, value] of Object.entries(usual.headers))
      if (!ofAnswer.includes(name)) expect([name, refused.headers[name]]).toEqual([name, value]);
    const other = await exchange(port, 'GET', '/products', { headers: { origin: 'https://evil.example.com' } });
    expect(other.headers).not.toHaveProperty('access-control-allow-origin');
  });

  it('an id of another form is not repeated', async () => {
    await overload();
    const answer = await exchange(port, 'GET', '/products', { headers: { 'x-request-id': 'x","evil":"1' } });
    expectProblem(answer, 503, 'overloaded');
    expect(answer.text).not.toContain('evil');
  });

  it('health and preflights are answered', async () => {
    await overload();
    expect((await exchange(port, 'GET', '/health/live')).status).toBe(200);
    // Readiness also depends on the feed, which a busy process may not hear.
    expect((await exchange(port, 'GET', '/health/ready')).text).not.toContain('overloaded');
    const headers = { origin: ORIGIN, 'access-control-request-method': 'POST' };
    expect((await exchange(port, 'OPTIONS', '/products', { headers })).status).toBe(204);
    expect((await exchange(port, 'GET', '/products')).status).toBe(503);
  });

  it('a refusal keeps its connection, also for requests that were sent at once', async () => {
    await overload();
    const get = 'GET /products HTTP/1.1\r\nHost: a\r\n\r\n';
    const socket = connect(port, '127.0.0.1');
    await once(socket, 'connect');
    let received = '';
    socket.setEncoding('utf8').on('data', (text: string) => (received += text));
    socket.write(get + get);
    await expect.poll(() => received.match(/HTTP\/1.1 503/g)?.length, SOON).toBe(2);
    socket.write('GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n');
    await expect.poll(() => received, SOON).toContain('HTTP/1.1 200');
    socket.destroy();
  });

  it('a client that still sends its body can read the refusal', async () => {
    await overload();
    const head = 'POST /products HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 60000\r\n\r\n';
    const answer = parseAnswer(await sendBytes(port, head + 'x'.repeat(30_000)));
    expectProblem(answer, 503, 'overloaded');
  });

  it('refusals are counted, and the log has one line for the start and one for the end', async () => {
    const { metrics, traffic } = service.app.engine;
    const refusals = async (): Promise<number> => {
      const { body: text } = await metrics.expose();
      const line = /^tenantry_http_errors_total\{code="overloaded"\} (\d+)$/m.exec(text);
      expect(text).toContain(`tenantry_overloaded ${traffic.overloaded ? 1 : 0}\n`);
      return Number(line?.[1]);
    };
    const before = await refusals();
    written.length = 0;
    await overload();
    for (let count = 0; count < 5; count += 1) expect((await exchange(port, 'GET', '/roles')).status).toBe(503);
    expect(await refusals()).toBe(before + 5);
    expect((await metrics.expose()).body).toMatch(/_count\{method="GET",route="none",status="503"\} \d/);
    isBusy = false;
    await expect.poll(() => lines(/no longer overloaded/), SOON).toHaveLength(1);
    expect(lines(/no longer overloaded/)[0]).toMatchObject({ level: 'info', refused: 5 });
    expect(lines(/requests are refused/)).toMatchObject([{ level: 'warn', limit: LIMIT }]);
    expect(lines(/"msg":"request"/)).toEqual([]);
  });
});

it('one long turn refuses nothing', async () => {
  // As a garbage collection, or a host that stops the process for a moment. The limit is one that other tests cannot cause to be
  // exceeded three times in a row.
  const patient = await startService({ env: { MAX_EVENT_LOOP_DELAY_MS: '1000' } });
  const at = await listen(patient);
  try {
    const since = performance.now();
    while (performance.now() - since < 1_500);
    expect((await exchange(at, 'GET', '/products')).status).toBe(401);
    expect(patient.app.engine.traffic.overloaded).toBe(false);
  } finally {
    await patient.close();
  }
});

it('a service that closes while it is overloaded refuses nothing more', async () => {
  const closing = await startService({ env: { MAX_EVENT_LOOP_DELAY_MS: String(LIMIT) } });
  const { server, engine } = closing.app;
  const usual = server.listeners('request');
  try {
    await overload(closing);
    expect(server.listeners('request')).not.toEqual(usual);
  } finally {
    isBusy = false;
    await closing.close();
  }
  expect(server.listeners('request')).toHaveLength(usual.length);
  expect(server.listeners('request')).toEqual(expect.arrayContaining(usual));
  expect(engine.traffic.overloaded).toBe(false);
});

it('nothing is refused if the limit is 0', async () => {
  const unlimited = await startService({ env: { MAX_EVENT_LOOP_DELAY_MS: '0' } });
  const at = await listen(unlimited);
  try {
    await overload();
    expect((await exchange(at, 'GET', '/products')).status).toBe(401);
  } finally {
    isBusy = false;
    await unlimited.close();
  }
});
