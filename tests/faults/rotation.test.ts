// Changing a password while the tenant's server refuses or hangs: answered within a deadline, and finished when the server is
// back.
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant } from '../../db/registry/tenant-queries.js';
import type { DatabaseHandle } from '../../db/driver/client.js';
import { findOperatorByEmail, insertOperator } from '../../db/registry/operator-queries.js';
import { openApp } from '../support/service.js';
import { ADMIN, beginSession, connectAs, createRegistry, sender, testConfig, type Send } from '../support/app.js';
import { finishOperations } from '../support/operations.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import type { FastifyInstance } from 'fastify';

let proxy: Proxy;
let central: DatabaseHandle<Registry>;
let app: FastifyInstance;
let send: Send;
let operator: string;

beforeAll(async () => {
  const registry = await createRegistry();
  // The hanging server delays each of the steps by this time.
  const config = testConfig(registry, { POOL_ACQUIRE_TIMEOUT_MS: '2000' });
  proxy = await startProxy(config.tenants.provisioner);
  central = connectAs<Registry>(registry);
  const { host, port } = proxy;
  const tenants = { ...config.tenants, provisioner: { ...config.tenants.provisioner, host, port } };
  // The pauses of the runner grow to half a minute otherwise. The rotation is completed after one of them, however long it is.
  app = await openApp({ ...config, tenants }, { operationTimes: { longestPause: 2_000 } });
  send = sender(app);
  await insertOperator(app.engine.registry, { email: 'operator@example.com', passwordHash: 'not used' });
  const found = await findOperatorByEmail(app.engine.registry, 'operator@example.com');
  operator = await beginSession(app, { kind: 'operator', operatorId: found?.id ?? '' });
});
afterAll(async () => {
  proxy.mode = 'pass';
  await app.close();
  await Promise.all([central.close(0), proxy.close()]);
});

it.each(['refuse', 'hang'] as const)(
  'while the network to the server does %s, a rotation answers 503 with Retry-After, and is completed in the background',
  async (mode) => {
    const slug = `rotated-${mode}`;
    const made = await send<{ id: string }>('POST', '/tenants', {
      token: operator,
      body: { name: 'Rotated', slug, admin: ADMIN },
    });
    expect(made.status, made.text).toBe(201);
    const { id } = made.body;
    const signIn = async (): Promise<number> =>
      (await send('POST', '/auth/login', { body: { tenant: slug, email: ADMIN.email, password: ADMIN.password } }))
        .status;
    expect(await signIn()).toBe(200);
    const before = await findTenant(central.db, id);

    proxy.mode = mode;
    if (mode === 'refuse') proxy.cut();
    const failed = await send('POST', `/tenants/${id}/rotate-password`, { token: operator });
    expect(failed.body).toMatchObject({ status: 503, code: 'operation-unfinished' });
    expect(failed.headers['retry-after']).toMatch(/^[1-9]\d*$/);
    expect(failed.text).toContain('The new password is stored.');
    // The next attempt fails as well.
    await finishOperations(app.engine, 1);
    const pending = await findTenant(central.db, id);
    expect(pending).toMatchObject({ dbPassword: before?.dbPassword, nextDbPassword: expect.any(String) as unknown });

    proxy.mode = 'pass';
    proxy.cut();
    await expect
      .poll(() => findTenant(central.db, id), { timeout: 60_000 })
      .toMatchObject({ dbPassword: pending?.nextDbPassword, nextDbPassword: null });
    await app.engine.tenantPools.retire(id);
    await expect.poll(signIn, { timeout: 30_000 }).toBe(200);
  },
  90_000,
);
