// deploy/haproxy.cfg in front of the service: HAProxy's own errors, request IDs, compression, and the bounds of each source.
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import { connect, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { portOf } from '../../src/embedded/port.js';
import { catalogue, type ErrorCode } from '../../src/errors.js';
import { ADMIN, startService, type TestService, type TestTenant } from '../support/app.js';
import { skipNote } from '../support/programs.js';
import { eventually } from '../support/service-process.js';
import { startBalancer } from '../support/balancers.js';
import { exchange, expectProblem, listen, parseAnswer, sendBytes, type Received } from '../support/wire.js';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

/** Nothing listens there. */
const NOWHERE = '127.0.0.1:1';

const skipped = skipNote('haproxy');

/** Expects an error that HAProxy itself answers. */
function expectOwnError(answer: Received, status: number, code: ErrorCode): void {
  expect([answer.status, answer.headers['content-type']]).toEqual([status, 'application/problem+json']);
  expect(answer.headers).toMatchObject({ 'cache-control': 'no-store', 'access-control-allow-origin': '*' });
  expect(JSON.parse(answer.text)).toEqual({
    type: `urn:tenantry:error:${code}`,
    title: catalogue[code].title,
    status,
    code,
    requestId: answer.headers['x-request-id'],
  });
}

describe.skipIf(skipped !== '')(`HAProxy in front of a replica${skipped}`, () => {
  let service: TestService;
  let tenant: TestTenant;
  let folder: string;
  let replica: string;
  let balancers = 0;
  beforeAll(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'tenantry-balancer-'));
    service = await startService({ env: { TRUST_PROXY: '127.0.0.1' } });
    tenant = await service.createTenant();
    replica = `127.0.0.1:${await listen(service)}`;
  });
  afterAll(async () => {
    await service.close();
    await rm(folder, { recursive: true });
  });

  /** Starts HAProxy for the calling test. Returns its port. */
  async function start(
    env: Readonly<Record<string, string>> = {},
    to = replica,
  ): Promise<{ port: number; logFile: string }> {
    const name = `balancer-${(balancers += 1)}`;
    const port = await portOf(path.join(folder, `${name}.port`));
    const logFile = path.join(folder, `${name}.log`);
    const balancer = startBalancer({ port, replicas: [to, NOWHERE], env, logFile });
    onTestFinished(() => void balancer.stop('SIGTERM'));
    const isUp = async (): Promise<boolean> =>
      exchange(port, 'GET', '/health/live').then(
        ({ status }) => status === (to === NOWHERE ? 503 : 200),
        () => false,
      );
    await eventually('the balancer answers', isUp);
    return { port, logFile };
  }

  /** Starts HAProxy for the calling test, in front of a stand-in for a replica. Returns its port. */
  async function startBefore(answer: RequestListener): Promise<number> {
    const server = createServer(answer).listen(0, '127.0.0.1');
    onTestFinished(() => {
      server.close();
      server.closeAllConnections();
    });
    await once(server, 'listening');
    const { port } = await start({}, `127.0.0.1:${(server.address() as AddressInfo).port}`);
    return port;
  }

  const bearer = (): Record<string, string> => ({ authorization: `Bearer ${tenant.adminToken}` });

  it('closes the way to the replica when a client leaves before its answer', async () => {
    let arrived = 0;
    let left = 0;
    const port = await startBefore((request, response) => {
      if (request.url === '/health/live' || request.url === '/health/ready') {
        response.end();
        return;
      }
      arrived += 1;
      response.once('close', () => (left += 1));
    });
    const slow = connect(port, '127.0.0.1');
    slow.write('GET /slow HTTP/1.1\r\nHost: a\r\n\r\n');
    const stays = connect(port, '127.0.0.1');
    stays.write('GET /stays HTTP/1.1\r\nHost: a\r\n\r\n');
    onTestFinished(() => void stays.destroy());
    await expect.poll(() => arrived, { timeout: 30_000 }).toBe(2);
    slow.destroy();
    await expect.poll(() => left, { timeout: 30_000 }).toBe(1);
  });

  it('gives a request an ID, unless its client has given one that is well formed', async () => {
    // A replica would give a request without such an ID one of its own.
    let arrived: unknown;
    const port = await startBefore((request, response) => {
      if (request.url === '/nothing') arrived = request.headers['x-request-id'];
      response.end();
    });
    const idOf = async (id?: string | string[]): Promise<unknown> => {
      arrived = undefined;
      await exchange(port, 'GET', '/nothing', { headers: id === undefined ? {} : { 'x-request-id': id } });
      return arrived;
    };
    expect(await idOf('Mine_1-a')).toBe('Mine_1-a');
    for (const id of [undefined, 'a b', 'x'.repeat(65), ['a', 'b']]) expect(await idOf(id)).toMatch(UUID);
  });

  it('answers 503 in the form of the service while no replica is there, and logs its request ID without a path', async () => {
    const { port, logFile } = await start({}, NOWHERE);
    const answer = await exchange(port, 'GET', '/products?search=typed', { headers: { 'x-request-id': 'gone' } });
    expectOwnError(answer, 503, 'unavailable');
    expect(answer.headers).toMatchObject({ 'x-request-id': 'gone', 'retry-after': '1' });
    await eventually('logged', async () => (await readFile(logFile, 'utf8')).includes('reqId=gone'));
    expect(await readFile(logFile, 'utf8')).not.toContain('typed');
  });

  it('closes the connection after bytes that are not HTTP, with its built-in answer', async () => {
    const { port } = await start();
    for (const bytes of ['hello\r\n\r\n', 'GET / HTTP/1.1\r\nhost: x\r\nbad header: y\r\n\r\n'])
      expect(parseAnswer(await sendBytes(port, bytes)).status).toBe(400);
  });

  it('lets a client that still sends its body read the 413 and the 401 of the service', async () => {
    const { port } = await start();
    for (const [line, status, code] of [
      ['POST /auth/login', 413, 'body-too-large'],
      ['POST /products', 401, 'unauthenticated'],
    ] as const) {
      const socket = connect(port, '127.0.0.1');
      onTestFinished(() => void socket.destroy());
      socket.on('error', () => undefined);
      await once(socket, 'connect');
      let text = '';
      socket.on('data', (bytes: Buffer) => (text += bytes.toString()));
      socket.write(`${line} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10000000\r\n\r\n`);
      socket.write(Buffer.alloc(10_000_000, 'x'));
      await eventually('the answer is read', () => text.endsWith('}'));
      expectProblem(parseAnswer(text), status, code);
    }
  });

  it('compresses the documentation and lists of products, and nothing with a secret or an ETag', async () => {
    const { port } = await start();
    const headers = { ...bearer(), 'accept-encoding': 'gzip' };
    for (let number = 0; number < 5; number += 1)
      await service.send('POST', '/products', {
        token: tenant.adminToken,
        body: { name: `Lamp ${number}`, price: '1.00', description: 'x'.repeat(500) },
      });
    for (const address of ['/docs/json', '/products', '/products/?limit=5']) {
      const compressed = await exchange(port, 'GET', address, { headers });
      expect([address, compressed.status, compressed.headers['content-encoding']]).toEqual([address, 200, 'gzip']);
      expect(String(compressed.headers.vary).toLowerCase()).toContain('accept-encoding');
      const plain = await exchange(port, 'GET', address, { headers: bearer() });
      expect([address, gunzipSync(compressed.bytes).toString()]).toEqual([address, plain.text]);
    }
    const body = JSON.stringify({ tenant: tenant.slug, email: ADMIN.email, password: ADMIN.password });
    const { body: list } = await service.send<{ data: { id: string }[] }>('GET', '/products', {
      token: tenant.adminToken,
    });
    const answers = [
      await exchange(port, 'POST', '/auth/login', {
        headers: { ...headers, 'content-type': 'application/json' },
        body,
      }),
      ...(await Promise.all(
        ['/users', '/audit', '/auth/me', '/roles', `/products/${list.data[0]?.id ?? ''}`].map((address) =>
          exchange(port, 'GET', address, { headers }),
        ),
      )),
    ];
    for (const answer of answers) expect([answer.status, answer.headers['content-encoding']]).toEqual([200, undefined]);
    const made = await exchange(port, 'POST', '/products', {
      headers: { ...headers, 'content-type': 'application/json' },
      body: JSON.stringify({ name: 'Lamp', price: '1.00', description: 'x'.repeat(500) }),
    });
    expect([made.status, made.headers['content-encoding']]).toEqual([201, undefined]);
    // HAProxy makes the ETag of an answer that it compresses weak.
    expect(made.headers.etag).toMatch(/^"/);
  });

  it('answers 429 to a source with too many requests, and serves others', async () => {
    const { port } = await start({ SOURCE_REQUEST_RATE: '20' });
    const answers: Received[] = [];
    for (let count = 0; count < 30; count += 1) answers.push(await exchange(port, 'GET', '/health/live'));
    expect(answers[0]?.status).toBe(200);
    const last = answers.at(-1);
    if (!last) throw new Error('there is no answer');
    expectOwnError(last, 429, 'rate-limited');
    expect(last.headers['retry-after']).toBe('10');
    expect((await exchange(port, 'GET', '/health/live', { from: '127.0.0.9' })).status).toBe(200);
  });

  it('answers 429 to a source that opens too many connections in a short time', async () => {
    const { port } = await start({ SOURCE_CONNECTION_RATE: '20' });
    const answers: Received[] = [];
    for (let count = 0; count < 30; count += 1) answers.push(await exchange(port, 'GET', '/health/live'));
    expect(answers.at(-1)?.status).toBe(429);
  });

  it('closes the connections of a source beyond its bound, even if they say nothing, and serves others', async () => {
    const { port } = await start({ SOURCE_CONNECTIONS: '10' });
    const open = Array.from({ length: 30 }, () => connect(port, '127.0.0.1'));
    onTestFinished(() => {
      for (const socket of open) socket.destroy();
    });
    let closed = 0;
    for (const socket of open)
      socket
        .on('error', () => undefined)
        .on('close', () => (closed += 1))
        .resume();
    await eventually('those beyond are closed', async () => closed >= 20);
    expect(open.length - closed).toBeGreaterThan(0);
    expect((await exchange(port, 'GET', '/health/live', { from: '127.0.0.9' })).status).toBe(200);
  });
});
