// Writes with an Idempotency-Key while connections break and clients leave.
import { sql } from 'kysely';
import { randomUUID } from 'node:crypto';
import { request as httpRequest } from 'node:http';
import { afterAll, afterEach, beforeAll, expect, inject, it } from 'vitest';
import {
  asSuperuser,
  connectAs,
  startServiceIn,
  type Send,
  type TestService,
  type TestTenant,
} from '../support/app.js';
import { untilWaitedFor } from '../support/held-tables.js';
import { patiently } from '../support/lost-answers.js';
import { startStatementProxy, type StatementProxy, type Verdict } from '../support/statement-proxy.js';
import { rowOf } from '../support/tenants.js';

let proxy: StatementProxy;
let service: TestService;
let send: Send;
let tenant: TestTenant;
let token: string;
let database: string;

beforeAll(async () => {
  const cluster = inject('cluster');
  proxy = await startStatementProxy(cluster.provisioner);
  const { host, port } = proxy;
  service = await startServiceIn({ ...cluster, provisioner: { ...cluster.provisioner, host, port } });
  ({ send } = service);
  tenant = await service.createTenant();
  token = tenant.adminToken;
  database = (await rowOf(service, tenant)).dbName;
});
afterEach(() => {
  proxy.onStatement = () => 'pass';
});
afterAll(async () => {
  await service.close();
  await proxy.close();
});

async function rowsOf(sku: string): Promise<number> {
  const { rows } = await asSuperuser(database, (db) => sql`select from products where sku = ${sku}`.execute(db));
  return rows.length;
}

it('a write whose answer is lost at any statement happens once, when the client repeats it', async () => {
  const ofTenant = (application: string): boolean => !application.includes('provisioner');
  for (let at = 1; ; at += 1) {
    let lost = '';
    const body = { name: 'Lamp', price: '1.00', sku: randomUUID() };
    const post = () => send('POST', '/products', { token, body, headers: { 'idempotency-key': body.sku } });
    let seen = 0;
    proxy.onStatement = ({ sql: text, application }) => {
      if (!ofTenant(application)) return 'pass';
      seen += 1;
      if (seen !== at) return 'pass';
      lost = text;
      return 'lose';
    };
    const first = await post();
    proxy.onStatement = () => 'pass';
    if (lost === '') {
      expect(first.status).toBe(201);
      expect(at).toBeGreaterThan(6);
      break;
    }
    expect([201, 503], `${lost}: ${first.text}`).toContain(first.status);
    const again = await patiently(post);
    expect(again.status, `${lost}: ${again.text}`).toBe(201);
    expect(await rowsOf(body.sku), lost).toBe(1);
    // The write was committed, so the repetition gets its stored answer.
    if (lost.includes('commit')) expect(again.headers['idempotent-replayed']).toBe('true');
  }
});

it('a repetition that began before the first answer was committed gets that answer', async () => {
  const email = `${randomUUID()}@example.com`;
  const body = { email, password: 'user-password-123', firstName: 'Uma', lastName: 'User', roles: ['member'] };
  const post = () => send('POST', '/users', { token, body, headers: { 'idempotency-key': email } });
  let begins = 0;
  let release: () => void = () => undefined;
  const released = new Promise<void>((resolve) => (release = resolve));
  proxy.onStatement = async ({ sql: text }): Promise<Verdict> => {
    if (text === 'begin' && (begins += 1) === 1) await released;
    return 'pass';
  };
  const late = post();
  await expect.poll(() => begins).toBe(1);
  const first = await post();
  release();
  const second = await late;
  expect([first.status, second.status], second.text).toEqual([201, 201]);
  expect(first.headers['idempotent-replayed']).toBeUndefined();
  expect(second.headers['idempotent-replayed']).toBe('true');
  expect(second.text).toBe(first.text);
});

it('a client that leaves keeps no connection and no key', async () => {
  const address = await service.app.listen({ port: 0, host: '127.0.0.1' });
  const body = { name: 'Lamp', price: '1.00', sku: randomUUID() };
  const holder = connectAs<unknown>(database);
  await holder.db.transaction().execute(async (trx) => {
    await sql`lock table products in access exclusive mode`.execute(trx);
    const request = httpRequest(`${address}/products`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${token}`,
        'content-type': 'application/json',
        'idempotency-key': body.sku,
      },
    });
    request.on('error', () => undefined);
    request.end(JSON.stringify(body));
    await untilWaitedFor(holder.db, 'products');
    request.destroy();
  });
  await holder.close(0);
  await expect
    .poll(() => {
      const stats = service.app.engine.tenantPools.inspect(tenant.id);
      return stats && stats.total - stats.idle;
    })
    .toBe(0);
  const again = await send('POST', '/products', { token, body, headers: { 'idempotency-key': body.sku } });
  expect(again.status, again.text).toBe(201);
  expect(await rowsOf(body.sku)).toBe(1);
});
