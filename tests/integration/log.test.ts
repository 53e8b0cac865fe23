// What the log contains about each request, and what it never contains.
import { sql } from 'kysely';
import { once } from 'node:events';
import fastify from 'fastify';
import { request as httpRequest, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { generateRequestId } from '../../src/http/request-ids.js';
import { requestLog } from '../../plugins/http/request-log.js';
import { createLevelSwitch } from '../../src/observability/level-signal.js';
import { faultsOf } from '../../src/observability/log-fields.js';
import { createLogger } from '../../src/observability/logger.js';
import {
  ADMIN,
  asSuperuser,
  connectAs,
  OPERATOR,
  startService,
  startServiceForTest,
  tokenSecretsOf,
  type Answer,
  type Send,
  type TestService,
  type TestTenant,
} from '../support/app.js';

interface Line extends Record<string, unknown> {
  level: string;
  reqId?: string;
  msg: string;
  err?: { type: string; code?: string; stack?: string; message?: string };
}

/** Deadline (ms) for what happens a moment later: long, because a machine can be busy. */
const PATIENCE = 10_000;

/** Everything written so far. */
const written: string[] = [];
const logStream = {
  write(text: string): void {
    written.push(text);
  },
};

let service: TestService;
let send: Send;
let tenant: TestTenant;
beforeAll(async () => {
  service = await startService({ env: { LOG_LEVEL: 'info' }, overrides: { logStream } });
  send = service.send;
  tenant = await service.createTenant('acme');
});
afterAll(() => service.close());

function lines(): Line[] {
  return written
    .join('')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Line);
}

/** The lines of one request, without its security events, once there is one. */
async function linesOf(answer: { headers: Answer['headers'] }): Promise<Line[]> {
  return vi.waitFor(() => {
    const own = lines().filter(({ reqId, security }) => reqId === answer.headers['x-request-id'] && !security);
    expect(own).not.toEqual([]);
    return own;
  }, PATIENCE);
}

async function databaseOf(tenantId: string): Promise<string> {
  const record = await service.app.engine.tenantDirectory.find(tenantId);
  if (!record) throw new Error('the tenant is gone');
  return record.dbName;
}

describe('a request', () => {
  it('of a tenant’s user has exactly one line, with the user, the route and the status', async () => {
    const { body: product } = await send('POST', '/products', {
      token: tenant.adminToken,
      body: { name: 'Lamp', price: '1' },
    });
    const answer = await send('GET', `/products/${String(product['id'])}`, {
      token: tenant.adminToken,
      headers: { 'x-request-id': 'my-own-request-1' },
    });
    expect(answer.status).toBe(200);
    expect(await linesOf(answer)).toEqual([
      {
        level: 'info',
        time: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/) as string,
        reqId: 'my-own-request-1',
        method: 'GET',
        route: '/products/:id',
        address: '127.0.0.1',
        tenantId: tenant.id,
        userId: tenant.adminId,
        status: 200,
        duration: expect.any(Number) as number,
        msg: 'request',
      },
    ]);
  });

  it('of an operator names the operator and no tenant', async () => {
    const me = await send<{ operator: { id: string } }>('GET', '/auth/me', { token: service.operatorToken });
    const [line] = await linesOf(me);
    expect(line).toMatchObject({ route: '/auth/me', operatorId: me.body.operator.id });
    expect(line).not.toHaveProperty('tenantId');
    expect(line).not.toHaveProperty('userId');
  });

  it('has one line however it ends', async () => {
    const { adminToken: token } = tenant;
    const json = { 'content-type': 'application/json' };
    const answers: [Answer, string | null][] = [
      [await send('GET', '/health/live'), '/health/live'],
      [await send('GET', '/nothing?password=hunter2'), null],
      [await send('GET', '/%ff'), null],
      [await send('GET', '/users'), '/users'],
      [await send('GET', '/users', { token: 'garbage' }), '/users'],
      [await send('GET', '/users', { token: service.operatorToken }), '/users'],
      [await send('GET', '/products?limit=0', { token }), '/products'],
      [await send('POST', '/products', { token, body: '{', headers: json }), '/products'],
      [await send('POST', '/products', { token, body: 'x'.repeat(70_000), headers: json }), '/products'],
      [await send('POST', '/products', { token, body: 'x', headers: { 'content-type': 'text/plain' } }), '/products'],
      [await send('DELETE', '/products/01900000-0000-7000-8000-00000000ffff', { token }), '/products/:id'],
    ];
    for (const [answer, route] of answers) {
      const own = await linesOf(answer);
      expect(own).toHaveLength(1);
      expect(own[0]).toMatchObject({
        level: 'info',
        status: answer.status,
        method: expect.stringMatching(/^[A-Z]+$/) as string,
        route: route ?? (expect.any(String) as string),
        duration: expect.any(Number) as number,
      });
      expect(own[0]?.['code']).toBe((answer.body as { code?: string } | undefined)?.code);
    }
    expect(written.join('')).not.toContain('hunter2');
  });

  it('that is rate-limited has one line', async () => {
    const limited = await startServiceForTest({
      env: { LOG_LEVEL: 'info', RATE_LIMIT_MAX: '1' },
      overrides: { logStream },
    });
    await limited.send('GET', '/users');
    const answer = await limited.send('GET', '/users');
    const own = await linesOf(answer);
    expect(own).toHaveLength(1);
    expect(own[0]).toMatchObject({ status: 429, route: '/users' });
  });

  it.each(['GET', 'PATCH'])('by %s has one line that says so if its client left', async (method) => {
    const { port } = await listening();
    const { body: product } = await send('POST', '/products', {
      token: tenant.adminToken,
      body: { name: 'Locked', price: '1' },
    });
    const id = String(product['id']);
    const database = await databaseOf(tenant.id);
    const reqId = `went-away-${method}`;
    const holder = connectAs<unknown>(database);
    await holder.db.transaction().execute(async (trx) => {
      await sql`lock table products in access exclusive mode`.execute(trx);
      const request = httpRequest({
        port,
        host: '127.0.0.1',
        method,
        path: `/products/${id}`,
        agent: false,
        headers: {
          authorization: `Bearer ${tenant.adminToken}`,
          'x-request-id': reqId,
          ...(method === 'PATCH' && { 'content-type': 'application/json' }),
        },
      });
      request.on('error', () => undefined);
      request.end(method === 'PATCH' ? '{"name":"Never told"}' : undefined);
      await waitForLock(database);
      request.destroy();
      // The service notices before the work continues and ends.
      await linesOf({ headers: { 'x-request-id': reqId } });
    });
    await holder.close(0);
    // The work ends after its client has left: this must not write a second line.
    await vi.waitFor(async () => {
      const read = await send('GET', `/products/${id}`, { token: tenant.adminToken });
      expect(read.body['name']).toBe(method === 'PATCH' ? 'Never told' : 'Locked');
    }, PATIENCE);
    const own = await linesOf({ headers: { 'x-request-id': reqId } });
    expect(own).toHaveLength(1);
    expect(own[0]).toMatchObject({
      method,
      route: '/products/:id',
      tenantId: tenant.id,
      userId: tenant.adminId,
      duration: expect.any(Number) as number,
      msg: 'request aborted by the client',
    });
  });

  it('has one line if its client left in the middle of the body', async () => {
    const { port } = await listening();
    const request = httpRequest({
      port,
      host: '127.0.0.1',
      method: 'POST',
      path: '/products',
      agent: false,
      headers: {
        authorization: `Bearer ${tenant.adminToken}`,
        'content-type': 'application/json',
        'content-length': '1000',
        'x-request-id': 'half-a-body',
      },
    });
    request.on('error', () => undefined);
    const arrived = once(service.app.server, 'request');
    request.write('{"name":');
    await arrived;
    request.destroy();
    const own = await linesOf({ headers: { 'x-request-id': 'half-a-body' } });
    expect(own).toHaveLength(1);
    expect(own[0]).toMatchObject({ method: 'POST', route: '/products', msg: 'request aborted by the client' });
  });
});

it('a client that leaves while the rate limit waits for Redis has one line in the log', async () => {
  const texts: string[] = [];
  const app = fastify({ logger: { stream: { write: (text) => void texts.push(text) } } });
  let left = (): void => undefined;
  const gone = new Promise<void>((resolve) => (left = resolve));
  app.addHook('onRequest', () => gone);
  await app.register(requestLog);
  let served = false;
  app.get('/', async () => (served = true));
  await app.listen({ host: '127.0.0.1', port: 0 });
  const arrived = once(app.server, 'request') as Promise<[unknown, ServerResponse]>;
  const request = httpRequest({ host: '127.0.0.1', port: (app.server.address() as AddressInfo).port, agent: false });
  request.on('error', () => undefined);
  request.end();
  const [, response] = await arrived;
  request.destroy();
  await once(response, 'close');
  left();
  await vi.waitFor(() => {
    expect(served).toBe(true);
  });
  await app.close();
  expect(texts.filter((text) => text.includes('request aborted by the client'))).toHaveLength(1);
});

describe('the trace of a request', () => {
  const TRACE = '0af7651916cd43dd8448eb211c80319c';
  const traceparent = `00-${TRACE}-b7ad6b7169203331-01`;

  it('is in its line', async () => {
    const answer = await send('GET', '/products', { token: tenant.adminToken, headers: { traceparent } });
    expect(await linesOf(answer)).toMatchObject([{ traceId: TRACE, status: 200, msg: 'request' }]);
  });

  it.each([
    ['that a route refuses', '/products?limit=0', 400],
    ['without a token', '/users', 401],
    ['to an unknown address', '/nothing', 404],
    ['to an address that does not decode', '/%ff', 400],
  ])('is in the line and in the problem document of a request %s', async (_what, url, status) => {
    const token = status === 401 ? undefined : tenant.adminToken;
    const answer = await send('GET', url, { token, headers: { traceparent } });
    expect(answer).toMatchObject({ status, body: { traceId: TRACE } });
    expect(await linesOf(answer)).toMatchObject([{ traceId: TRACE, status }]);
  });

  it('is in the lines of a request that is limited', async () => {
    const limited = await startServiceForTest({
      env: { LOG_LEVEL: 'info', RATE_LIMIT_MAX: '1' },
      overrides: { logStream },
    });
    await limited.send('GET', '/users');
    const answer = await limited.send('GET', '/users', { headers: { traceparent } });
    expect(answer).toMatchObject({ status: 429, body: { traceId: TRACE } });
    expect(await linesOf(answer)).toMatchObject([{ traceId: TRACE, status: 429 }]);
    expect(lines().filter(({ reqId, event }) => reqId === answer.headers['x-request-id'] && event)).toMatchObject([
      { event: 'rate-limited', traceId: TRACE },
    ]);
  });

  it('is in every other line of the request, and in no line of another', async () => {
    const texts: string[] = [];
    const log = createLogger({ level: 'info', pretty: false }, { write: (text) => void texts.push(text) });
    const app = fastify({ loggerInstance: log, genReqId: generateRequestId });
    await app.register(requestLog);
    app.get('/', async (request, reply) => {
      request.log.info('from the request');
      reply.log.info('from the reply');
      return '';
    });
    await app.inject({ url: '/', headers: { traceparent, 'x-request-id': 'traced' } });
    await app.inject({ url: '/', headers: { 'x-request-id': 'plain' } });
    await app.close();
    const own = texts.map((text) => JSON.parse(text) as Line).filter(({ msg }) => msg.startsWith('from the'));
    expect(own).toMatchObject([
      { reqId: 'traced', traceId: TRACE, msg: 'from the request' },
      { reqId: 'traced', traceId: TRACE, msg: 'from the reply' },
      { reqId: 'plain' },
      { reqId: 'plain' },
    ]);
    expect(own.filter(({ traceId }) => traceId !== undefined)).toHaveLength(2);
  });

  it.each([['malformed'], [`00-${'0'.repeat(32)}-b7ad6b7169203331-01`], [`${traceparent}, ${traceparent}`]])(
    'is nowhere if the header is %s',
    async (header) => {
      const answer = await send('GET', '/nothing', { headers: { traceparent: header } });
      expect(answer.body).not.toHaveProperty('traceId');
      const [line] = await linesOf(answer);
      expect(line).not.toHaveProperty('traceId');
    },
  );
});

describe('a request that fails in the service', () => {
  it('has one line with the error and none of its texts, and an answer without details', async () => {
    const broken = await service.createTenant('broken');
    await asSuperuser(await databaseOf(broken.id), (db) =>
      sql`alter table user_roles rename to user_roles_lost`.execute(db),
    );
    const secret = 'a-password-of-a-new-user';
    const answer = await send('POST', '/users', {
      token: broken.adminToken,
      body: { email: 'new@example.com', password: secret, firstName: 'N', lastName: 'U' },
    });
    expect([answer.status, answer.body['code']]).toEqual([500, 'internal-error']);
    expect(answer.body).not.toHaveProperty('detail');
    expect(answer.text).not.toMatch(/relation|user_roles|42P01/);

    const own = await linesOf(answer);
    expect(own).toHaveLength(1);
    expect(own[0]).toMatchObject({
      level: 'error',
      status: 500,
      err: { code: '42P01', stack: expect.stringContaining('at ') as string },
    });
    expect(own[0]?.err).not.toHaveProperty('message');
    expect(JSON.stringify(own)).not.toContain(secret);
    expect(JSON.stringify(own)).not.toMatch(/relation|insert into|new@example\.com/);
  });

  it('is logged as a warning if the failure was intended', async () => {
    const failing = await startServiceForTest({
      env: { LOG_LEVEL: 'info' },
      overrides: {
        logStream,
        afterOperationStep: (_kind, step) => {
          if (step === 'role') throw new Error('broken on purpose');
        },
      },
    });
    const answer = await failing.send('POST', '/tenants', {
      token: failing.operatorToken,
      body: { name: 'Failing', admin: ADMIN },
    });
    expect(answer.status).toBe(503);
    const own = await linesOf(answer);
    expect(own.filter(({ msg }) => msg === 'request')).toHaveLength(1);
    expect(own.find(({ msg }) => msg === 'request')).toMatchObject({ level: 'warn', status: 503, err: {} });
    expect(lines().find(({ msg }) => msg === 'an operation failed, and is undone')).toMatchObject({
      level: 'error',
      step: 'role',
      tenantId: expect.any(String) as string,
    });
  });
});

describe('the log of a whole session', () => {
  it('contains no password, no hash and no token', async () => {
    const secrets = {
      wrong: 'a-wrong-password-typed-in',
      user: 'a-password-of-another-user',
      changed: 'a-password-after-the-change',
      typo: 'this-is-not-the-tenant-but-a-password',
    };
    const signIn = (body: object): Promise<Answer<{ accessToken: string }>> => send('POST', '/auth/login', { body });
    await send('POST', '/auth/operator/login', { body: OPERATOR });
    await send('POST', '/auth/operator/login', { body: { ...OPERATOR, password: secrets.wrong } });
    await signIn({ tenant: 'acme', email: ADMIN.email, password: secrets.wrong });
    await signIn({ tenant: secrets.typo, email: ADMIN.email, password: secrets.wrong });
    await signIn({ tenant: 'acme', email: ADMIN.email, password: secrets.wrong, passwordAgain: secrets.wrong });
    const created = await send('POST', '/users', {
      token: tenant.adminToken,
      body: { email: 'session@example.com', password: secrets.user, firstName: 'S', lastName: 'E' },
    });
    expect(created.status).toBe(201);
    const signedIn = await signIn({ tenant: 'acme', email: 'session@example.com', password: secrets.user });
    const token = signedIn.body.accessToken;
    const own = `/users/${String(created.body['id'])}`;
    await send('PATCH', own, { token, body: { password: secrets.changed, currentPassword: secrets.wrong } });
    const changed = await send('PATCH', own, {
      token,
      body: { password: secrets.changed, currentPassword: secrets.user },
    });
    expect(changed.status).toBe(200);
    await send('GET', `/users?search=${token}`, { token });
    await send('GET', `/auth/me/${token}`, { token });
    const last = await send('GET', '/auth/me', { token: `${token}x` });
    await linesOf(last);

    const log = written.join('');
    const rows = await service.app.engine.registry.selectFrom('tenants').select('db_password').execute();
    for (const secret of [
      ...Object.values(secrets),
      ADMIN.password,
      OPERATOR.password,
      token,
      tenant.adminToken,
      service.operatorToken,
      ...Object.values(tokenSecretsOf(service.config)),
      service.config.registry.connection.password,
      service.config.tenants.provisioner.password,
      ...rows.map(({ db_password }) => db_password),
    ]) {
      expect(log).not.toContain(secret);
    }
    // No part of a token either: the claims and the signature are searched for separately.
    for (const part of token.split('.').slice(1)) expect(log).not.toContain(part);
    expect(log).not.toMatch(/bearer|argon2|SCRAM-SHA-256|authorization/i);
  });

  it('is JSON, line by line', () => {
    for (const line of lines()) {
      expect(line).toMatchObject({ level: expect.any(String) as string, time: expect.any(String) as string });
    }
  });
});

describe('the log of a busy service', () => {
  it('has no field that is not in the schema, and no value of another type', async () => {
    let failing = false;
    const busy = await startServiceForTest({
      env: { LOG_LEVEL: 'trace', SIGN_IN_FAILURES_ACCOUNT: '2' },
      overrides: {
        logStream,
        afterOperationStep: (_kind, step) => {
          if (step === 'fill' && failing) throw new Error('broken on purpose');
        },
      },
    });
    const mine = (): Line[] => lines().slice(before);
    const before = lines().length;
    const level = createLevelSwitch(busy.app.engine.log);
    level();
    const one = await busy.createTenant('busy-one');
    const two = await busy.createTenant('busy-two');
    failing = true;
    const body = { name: 'Never', slug: 'never', admin: ADMIN };
    expect((await busy.send('POST', '/tenants', { token: busy.operatorToken, body })).status).toBe(503);
    failing = false;
    for (const password of ['wrong-1', 'wrong-2', 'wrong-3', ADMIN.password])
      await busy.send('POST', '/auth/login', { body: { tenant: 'busy-one', email: ADMIN.email, password } });
    await busy.send('POST', '/auth/operator/login', { body: OPERATOR });
    await busy.createUser(one, 'member@example.com');
    await busy.send('POST', `/tenants/${one.id}/suspend`, { token: busy.operatorToken });
    await busy.send('GET', '/users', { token: one.adminToken });
    await busy.send('POST', `/tenants/${one.id}/resume`, { token: busy.operatorToken });

    // The database of a tenant is gone while it is in use.
    const database = (await busy.app.engine.tenantDirectory.find(two.id))?.dbName ?? '';
    await asSuperuser('postgres', async (db) => {
      await sql`alter database ${sql.id(database)} with allow_connections false`.execute(db);
      await sql`select pg_terminate_backend(pid) from pg_stat_activity where datname = ${database}`.execute(db);
    });
    await vi.waitFor(async () => {
      await Promise.all(Array.from({ length: 10 }, () => busy.send('GET', '/products', { token: two.adminToken })));
      expect(mine().map(({ msg }) => msg)).toContain('a breaker is open');
    }, PATIENCE);

    const messages = new Set(mine().map(({ msg }) => msg));
    for (const message of [
      'request',
      'refused a request',
      'heard of a change',
      'an operation failed, and is undone',
      'a sign-in failed',
      'an operator signed in',
      'a request of a suspended tenant was refused',
    ])
      expect(messages).toContain(message);
    expect(new Set(mine().map((line) => line.level))).toEqual(new Set(['debug', 'info', 'warn', 'error']));
    const { body: metrics } = await busy.app.engine.metrics.expose();
    expect(metrics).toMatch(/^tenantry_log_lines_total\{level="debug"\} [1-9]/m);
    // Of this service, and of all others before it.
    expect(lines().flatMap((line) => faultsOf(line).map((fault) => `${line.msg}: ${fault}`))).toEqual([]);
    for (const { reqId, status } of mine().filter(({ msg }) => msg === 'request'))
      expect([status, mine().filter((line) => line.reqId === reqId && line.msg === 'request').length]).toEqual([
        status,
        1,
      ]);
  });
});

async function listening(): Promise<AddressInfo> {
  const { app } = service;
  if (!app.server.listening) await app.listen({ port: 0, host: '127.0.0.1' });
  return app.server.address() as AddressInfo;
}

/** Waits until a session waits for a lock in the database. */
async function waitForLock(database: string): Promise<void> {
  await asSuperuser('postgres', (db) =>
    vi.waitFor(async () => {
      const { rows } = await sql`
          select 1 from pg_stat_activity where datname = ${database} and wait_event_type = 'Lock'`.execute(db);
      expect(rows).toHaveLength(1);
    }, PATIENCE),
  );
}
