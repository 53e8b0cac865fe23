// Sends requests as a client on the network does, down to the bytes, and checks the form of every problem document.
import { once } from 'node:events';
import { request as httpRequest, type IncomingMessage, type OutgoingHttpHeaders } from 'node:http';
import { connect, type AddressInfo } from 'node:net';
import { expect } from 'vitest';
import type { TestService } from './app.js';

export interface Received {
  readonly status: number;
  readonly headers: OutgoingHttpHeaders;
  readonly text: string;
}

/** Makes a service listen on a free port of this machine. Returns the port. */
export async function listen({ app }: TestService): Promise<number> {
  await app.listen({ port: 0, host: '127.0.0.1' });
  return (app.server.address() as AddressInfo).port;
}

/**
 * Sends a request as a client on the network does.
 *
 * @param options.from the client's own address: all of 127.0.0.0/8 is this machine
 */
export async function exchange(
  port: number,
  method: string,
  path: string,
  options: { headers?: Record<string, string | string[]>; body?: string | Buffer; from?: string } = {},
): Promise<Received & { readonly bytes: Buffer }> {
  const { headers = {}, body = '', from } = options;
  const localAddress = from === undefined ? {} : { localAddress: from };
  const request = httpRequest({ port, host: '127.0.0.1', method, path, headers, agent: false, ...localAddress });
  request.end(body);
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  const bytes = Buffer.concat(chunks);
  return { status: response.statusCode ?? 0, headers: response.headers, text: bytes.toString(), bytes };
}

/** Writes bytes and reads until the server closes. */
export async function sendBytes(port: number, bytes: string): Promise<string> {
  const socket = connect(port, '127.0.0.1');
  await once(socket, 'connect');
  socket.write(bytes, 'latin1');
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}

/** Parses the answer in those bytes. */
export function parseAnswer(raw: string): Received {
  const [head = '', text = ''] = raw.split('\r\n\r\n');
  const [statusLine = '', ...lines] = head.split('\r\n');
  const headers = lines.map((line) => {
    const colon = line.indexOf(':');
    return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()] as const;
  });
  return { status: Number(statusLine.split(' ')[1]), headers: Object.fromEntries(headers), text };
}

/** Expects a problem document of that status and code that reveals no internals. */
export function expectProblem(
  answer: Pick<Received, 'status' | 'headers' | 'text'>,
  status: number,
  code: string,
): void {
  const body = JSON.parse(answer.text) as Record<string, unknown>;
  expect([answer.status, body['code']]).toEqual([status, code]);
  expect(answer.headers['content-type']).toBe('application/problem+json; charset=utf-8');
  expect(body).toMatchObject({
    type: `urn:tenantry:error:${code}`,
    title: expect.stringMatching(/./) as string,
    status,
    requestId: answer.headers['x-request-id'],
  });
  const known = ['type', 'title', 'status', 'detail', 'code', 'requestId', 'errors'];
  expect(Object.keys(body).filter((key) => !known.includes(key))).toEqual([]);
  expect(answer.text).not.toMatch(/FST_|node_modules|\bat \S+:\d+|SyntaxError|select |insert /i);
}
