// Clients that still send when they get their answer: they can read it, and they cannot keep the connection.
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { LINGER_BYTES } from '../../src/http/lingering-close.js';
import { startService, startServiceForTest, type TestService } from '../support/app.js';
import { exchange, expectProblem, listen, parseAnswer } from '../support/wire.js';

let service: TestService;
let port: number;
beforeAll(async () => {
  service = await startService();
  port = await listen(service);
});
afterAll(() => service.close());

/** Much more than the buffers of both sockets hold. */
const LENGTH = 10_000_000;

/** Long, because a machine can be busy; a connection that is kept would stay open for ever. */
const PATIENCE = 20_000;

const TYPE = 'host: x\r\ncontent-type: application/json\r\n';

async function open(to = port): Promise<Socket> {
  // The client decides when its side ends.
  const socket = connect({ port: to, host: '127.0.0.1', allowHalfOpen: true });
  onTestFinished(() => void socket.destroy());
  socket.on('error', () => undefined);
  await once(socket, 'connect');
  return socket;
}

/** Everything until the service ends the connection. */
async function readAll(socket: Socket): Promise<string> {
  let text = '';
  socket.on('data', (bytes: Buffer) => (text += bytes.toString('latin1')));
  await new Promise<void>((resolve) =>
    socket.once('end', resolve).once('close', () => {
      resolve();
    }),
  );
  return text;
}

/** Resolves when the connection is gone. Rejects after PATIENCE. */
function closeOf(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(reject, PATIENCE, new Error('the connection is still open'));
    socket.once('close', () => {
      clearTimeout(timer);
      resolve();
    });
  });
}

/** Resolves when the bytes were handed to the system. Rejects if the connection was reset before. */
function write(socket: Socket, bytes: string | Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.write(bytes, (error) => {
      if (error) reject(error);
      else resolve();
    });
  });
}

interface Body {
  readonly framing: string;
  readonly bytes: Buffer;
}

const chunk = Buffer.from(`10000\r\n${'x'.repeat(0x10000)}\r\n`);
const bodies: readonly Body[] = [
  { framing: `content-length: ${LENGTH}`, bytes: Buffer.alloc(LENGTH, 'x') },
  {
    framing: 'transfer-encoding: chunked',
    bytes: Buffer.concat([...Array.from({ length: LENGTH / 0x10000 }, () => chunk), Buffer.from('0\r\n\r\n')]),
  },
];

const answers = [
  { line: 'POST /auth/login', status: 413, code: 'body-too-large' },
  { line: 'POST /products', status: 401, code: 'unauthenticated' },
  { line: 'POST /no/such/route', status: 404, code: 'not-found' },
  { line: 'PUT /products', status: 405, code: 'method-not-allowed' },
  { line: 'GET /products', status: 401, code: 'unauthenticated' },
];

describe('a client that sends 10 MB', () => {
  const cases = answers.flatMap((answer) => bodies.map((body) => ({ ...answer, ...body })));

  it.each(cases)('and reads nothing before all is sent, reads its $status: $line, $framing', async (one) => {
    const socket = await open();
    socket.pause();
    const close = one.framing.startsWith('transfer') ? 'connection: close\r\n' : '';
    await write(socket, `${one.line} HTTP/1.1\r\n${TYPE}${close}${one.framing}\r\n\r\n`);
    await write(socket, one.bytes);
    const read = readAll(socket);
    socket.resume();
    expectProblem(parseAnswer(await read), one.status, one.code);
  });

  it.each(cases)('and reads at once, reads its $status: $line, $framing', async (one) => {
    const socket = await open();
    const read = readAll(socket);
    socket.write(`${one.line} HTTP/1.1\r\n${TYPE}connection: close\r\n${one.framing}\r\n\r\n`);
    socket.write(one.bytes);
    expectProblem(parseAnswer(await read), one.status, one.code);
  });

  it('of headers, and reads nothing before all is sent, reads its 431', async () => {
    const socket = await open();
    socket.pause();
    await write(socket, `GET /health/live HTTP/1.1\r\nhost: x\r\nx-long: ${'x'.repeat(LENGTH)}\r\n\r\n`);
    const read = readAll(socket);
    socket.resume();
    expectProblem(parseAnswer(await read), 431, 'headers-too-large');
  });
});

describe('after an answer to a body that is still being sent', () => {
  it('no request that follows the body is served if the connection closes', async () => {
    for (const { framing, bytes } of bodies) {
      const socket = await open();
      const read = readAll(socket);
      await write(socket, `POST /auth/login HTTP/1.1\r\n${TYPE}${framing}\r\n\r\n`);
      await write(socket, Buffer.concat([bytes, Buffer.from('GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n')]));
      expect((await read).match(/HTTP\/1\.1 \d{3}/g)).toEqual(['HTTP/1.1 413']);
    }
  });

  it('the connection serves the next request if the body was small', async () => {
    const socket = await open();
    await write(socket, `POST /products HTTP/1.1\r\n${TYPE}content-length: 2\r\n\r\n`);
    const [first] = (await once(socket, 'data')) as [Buffer];
    expectProblem(parseAnswer(first.toString()), 401, 'unauthenticated');
    const read = readAll(socket);
    await write(socket, '{}GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n');
    expect(parseAnswer(await read).status).toBe(200);
  });

  it.each([
    ['its connection closes with the answer', 'POST /auth/login', 'content-length: 9000000', ' '],
    ['its connection would be kept', 'POST /products', 'transfer-encoding: chunked', '1\r\n \r\n'],
  ])(
    'a client that goes on slowly gets no second answer and loses its connection: %s',
    { timeout: 2 * PATIENCE },
    async (_, line, framing, trickle) => {
      // Shorter than the client may go on: the time for its body ends meanwhile.
      const brief = await startServiceForTest({ env: { REQUEST_TIMEOUT_MS: '1000' } });
      const socket = await open(await listen(brief));
      let text = '';
      socket.on('data', (bytes: Buffer) => (text += bytes.toString()));
      socket.write(`${line} HTTP/1.1\r\n${TYPE}${framing}\r\n\r\n`);
      const timer = setInterval(() => socket.writable && socket.write(trickle), 100);
      try {
        await closeOf(socket);
      } finally {
        clearInterval(timer);
      }
      expect(text.match(/HTTP\/1\.1 \d{3}/g)).toHaveLength(1);
    },
  );

  it('a client that goes on fast loses its connection', { timeout: 2 * PATIENCE }, async () => {
    const block = Buffer.concat(Array.from({ length: 16 }, () => chunk));
    for (const line of ['POST /auth/login', 'POST /products']) {
      const socket = await open();
      socket.resume();
      const closed = closeOf(socket);
      socket.write(`${line} HTTP/1.1\r\n${TYPE}transfer-encoding: chunked\r\n\r\n`);
      const sent = (async () => {
        for (let bytes = 0; bytes < 100 * LINGER_BYTES; bytes += block.length) await write(socket, block);
        return 'everything';
      })();
      await expect(sent).rejects.toThrow(/ECONNRESET|EPIPE|ECANCELED|destroyed/);
      await closed;
    }
    expect((await exchange(port, 'GET', '/health/live')).status).toBe(200);
  });
});

it('a client that asks before it sends a body that is too long gets 413 instead of 100', async () => {
  const ask = async (length: number): Promise<string> => {
    const socket = await open();
    const head = `POST /auth/login HTTP/1.1\r\n${TYPE}expect: 100-continue\r\ncontent-length: ${length}\r\n\r\n`;
    await write(socket, head);
    const [first] = (await once(socket, 'data')) as [Buffer];
    return first.toString();
  };
  expectProblem(parseAnswer(await ask(LENGTH)), 413, 'body-too-large');
  expect(await ask(2)).toBe('HTTP/1.1 100 Continue\r\n\r\n');
});
