// deploy/nginx.conf in front of two replicas: what it passes on, what it repeats, and its own errors.
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { portOf } from '../../src/embedded/port.js';
import { catalogue } from '../../src/errors.js';
import { startNginx } from '../support/balancers.js';
import { skipNote } from '../support/programs.js';
import { send, type Answer } from '../support/rolling-load.js';
import { eventually } from '../support/service-process.js';
import type { Program } from '../support/topology-programs.js';

const skipped = skipNote('nginx');

/** A replica that ends each connection on which it gets `/dies`, without an answer, and answers `/waits` when it is let go. */
async function startReplica(got: IncomingMessage[], go: Promise<void>): Promise<{ server: Server; host: string }> {
  const server = createServer((request, response) => {
    got.push(request);
    if (request.url === '/dies') request.socket.destroy();
    else if (request.url === '/waits') void go.then(() => response.end('{}'));
    else response.end('{}');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { server, host: `127.0.0.1:${(server.address() as AddressInfo).port}` };
}

describe.skipIf(skipped !== '')(`nginx in front of two replicas${skipped}`, () => {
  const got: IncomingMessage[] = [];
  let folder: string;
  let url: string;
  let servers: Server[];
  let nginx: Program;
  let letGo: () => void;
  const go = new Promise<void>((resolve) => (letGo = resolve));

  beforeAll(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'tenantry-nginx-'));
    const port = await portOf(path.join(folder, 'nginx.port'));
    url = `http://127.0.0.1:${port}`;
    const replicas = await Promise.all([startReplica(got, go), startReplica(got, go)]);
    servers = replicas.map(({ server }) => server);
    const logFile = path.join(folder, 'nginx.log');
    nginx = await startNginx({ port, replicas: replicas.map(({ host }) => host), folder, bounded: true, logFile });
    await eventually('it answers', async () => (await send(url, 'GET').catch(() => undefined))?.status === 200);
  });
  afterAll(async () => {
    await nginx.stop('SIGTERM');
    for (const server of servers) server.close();
    await rm(folder, { recursive: true });
  });

  it('names the real address of the client, and keeps a request id that is well formed', async () => {
    const traceparent = `00-${'a1'.repeat(16)}-b7ad6b7169203331-01`;
    const headers = { 'x-forwarded-for': '203.0.113.1', 'x-forwarded-host': 'evil.example', traceparent };
    await send(`${url}/passed`, 'GET', { headers: { ...headers, 'x-request-id': 'chosen-1' } });
    await send(`${url}/passed`, 'GET', { headers: { ...headers, 'x-request-id': 'not well formed' } });
    const [first, second] = got.filter((request) => request.url === '/passed').map((request) => request.headers);
    expect(first).toMatchObject({ 'x-forwarded-for': '127.0.0.1', 'x-request-id': 'chosen-1', traceparent });
    expect(first).not.toHaveProperty('x-forwarded-host');
    expect(second?.['x-request-id']).toMatch(/^[0-9a-f]{32}$/);
  });

  it.each([
    ['GET', 2],
    ['POST', 1],
    ['PATCH', 1],
  ])('sends a %s that a dying replica has received to %i of them', async (method, times) => {
    got.length = 0;
    const answer = await send(`${url}/dies`, method, { headers: { 'x-request-id': 'died' } });
    expect(got.map((request) => request.method)).toEqual(Array.from({ length: times }, () => method));
    expect(answer).toMatchObject({
      status: 503,
      headers: { 'content-type': 'application/problem+json', 'retry-after': '1', 'cache-control': 'no-store' },
      body: {
        type: 'urn:tenantry:error:unavailable',
        title: catalogue.unavailable.title,
        status: 503,
        code: 'unavailable',
        requestId: 'died',
      },
    });
    // One request that kills its connection must not take the replicas away from all others.
    expect((await send(url, 'GET')).status).toBe(200);
  });

  it('answers 413 and 429 in the form of the API', async () => {
    // nginx need not wait for the body, which never comes.
    const large = await send(url, 'POST', { headers: { 'content-length': String(11 * 1024 * 1024) } });
    expect(large).toMatchObject({
      status: 413,
      body: { code: 'body-too-large', title: catalogue['body-too-large'].title },
    });
    const answers: Answer[] = [];
    const many = Array.from({ length: 401 }, async () => {
      const answer = await send(`${url}/waits`, 'GET');
      if (answer.status !== 200) answers.push(answer);
    });
    await eventually('one is refused', () => answers.length > 0);
    expect(answers[0]).toMatchObject({
      status: 429,
      headers: { 'retry-after': '10' },
      body: { code: 'rate-limited', title: catalogue['rate-limited'].title },
    });
    letGo();
    await Promise.all(many);
  });
});
