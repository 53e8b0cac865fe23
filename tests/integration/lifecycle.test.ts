// Stopping the service: running requests are finished and answered, and no connection stays open.
import { sql } from 'kysely';
import { once } from 'node:events';
import { Agent, request as httpRequest, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { describe, expect, it, vi } from 'vitest';
import { asSuperuser, connectAs, createRegistry, startService, type TestService } from '../support/app.js';

/** Deadline (ms) for what happens a moment later: long, because a machine can be busy. */
const PATIENCE = 10_000;

/** Connections of this service, as PostgreSQL sees them: those to its registry and those of its tenants. */
async function connectionsOf(database: string, roles: readonly string[]): Promise<number> {
  return asSuperuser('postgres', async (db) => {
    const { rows } = await sql<{ count: number }>`
      select count(*)::int as count from pg_stat_activity
      where datname = ${database} or usename = any(${[...roles]})`.execute(db);
    return rows[0]?.count ?? -1;
  });
}

async function tenantRoles({ app }: TestService): Promise<string[]> {
  const rows = await app.engine.registry.selectFrom('tenants').select('db_user').execute();
  return rows.map(({ db_user }) => db_user);
}

/** Sockets that this process holds open, including those of the provisioner, which all services of a cluster share. */
function openSockets(): number {
  return process.getActiveResourcesInfo().filter((name) => name === 'TCPSocketWrap').length;
}

async function listen({ app }: TestService): Promise<number> {
  await app.listen({ port: 0, host: '127.0.0.1' });
  return (app.server.address() as AddressInfo).port;
}

async function send(
  port: number,
  method: string,
  path: string,
  { token, body, agent = false }: { token?: string; body?: object; agent?: Agent | false } = {},
): Promise<{ status: number; body: Record<string, unknown> }> {
  const request = httpRequest({
    port,
    host: '127.0.0.1',
    method,
    path,
    agent,
    headers: {
      ...(token !== undefined && { authorization: `Bearer ${token}` }),
      ...(body && { 'content-type': 'application/json' }),
    },
  });
  request.end(body && JSON.stringify(body));
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  const text = Buffer.concat(chunks).toString();
  return { status: response.statusCode ?? 0, body: text === '' ? {} : (JSON.parse(text) as Record<string, unknown>) };
}

describe('closing the service', () => {
  it('closes every connection to every database', async () => {
    const before = openSockets();
    const service = await startService();
    const { database } = service.config.registry.connection;
    const tenants = await Promise.all([service.createTenant(), service.createTenant()]);
    await Promise.all(
      tenants.flatMap(({ adminToken: token }) =>
        Array.from({ length: 10 }, () => service.send('GET', '/products', { token })),
      ),
    );
    // A pool that is being replaced because of new settings is closed too.
    await service.send('PATCH', `/tenants/${tenants[0].id}`, {
      token: service.operatorToken,
      body: { poolOptions: { max: 3 } },
    });
    const roles = await tenantRoles(service);
    expect(roles).toHaveLength(2);
    expect(await connectionsOf(database, roles)).toBeGreaterThan(3);
    expect(openSockets()).toBeGreaterThan(before);

    await service.close();
    // The server ends a backend a moment after its client has left.
    await vi.waitFor(async () => {
      expect(await connectionsOf(database, roles)).toBe(0);
    }, PATIENCE);
    await vi.waitFor(() => {
      expect(openSockets()).toBeLessThanOrEqual(before);
    }, PATIENCE);
  });

  it('finishes the running requests with their real answers', async () => {
    let reached: () => void = () => undefined;
    const provisioning = new Promise<void>((resolve) => (reached = resolve));
    let goOn: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (goOn = resolve));
    let armed = false;
    const service = await startService({
      registry: await createRegistry(),
      overrides: {
        afterOperationStep: async (_kind, step) => {
          if (!armed || step !== 'role') return;
          reached();
          await gate;
        },
      },
    });
    const port = await listen(service);
    const tenant = await service.createTenant();
    armed = true;
    const product = await service.send('POST', '/products', {
      token: tenant.adminToken,
      body: { name: 'Before', price: '1' },
    });
    const id = String(product.body['id']);
    const [role = ''] = await tenantRoles(service);
    const { database } = service.config.registry.connection;

    const holder = connectAs<{ products: { id: string } }>(role);
    let closing: Promise<void> | undefined;
    let patched: ReturnType<typeof send> | undefined;
    const made = send(port, 'POST', '/tenants', {
      token: service.operatorToken,
      body: {
        name: 'Made while closing',
        slug: 'made-while-closing',
        admin: { email: 'a@example.com', password: 'admin-password-123', firstName: 'A', lastName: 'B' },
      },
    });
    await holder.db.transaction().execute(async (trx) => {
      await trx.selectFrom('products').select('id').where('id', '=', id).forUpdate().execute();
      patched = send(port, 'PATCH', `/products/${id}`, { token: tenant.adminToken, body: { name: 'After' } });
      await asSuperuser('postgres', (db) =>
        vi.waitFor(async () => {
          const { rows } = await sql`
              select 1 from pg_stat_activity where usename = ${role} and wait_event_type = 'Lock'`.execute(db);
          expect(rows).toHaveLength(1);
        }, PATIENCE),
      );
      await provisioning;
      closing = service.close();
      // From here on new requests are refused.
      await vi.waitFor(async () => {
        await expect(send(port, 'GET', '/health/live')).rejects.toThrow('ECONNREFUSED');
      }, PATIENCE);
    });
    await holder.close(0);
    goOn();

    expect(await patched).toMatchObject({ status: 200, body: { id, name: 'After' } });
    expect(await made).toMatchObject({ status: 201, body: { slug: 'made-while-closing', status: 'active' } });
    await closing;
    await vi.waitFor(async () => {
      expect(await connectionsOf(database, [role])).toBe(0);
    }, PATIENCE);

    // Both are stored: the next process has them.
    const next = await startService({ registry: database });
    const read = await next.send('GET', `/products/${id}`, { token: tenant.adminToken });
    expect(read.body).toMatchObject({ id, name: 'After' });
    const signedIn = await next.send('POST', '/auth/login', {
      body: { tenant: 'made-while-closing', email: 'a@example.com', password: 'admin-password-123' },
    });
    expect(signedIn.status).toBe(200);
    await next.close();
  });

  it('finishes a burst of sign-ins', async () => {
    const service = await startService();
    const port = await listen(service);
    const tenant = await service.createTenant();
    const body = { tenant: tenant.slug, email: 'admin@example.com', password: 'admin-password-123' };
    let arrived = 0;
    service.app.server.on('request', () => (arrived += 1));
    const burst = Array.from({ length: 12 }, () => send(port, 'POST', '/auth/login', { body }));
    await vi.waitFor(() => {
      expect(arrived).toBe(12);
    }, PATIENCE);
    const closing = service.close();
    expect((await Promise.all(burst)).map(({ status }) => status)).toEqual(burst.map(() => 200));
    await closing;
  });

  it('is not delayed by a client that keeps its connection open', async () => {
    const service = await startService();
    const port = await listen(service);
    const agent = new Agent({ keepAlive: true });
    expect((await send(port, 'GET', '/health/live', { agent })).status).toBe(200);
    await service.close();
    agent.destroy();
  });

  it('can be requested twice', async () => {
    const service = await startService();
    await Promise.all([service.close(), service.close()]);
    await service.close();
  });
});
