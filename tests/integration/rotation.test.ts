// Changing the password of a tenant's role: the tenant's users notice nothing, whatever fails, and an unfinished change is
// completed.
import { sql } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Registry } from '../../db/registry/registry-schema.js';
import { insertOperation } from '../../db/registry/operations/operation-rows.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import type { DatabaseHandle } from '../../db/driver/client.js';
import { createEnvelope } from '../../src/secrets/envelope.js';
import { newDatabasePassword } from '../../src/tenants/tenant-ids.js';
import { createLockSession } from '../../db/registry/lock-session.js';
import { createTenantLocks } from '../../src/tenants/tenant-locks.js';
import {
  asSuperuser,
  connectAs,
  createRegistry,
  startService,
  startServiceForTest,
  type TestService,
  type TestTenant,
} from '../support/app.js';
import { finishOperations } from '../support/operations.js';
import { enter, passwordOf, rowOf } from '../support/tenants.js';

const steps = ['alter', 'promote'] as const;
type RotationStep = (typeof steps)[number];

let registry: string;
let central: DatabaseHandle<Registry>;
let one: TestService;
let other: TestService;
/** Called after each step of the first service. */
let afterStep: ((step: string) => void | Promise<void>) | undefined;

beforeAll(async () => {
  registry = await createRegistry();
  central = connectAs<Registry>(registry);
  one = await startService({
    registry,
    overrides: { afterOperationStep: (kind, step) => (kind === 'rotate' ? afterStep?.(step) : undefined) },
  });
  other = await startService({ registry });
});
afterAll(async () => {
  await Promise.all([one.close(), other.close()]);
  await central.close(0);
});

function rotate(tenant: { id: string }, service = one): ReturnType<TestService['send']> {
  return service.send('POST', `/tenants/${tenant.id}/rotate-password`, { token: service.operatorToken });
}

/** Rotates, and fails after a step. @returns the answer */
async function rotateAndFail(failing: RotationStep, tenant: { id: string }): ReturnType<typeof rotate> {
  afterStep = (step) => {
    if (step === failing) throw new Error('made to fail');
  };
  const answer = await rotate(tenant);
  afterStep = undefined;
  return answer;
}

/** Stores the next password and records its operation, as a process does that dies then. */
async function beginAndDie({ id }: { id: string }): Promise<void> {
  const { dbHost: host, dbPort: port, dbUser: user, clusterId } = await rowOf(one, { id });
  const next = createEnvelope(one.config.encryptionKeys).seal(newDatabasePassword(), { id, host, port, user });
  await central.db.updateTable('tenants').set({ next_db_password: next }).where('id', '=', id).execute();
  await insertOperation(central.db, { kind: 'rotate', subject: id, tenantId: id, clusterId, worker: 'gone' });
}

/** Whether the server accepts a password for the tenant's role. */
async function enters(row: TenantRecord, password: string): Promise<boolean> {
  const handle = enter({ row, password });
  try {
    await sql`select 1`.execute(handle.db);
    return true;
  } catch {
    return false;
  } finally {
    await handle.close(0);
  }
}

async function expectFinished(before: TenantRecord): Promise<void> {
  const after = await rowOf(one, before);
  expect(after.nextDbPassword).toBeNull();
  expect(passwordOf(one, after)).not.toBe(passwordOf(one, before));
  expect(await enters(after, passwordOf(one, after))).toBe(true);
  expect(await enters(after, passwordOf(one, before))).toBe(false);
}

async function auditOf({ id }: { id: string }): Promise<{ action: string; actor_kind: string }[]> {
  return central.db
    .selectFrom('audit')
    .select(['action', 'actor_kind'])
    .where('tenant_id', '=', id)
    .where('action', '=', 'tenant.password-rotated')
    .execute();
}

async function products(service: TestService, tenant: TestTenant): Promise<number> {
  return (await service.send('GET', '/products', { token: tenant.adminToken })).status;
}

/** Closes all connections, and keeps what this process has cached. */
async function forgetConnections(service: TestService, tenant: TestTenant): Promise<void> {
  await service.app.engine.tenantPools.retire(tenant.id);
}

describe('a rotation', () => {
  it('changes the password in the registry and on the server, and is audited', async () => {
    const tenant = await one.createTenant();
    const before = await rowOf(one, tenant);
    expect((await rotate(tenant)).status).toBe(204);
    await expectFinished(before);
    expect(await auditOf(tenant)).toEqual([{ action: 'tenant.password-rotated', actor_kind: 'operator' }]);
    for (const service of [one, other]) expect(await products(service, tenant)).toBe(200);
  });

  it('of an unknown tenant gets 404, and of a tenant that is being removed 409', async () => {
    expect((await rotate({ id: '01900000-0000-7000-8000-000000000001' })).status).toBe(404);
    const tenant = await one.createTenant();
    const removed = { status: 'deleting', on_purge: 'drop' } as const;
    await central.db.updateTable('tenants').set(removed).where('id', '=', tenant.id).execute();
    expect((await rotate(tenant)).body).toMatchObject({ status: 409, code: 'tenant-state' });
    expect((await rowOf(one, tenant)).nextDbPassword).toBeNull();
    expect(await auditOf(tenant)).toEqual([]);
  });

  it('of a suspended tenant succeeds, and the tenant is served when it is resumed', async () => {
    const tenant = await one.createTenant();
    const setActive = (active: boolean): ReturnType<TestService['send']> =>
      one.send('PATCH', `/tenants/${tenant.id}`, { token: one.operatorToken, body: { active } });
    await setActive(false);
    const before = await rowOf(one, tenant);
    expect((await rotate(tenant)).status).toBe(204);
    // A suspended tenant's database accepts no connection.
    await setActive(true);
    await expectFinished(before);
    expect(await products(one, tenant)).toBe(200);
  });

  it('is shared by simultaneous requests, on every replica', async () => {
    const tenant = await one.createTenant();
    const before = await rowOf(one, tenant);
    let elsewhere: ReturnType<TestService['send']> | undefined;
    afterStep = async (step) => {
      if (step !== 'alter') return;
      elsewhere = rotate(tenant, other);
      // Until the others have arrived too, on a busy machine.
      await sleep(1_000);
    };
    const answers = await Promise.all([rotate(tenant), rotate(tenant), rotate(tenant)]);
    afterStep = undefined;
    expect(answers.map(({ status }) => status)).toEqual([204, 204, 204]);
    expect((await elsewhere)?.status).toBe(204);
    expect(await auditOf(tenant)).toHaveLength(1);
    await expectFinished(before);
  });

  it('of a tenant whose lock is held gets 503, as its other acts do, and is completed when the lock is free', async () => {
    const tenant = await one.createTenant();
    const before = await rowOf(one, tenant);
    // A session of its own: the pool must not give its connection to the test's other queries.
    const locks = connectAs<Registry>(registry);
    await createTenantLocks(createLockSession(locks.db, () => undefined)).attempt(tenant.id, async () => {
      const resume = one.send('POST', `/tenants/${tenant.id}/resume`, { token: one.operatorToken });
      const [rotated, resumed] = await Promise.all([rotate(tenant), resume]);
      expect(rotated.body).toMatchObject({ status: 503, code: 'operation-unfinished' });
      expect(rotated.text).toContain('The new password is stored.');
      expect(resumed.body).toMatchObject({ status: 503, code: 'unavailable' });
      expect(resumed.text).toContain('Another operation works on');
      for (const { headers } of [rotated, resumed]) expect(headers['retry-after']).toBe('5');
      await finishOperations(one.app.engine);
      expect(await rowOf(one, tenant)).toMatchObject({
        dbPassword: before.dbPassword,
        nextDbPassword: expect.any(String) as unknown,
      });
    });
    await locks.close(0);
    await finishOperations(one.app.engine);
    await expectFinished(before);
    expect(await auditOf(tenant)).toHaveLength(1);
  });

  it('twenty times fails no request on two replicas, and no new connection', async () => {
    const tenant = await one.createTenant();
    const statuses = new Map<number, number>();
    let done = false;
    const client = async (service: TestService, cold: boolean): Promise<void> => {
      while (!done) {
        if (cold) await forgetConnections(service, tenant);
        const answers = await Promise.all([
          service.send('GET', '/products', { token: tenant.adminToken }),
          service.send('POST', '/products', { token: tenant.adminToken, body: { name: 'Chair', price: '1.00' } }),
          service.send('GET', '/users', { token: tenant.adminToken }),
        ]);
        for (const { status } of answers) statuses.set(status, (statuses.get(status) ?? 0) + 1);
      }
    };
    const clients = [client(one, false), client(one, true), client(other, false), client(other, true)];
    const rotations: number[] = [];
    for (let time = 0; time < 20; time += 1) {
      rotations.push((await rotate(tenant, time % 2 === 0 ? one : other)).status);
      await sleep(20);
    }
    done = true;
    await Promise.all(clients);
    expect(rotations).toEqual(Array.from({ length: 20 }, () => 204));
    expect([...statuses.keys()].sort()).toEqual([200, 201]);
    expect(statuses.get(200)).toBeGreaterThan(40);
  }, 60_000);
});

describe('a replica with an outdated password', () => {
  /** Gives the role another password, as in the moment before replicas know of it: no epoch changes, and no change is published. */
  async function changeUnheard(row: TenantRecord, column: 'db_password' | 'next_db_password'): Promise<string> {
    const password = newDatabasePassword();
    const context = { id: row.id, host: row.dbHost, port: row.dbPort, user: row.dbUser };
    const sealed = createEnvelope(one.config.encryptionKeys).seal(password, context);
    await central.db.transaction().execute(async (trx) => {
      await sql`set local session_replication_role = replica`.execute(trx);
      await trx
        .updateTable('tenants')
        .set({ [column]: sealed })
        .where('id', '=', row.id)
        .execute();
    });
    await asSuperuser('postgres', (db) =>
      sql`alter role ${sql.id(row.dbUser)} password ${sql.lit(password)}`.execute(db),
    );
    return password;
  }

  it.each([
    ['GET', 'next_db_password'],
    ['POST', 'next_db_password'],
    ['GET', 'db_password'],
    ['POST', 'db_password'],
  ] as const)('finds the new password at the first refused connection: %s, %s', async (method, column) => {
    const tenant = await one.createTenant();
    expect(await products(one, tenant)).toBe(200);
    const row = await rowOf(one, tenant);
    const password = await changeUnheard(row, column);
    expect([await enters(row, passwordOf(one, row)), await enters(row, password)]).toEqual([false, true]);
    await forgetConnections(one, tenant);
    expect(one.app.engine.tenantDirectory.peek(tenant.id)).toMatchObject({
      dbPassword: row.dbPassword,
      nextDbPassword: null,
    });

    const body = method === 'POST' ? { name: 'Chair', price: '1.00' } : undefined;
    const ask = (): ReturnType<TestService['send']> =>
      one.send(method, '/products', { token: tenant.adminToken, body });
    const answers = await Promise.all([ask(), ask(), ask(), ask()]);
    for (const { status, text } of answers) expect(status, text).toBe(method === 'POST' ? 201 : 200);
    // A connection that was refused for its password is no fault of the database.
    expect(one.app.engine.breakers.state('tenant', tenant.id)).toBeUndefined();
  });

  it('serves without the registry’s row once it has received the next password', async () => {
    const tenant = await one.createTenant();
    const before = await rowOf(one, tenant);
    await rotateAndFail('alter', tenant);
    expect(await products(other, tenant)).toBe(200);
    await asSuperuser(registry, (db) => sql`alter table tenants rename to tenants_gone`.execute(db));
    try {
      await forgetConnections(other, tenant);
      expect(await products(other, tenant)).toBe(200);
    } finally {
      await asSuperuser(registry, (db) => sql`alter table tenants_gone rename to tenants`.execute(db));
    }
    await finishOperations(other.app.engine);
    await expectFinished(before);
  });

  it('does not try again and again if no password works, and opens the tenant’s breaker', async () => {
    const tenant = await one.createTenant();
    const { dbUser } = await rowOf(one, tenant);
    await asSuperuser('postgres', (db) =>
      sql`alter role ${sql.id(dbUser)} password 'changed-by-somebody-else'`.execute(db),
    );
    await forgetConnections(one, tenant);
    for (let time = 0; time < 5; time += 1) expect(await products(one, tenant)).toBe(503);
    expect(one.app.engine.breakers.state('tenant', tenant.id)?.state).not.toBe('closed');
    // An operator's rotation repairs the tenant.
    expect((await rotate(tenant)).status).toBe(204);
    await expect.poll(() => products(one, tenant), { timeout: 30_000 }).toBe(200);
  });
});

describe('a rotation that fails after the step', () => {
  it.each(steps)('"%s" does not stop the tenant, and is completed in the background', async (failing) => {
    const tenant = await one.createTenant();
    const before = await rowOf(one, tenant);
    const failed = await rotateAndFail(failing, tenant);
    if (failing === 'alter') {
      expect(failed.body).toMatchObject({ status: 503, code: 'operation-unfinished' });
      expect(failed.headers['retry-after']).toBe('5');
    }
    for (const service of [one, other]) {
      await forgetConnections(service, tenant);
      expect(await products(service, tenant)).toBe(200);
    }
    await finishOperations(other.app.engine);
    await expectFinished(before);
    for (const service of [one, other]) {
      await forgetConnections(service, tenant);
      expect(await products(service, tenant)).toBe(200);
    }
    expect(await auditOf(tenant)).toHaveLength(1);
  });

  it('"alter" is completed by the next request, too', async () => {
    const tenant = await one.createTenant();
    const before = await rowOf(one, tenant);
    await rotateAndFail('alter', tenant);
    const pending = passwordOf(one, before, (await rowOf(one, tenant)).nextDbPassword);
    expect((await rotate(tenant)).status).toBe(204);
    await expectFinished(before);
    expect(passwordOf(one, await rowOf(one, tenant))).toBe(pending);
  });

  it('"store", because its process died, is completed by another replica', async () => {
    const tenant = await one.createTenant();
    const before = await rowOf(one, tenant);
    await beginAndDie(tenant);
    await finishOperations(other.app.engine);
    await expectFinished(before);
  });

  it('"store", and whose next password cannot be decrypted, uses another password', async () => {
    const tenant = await one.createTenant();
    const before = await rowOf(one, tenant);
    await beginAndDie(tenant);
    const unreadable = 'v1.gone.AAAAAAAAAAAAAAAA.AAAA.AAAAAAAAAAAAAAAAAAAAAA';
    await central.db.updateTable('tenants').set({ next_db_password: unreadable }).where('id', '=', tenant.id).execute();
    await finishOperations(one.app.engine);
    await expectFinished(before);
    expect(await products(one, tenant)).toBe(200);
  });
});

it('a rotation repairs a tenant whose password cannot be decrypted any more', async () => {
  const tenant = await one.createTenant();
  const sealed = createEnvelope([{ kid: 'gone', key: Buffer.alloc(32, 9) }]);
  const { id, dbHost: host, dbPort: port, dbUser: user } = await rowOf(one, tenant);
  await central.db
    .updateTable('tenants')
    .set({ db_password: sealed.seal('x', { id, host, port, user }) })
    .where('id', '=', id)
    .execute();
  await expect.poll(() => products(one, tenant), { timeout: 30_000 }).toBe(503);
  expect((await rotate(tenant)).status).toBe(204);
  for (const service of [one, other]) await expect.poll(() => products(service, tenant), { timeout: 30_000 }).toBe(200);
});

describe('the job of the rotation', () => {
  it('changes passwords that are too old, and no others', async () => {
    const [old, young] = [await one.createTenant(), await one.createTenant()];
    const before = { old: await rowOf(one, old), young: await rowOf(one, young) };
    await central.db
      .updateTable('tenants')
      .set({ password_rotated_at: new Date(Date.now() - 3_600_000).toISOString() })
      .where('id', '=', old.id)
      .execute();
    // Switched off, the job does nothing.
    await one.app.engine.housekeeping.runNow('rotation');
    expect((await rowOf(one, old)).dbPassword).toBe(before.old.dbPassword);
    const service = await startServiceForTest({ registry, env: { DB_PASSWORD_ROTATE_AFTER_MS: '1800000' } });
    await service.app.engine.housekeeping.runNow('rotation');
    await finishOperations(service.app.engine);
    await expectFinished(before.old);
    expect((await rowOf(one, young)).dbPassword).toBe(before.young.dbPassword);
    expect(await auditOf(old)).toEqual([{ action: 'tenant.password-rotated', actor_kind: 'none' }]);
  });
});
