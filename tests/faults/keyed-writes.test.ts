// Writes with an Idempotency-Key while connections break and clients leave.
import { sql } from 'kysely';
import { randomUUID } from 'node:crypto';
import { request as httpRequest } from 'node:http';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { insertOperator, findOperatorByEmail } from '../../db/registry/operator-queries.js';
import {
  ADMIN,
  asSuperuser,
  beginSession,
  connectAs,
  createRegistry,
  openApp,
  sender,
  testConfig,
  type Send,
} from '../support/app.js';
import { findCredentials } from '../../db/tenant/user-queries.js';
import { findTenant } from '../../db/registry/tenant-queries.js';
import { startStatementProxy, type StatementProxy, type Verdict } from '../support/statement-proxy.js';
import type { FastifyInstance } from 'fastify';

let proxy: StatementProxy;
let app: FastifyInstance;
let send: Send;
let token: string;
let tenantId: string;
let database: string;

beforeAll(async () => {
  const config = testConfig(await createRegistry(), { STANDBY_DATABASES: '0' });
  const direct = config.tenants.provisioner;
  proxy = await startStatementProxy(direct);
  const provisioner = { ...direct, host: proxy.host, port: proxy.port };
  app = await openApp({ ...config, tenants: { ...config.tenants, provisioner } });
  send = sender(app);
  await insertOperator(app.engine.registry, { email: 'operator@example.com', passwordHash: 'not used' });
  const operator = await findOperatorByEmail(app.engine.registry, 'operator@example.com');
  const operatorToken = await beginSession(app, { kind: 'operator', operatorId: operator?.id ?? '' });
  const made = await send<{ id: string }>('POST', '/tenants', {
    token: operatorToken,
    body: { name: 'Keyed', slug: 'keyed', admin: ADMIN },
  });
  tenantId = made.body.id;
  const admin = await findCredentials(app.engine.tenantPools.database(tenantId), { email: ADMIN.email });
  token = await beginSession(app, { kind: 'user', tenantId, userId: admin?.id ?? '' });
  database = (await findTenant(app.engine.registry, tenantId))?.dbName ?? '';
});
afterEach(() => {
  proxy.onStatement = () => 'pass';
});
afterAll(async () => {
  await app.close();
  await proxy.close();
});

async function rowsOf(sku: string): Promise<number> {
  const { rows } = await asSuperuser(database, (db) => sql`select from products where sku = ${sku}`.execute(db));
  return rows.length;
}

it('a write whose answer is lost at any statement happens once, when the client repeats it', async () => {
  const ofTenant = (application: string): boolean => !application.includes('provisioner');
  let at = 0;
  for (let lost = 'none yet'; lost !== '';) {
    at += 1;
    const body = { name: 'Lamp', price: '1.00', sku: randomUUID() };
    const post = () => send('POST', '/products', { token, body, headers: { 'idempotency-key': body.sku } });
    let seen = 0;
    lost = '';
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
      break;
    }
    expect([201, 503], `${lost}: ${first.text}`).toContain(first.status);
    let again = await post();
    for (let tries = 0; again.status !== 201 && tries < 40; tries += 1) {
      await new Promise((resolve) => setTimeout(resolve, 250));
      again = await post();
    }
    expect(again.status, `${lost}: ${again.text}`).toBe(201);
    expect(await rowsOf(body.sku), lost).toBe(1);
    // Only if the write was committed, the repeated answer says so.
    if (lost.includes('commit')) expect(again.headers['idempotent-replayed']).toBe('true');
  }
  expect(at).toBeGreaterThan(6);
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
  const address = await app.listen({ port: 0, host: '127.0.0.1' });
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
    await expect
      .poll(async () => {
        const { rows } = await asSuperuser(database, (db) =>
          sql`select from pg_locks where not granted and relation = 'products'::regclass`.execute(db),
        );
        return rows.length;
      })
      .toBe(1);
    request.destroy();
  });
  await holder.close(0);
  await expect
    .poll(() => {
      const stats = app.engine.tenantPools.inspect(tenantId);
      return stats && stats.total - stats.idle;
    })
    .toBe(0);
  const again = await send('POST', '/products', { token, body, headers: { 'idempotency-key': body.sku } });
  expect(again.status, again.text).toBe(201);
  expect(await rowsOf(body.sku)).toBe(1);
});
