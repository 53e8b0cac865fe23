// A password change whose answers are lost or late, or whose worker pauses while others continue, with re-encryption meanwhile: in
// the end the server has the password in the registry.
import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { findOperatorByEmail, insertOperator } from '../../db/registry/operator-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { tenantLockName } from '../../db/registry/tenant-lock-keys.js';
import { findTenant, type TenantRecord } from '../../db/registry/tenant-queries.js';
import type { DatabaseHandle } from '../../db/driver/client.js';
import { openApp } from '../support/service.js';
import type { Config } from '../../src/config/index.js';
import { createEnvelope } from '../../src/secrets/envelope.js';
import { newDatabasePassword } from '../../src/tenants/tenant-ids.js';
import { ADMIN, beginSession, connectAs, createRegistry, sender, testConfig } from '../support/app.js';
import { startLossyProxy, type LossyProxy } from '../support/lossy-proxy.js';
import { finishOperations } from '../support/operations.js';
import { enter } from '../support/tenants.js';
import type { FastifyInstance } from 'fastify';

const k2 = { kid: 'k2', key: Buffer.alloc(32, 2) };

let registry: string;
let central: DatabaseHandle<Registry>;
let toRegistry: LossyProxy;
let toServer: LossyProxy;
let config: Config;
/** Loses its answers. */
let one: FastifyInstance;
/** Re-encrypts: its current key is another one. */
let other: FastifyInstance;
let operator: string;
let afterStep: ((step: string) => void | Promise<void>) | undefined;
let tenants = 0;

beforeAll(async () => {
  registry = await createRegistry();
  central = connectAs<Registry>(registry);
  // Unprepared: the proxy then sees the text of each statement.
  const direct = testConfig(registry, { PREPARED_STATEMENTS: 'off' });
  toRegistry = await startLossyProxy(direct.registry.connection);
  toServer = await startLossyProxy(direct.tenants.provisioner);
  const { host, port } = toServer;
  config = { ...direct, tenants: { ...direct.tenants, provisioner: { ...direct.tenants.provisioner, host, port } } };
  const lossy = { ...config.registry.connection, host: toRegistry.host, port: toRegistry.port };
  one = await openApp(
    {
      ...config,
      registry: { ...config.registry, connection: lossy },
      encryptionKeys: [...config.encryptionKeys, k2],
    },
    { afterOperationStep: (kind, step) => (kind === 'rotate' ? afterStep?.(step) : undefined) },
  );
  other = await openApp({ ...config, encryptionKeys: [k2, ...config.encryptionKeys] });
  for (const app of [one, other]) await app.ready();
  await insertOperator(other.engine.registry, { email: 'operator@example.com', passwordHash: 'not used' });
  const found = await findOperatorByEmail(other.engine.registry, 'operator@example.com');
  operator = await beginSession(other, { kind: 'operator', operatorId: found?.id ?? '' });
});
afterEach(() => {
  afterStep = undefined;
});
afterAll(async () => {
  await Promise.all([one.close(), other.close()]);
  await Promise.all([central.close(0), toRegistry.close(), toServer.close()]);
});

async function createTenant(): Promise<string> {
  const body = { name: 'Rotated', slug: `rotated-${(tenants += 1)}`, admin: ADMIN };
  const made = await sender(one)<{ id: string }>('POST', '/tenants', { token: operator, body });
  expect(made.status, made.text).toBe(201);
  return made.body.id;
}

async function rotate(app: FastifyInstance, id: string): Promise<number> {
  return (await sender(app)('POST', `/tenants/${id}/rotate-password`, { token: operator })).status;
}

async function rowOf(id: string): Promise<TenantRecord> {
  const row = await findTenant(central.db, id);
  if (!row) throw new Error('the tenant has no row');
  return row;
}

function opened({ id, dbHost: host, dbPort: port, dbUser: user }: TenantRecord, sealed: string): string {
  return createEnvelope([k2, ...config.encryptionKeys]).open(sealed, { id, host, port, user });
}

/** Whether the server accepts the role's passwords in the registry: the current one, and the next one if there is one. */
async function agreement(id: string): Promise<{ current: boolean; next: boolean | undefined }> {
  const row = await rowOf(id);
  const enters = async (sealed: string): Promise<boolean> => {
    const handle = enter({ row, password: opened(row, sealed) });
    return sql`select 1`
      .execute(handle.db)
      .then(() => true)
      .catch(() => false)
      .finally(() => handle.close(0));
  };
  const { dbPassword, nextDbPassword } = row;
  return {
    current: await enters(dbPassword),
    next: nextDbPassword === null ? undefined : await enters(nextDbPassword),
  };
}

async function reencrypt(): Promise<void> {
  await other.engine.reencryption.begin();
  await other.engine.reencryption.run(new AbortController().signal);
}

/** Cuts the connection that holds a tenant's lock, as a network fault can. */
async function loseLock(id: string): Promise<void> {
  const { rows } = await sql<{ cut: boolean }>`
    select pg_terminate_backend(pid, 5000) as cut from pg_locks
    where locktype = 'advisory'
      and (classid::bigint << 32) + objid::bigint = hashtextextended(${tenantLockName(id)}, 0)`.execute(central.db);
  expect(rows).toEqual([{ cut: true }]);
}

const messages = {
  'the COMMIT that stores the next password': [() => toRegistry, /set "next_db_password"/, /commit/],
  'the ALTER': [() => toServer, /alter role .* password/],
  'the COMMIT of the ALTER': [() => toServer, /alter role .* password/, /commit/],
  'the promotion': [() => toRegistry, /set "db_password"/],
} as const satisfies Record<string, readonly [() => LossyProxy, ...RegExp[]]>;

describe.each(Object.keys(messages) as (keyof typeof messages)[])('%s', (message) => {
  const [proxy, ...patterns] = messages[message];

  it('whose answer is lost leaves a password that the registry has, and the rotation is completed', async () => {
    const id = await createTenant();
    const before = await rowOf(id);
    proxy().lose('answer', ...patterns);
    expect(await rotate(one, id)).toBe(503);
    expect(proxy().lost).toBe(true);
    const between = await agreement(id);
    expect(between.current || between.next).toBe(true);
    await reencrypt();
    await finishOperations(other.engine);
    expect(await agreement(id)).toEqual({ current: true, next: undefined });
    const after = await rowOf(id);
    expect(opened(after, after.dbPassword)).not.toBe(opened(before, before.dbPassword));
  });

  it('that arrives after another worker’s rotation changes nothing', async () => {
    const id = await createTenant();
    proxy().lose('late', ...patterns);
    expect(await rotate(one, id)).toBe(503);
    expect(proxy().lost).toBe(true);
    await reencrypt();
    // Finishes the change that was begun, and then changes the password once more.
    for (let time = 0; time < 2; time += 1) {
      await expect.poll(() => rotate(other, id), { timeout: 30_000 }).toBe(204);
      await reencrypt();
    }
    const { dbPassword } = await rowOf(id);
    proxy().deliver();
    await finishOperations(other.engine);
    expect(await agreement(id)).toEqual({ current: true, next: undefined });
    expect((await rowOf(id)).dbPassword).toBe(dbPassword);
  }, 60_000);
});

describe('a worker whose lock is lost', () => {
  it.each(['alter', 'promote'])(
    'after the step "%s" leaves server and registry in agreement, even if another worker rotates twice',
    async (at) => {
      const id = await createTenant();
      let stopped = false;
      afterStep = async (step) => {
        if (step !== at || stopped) return;
        stopped = true;
        await loseLock(id);
        for (let time = 0; time < 2; time += 1) {
          await expect.poll(() => rotate(other, id), { timeout: 30_000 }).toBe(204);
          await reencrypt();
        }
      };
      expect(await rotate(one, id)).toBe(204);
      expect(stopped).toBe(true);
      expect(await agreement(id)).toEqual({ current: true, next: undefined });
    },
  );

  it('gets an answer only when server and registry agree, even if the registry got another password meanwhile', async () => {
    const id = await createTenant();
    let stopped = false;
    afterStep = async (step) => {
      if (step !== 'alter' || stopped) return;
      stopped = true;
      const { dbHost: host, dbPort: port, dbUser: user } = await rowOf(id);
      const sealed = createEnvelope([k2]).seal(newDatabasePassword(), { id, host, port, user });
      const changes = { db_password: sealed, next_db_password: null };
      await central.db.updateTable('tenants').set(changes).where('id', '=', id).execute();
    };
    expect(await rotate(one, id)).toBe(204);
    expect(stopped).toBe(true);
    expect(await agreement(id)).toEqual({ current: true, next: undefined });
  });
});

it('re-encryption between the ALTER and the promotion does not stop a rotation', async () => {
  const id = await createTenant();
  const altered: string[] = [];
  afterStep = async (step) => {
    altered.push(step);
    if (step === 'alter') await reencrypt();
  };
  expect(await rotate(one, id)).toBe(204);
  // The password is the same in another envelope: the server has it.
  expect(altered).toEqual(['alter', 'promote']);
  expect(await agreement(id)).toEqual({ current: true, next: undefined });
  expect((await rowOf(id)).dbPassword).toMatch(/^v1\.k2\./);
});
