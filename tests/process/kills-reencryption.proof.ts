// A process of the service is killed at each statement of a re-encryption of several pages: before the statement is sent, or right
// after. After each kill every stored password can be decrypted. Another process finishes what the killed one began.
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, inject, it } from 'vitest';
import { findInstallationId } from '../../db/registry/installation.js';
import {
  findOperation,
  findUnfinishedOperation,
  insertOperation,
} from '../../db/registry/operations/operation-rows.js';
import { findOperatorByEmail, insertOperator } from '../../db/registry/operator-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import type { DatabaseHandle } from '../../db/driver/client.js';
import { newId } from '../../db/shared/ids.js';
import { localSecrets } from '../../src/boot/local-secrets.js';
import type { EncryptionKey } from '../../src/config/index.js';
import { createEnvelope, type EnvelopeContext } from '../../src/secrets/envelope.js';
import {
  beginSession,
  connectAs,
  createRegistry,
  openApp,
  OPERATOR,
  testConfig,
  TOKEN_KEY,
  urlOf,
} from '../support/app.js';
import { EVERY, killEach, killOne, missedIn, prepareKills, type KilledAct } from '../support/killed-processes.js';
import { holdJobs } from '../support/held-jobs.js';
import { build, eventually, makeDataDir } from '../support/service-process.js';

const before: EncryptionKey = { kid: 'before', key: Buffer.alloc(32, 1) };
const after: EncryptionKey = { kid: 'after', key: Buffer.alloc(32, 2) };

/** More than two pages of 100. */
const ROWS = 230;

interface Row {
  readonly context: EnvelopeContext;
  readonly password: string;
  readonly next: string | null;
}

let registry: string;
let central: DatabaseHandle<Registry>;
let data: Awaited<ReturnType<typeof makeDataDir>>;
let token: string;
let removeKills = async (): Promise<void> => undefined;
let rows: readonly Row[] = [];
let operationId = '';
/** The statements of a whole re-encryption. */
let whole: readonly string[] = [];
let resumeJobs = async (): Promise<void> => undefined;

/** Tenants of no server. Every third has the next password too, as during a change of its password. */
async function makeRows(): Promise<Row[]> {
  const made = Array.from({ length: ROWS }, (_, index): Row => {
    const context = { id: newId(), host: '192.0.2.1', port: 5432, user: `nobody_${index}` };
    return { context, password: `password ${index}`, next: index % 3 === 0 ? `next ${index}` : null };
  });
  const values = made.map(({ context: { id, host, port, user }, password, next }, index) => ({
    id,
    name: 'Killed',
    slug: `killed-${index}`,
    status: 'deleting' as const,
    cluster_id: null,
    db_host: host,
    db_port: port,
    db_name: user,
    db_user: user,
    db_password: password,
    next_db_password: next,
    pool_options: '{}',
    schema_version: '0001',
  }));
  await central.db.insertInto('tenants').values(values).execute();
  return made;
}

/** Encrypts every row with the key from before. */
async function sealBefore(): Promise<void> {
  const envelope = createEnvelope([before]);
  const sealed = rows.map(({ context, password, next }) => [
    context.id,
    envelope.seal(password, context),
    next === null ? null : envelope.seal(next, context),
  ]);
  const given = (index: number): (string | null)[] => sealed.map((values) => values[index] ?? null);
  await sql`update tenants set db_password = given.password, next_db_password = given.next
    from unnest(${given(0)}::uuid[], ${given(1)}::text[], ${given(2)}::text[]) as given (id, password, next)
    where tenants.id = given.id`.execute(central.db);
}

/** Opens every password with these keys. @returns how many are encrypted with each key */
async function openAll(keys: readonly EncryptionKey[]): Promise<Record<string, number>> {
  const envelope = createEnvelope(keys);
  const found = await central.db.selectFrom('tenants').select(['id', 'db_password', 'next_db_password']).execute();
  expect(found).toHaveLength(ROWS);
  const uses: Record<string, number> = {};
  for (const { context, password, next } of rows) {
    const row = found.find(({ id }) => id === context.id);
    for (const [text, secret] of [
      [row?.db_password, password],
      [row?.next_db_password, next],
    ]) {
      if (secret === null || secret === undefined) continue;
      expect(envelope.open(text ?? '', context)).toBe(secret);
      const kid = text?.split('.')[1] ?? '';
      uses[kid] = (uses[kid] ?? 0) + 1;
    }
  }
  return uses;
}

/** All of them, encrypted with the key from after. */
const ALL: Record<string, number> = { after: ROWS + Math.ceil(ROWS / 3) };

/** Records the operation as the job does, or takes the one that a killed process left. No worker takes it until it is retried. */
async function recordOperation(): Promise<string> {
  const subject = await findInstallationId(central.db);
  const operation =
    (await findUnfinishedOperation(central.db, subject, 'reencrypt')) ??
    (await insertOperation(central.db, { kind: 'reencrypt', subject, details: { kid: after.kid } }));
  const id = operation?.id ?? '';
  await sql`update operations set not_before = now() + interval '1 day' where id = ${id}`.execute(central.db);
  return id;
}

beforeAll(async () => {
  await build();
  data = await makeDataDir();
  await localSecrets(data.dir);
  removeKills = await prepareKills();
  registry = await createRegistry();
  central = connectAs<Registry>(registry);
  await insertOperator(central.db, { email: OPERATOR.email, passwordHash: 'not used' });
  const app = await startApp();
  const operator = await findOperatorByEmail(central.db, OPERATOR.email);
  token = await beginSession(app, { kind: 'operator', operatorId: operator?.id ?? '' });
  await app.close();
  rows = await makeRows();
  // The runner alone finishes the operation.
  resumeJobs = await holdJobs(registry, ['leftovers', 'reencryption', 'rotation', 'reconciler', 'lifecycle purge']);
});
afterAll(async () => {
  await resumeJobs();
  await removeKills();
  await data.remove();
  await central.close(0);
});

const act: KilledAct = {
  most: 80,
  alone: true,
  ready: async () => {
    await sealBefore();
    operationId = await recordOperation();
  },
  request: () => ({ method: 'POST', path: `/operations/${operationId}/retry` }),
  ended: async () => (await findOperation(central.db, operationId))?.state === 'done',
};

it('every password can be decrypted after a kill at any statement, and another process ends the operation', async () => {
  const checked: KilledAct = {
    ...act,
    ready: async (nth) => {
      if (operationId !== '') await openAll([after, before]);
      await act.ready?.(nth);
    },
  };
  const killed = await killEach({ env: environment(), newToken: () => token }, checked, 0);
  whole = killed.find(({ answered }) => answered)?.statements ?? [];
  expect(await openAll([after])).toEqual(ALL);
  expect(killed.filter(({ answered }) => !answered).length).toBeGreaterThan(EVERY === 1 ? 40 : 0);
  if (EVERY > 1) return;
  process.stdout.write(`re-encryption: ${killed.length} processes, ${whole.length} statements\n`);
  for (const when of ['before', 'after'] as const) expect(missedIn(killed, when)).toEqual([]);
}, 900_000);

it('a process that is killed in the middle of a page leaves the pages before it, and another process does the rest', async () => {
  const updates = whole.flatMap((text, index) => (text.startsWith('update "tenants" as row') ? [index + 1] : []));
  const [, second = 0] = updates;
  expect(second).toBeGreaterThan(0);
  // After the UPDATE of the second page, and before its COMMIT.
  const { answered } = await killOne({ env: environment(), newToken: () => token }, act, 0, {
    at: second,
    when: 'after',
  });
  expect(answered).toBe(false);
  expect(await openAll([after, before])).toEqual({ after: 100, before: (ALL['after'] ?? 0) - 100 });
  expect(await findOperation(central.db, operationId)).toMatchObject({ state: 'running', endedAt: null });

  const app = await startApp();
  try {
    const hasEnded = async (): Promise<boolean> => (await act.ended?.(0)) ?? false;
    await eventually('another process ends the operation', hasEnded, 30_000);
    expect(await openAll([after])).toEqual(ALL);
  } finally {
    await app.close();
  }
}, 120_000);

async function startApp(): ReturnType<typeof openApp> {
  const config = testConfig(registry, { ACCESS_TOKEN_TTL: '14400' });
  return openApp({ ...config, encryptionKeys: [after, before] });
}

function environment(): Record<string, string> {
  const { superuser, registryService, provisioner } = inject('cluster');
  return {
    DATABASE_URL: urlOf({ ...superuser, ...registryService, database: registry }),
    TENANT_DATABASE_URL: urlOf(provisioner),
    DATA_DIR: data.dir,
    JWT_KEYS: TOKEN_KEY,
    ENCRYPTION_KEYS: [after, before].map(({ kid, key }) => `${kid}:${key.toString('base64')}`).join(','),
    STANDBY_DATABASES: '0',
    RECONCILE_EVERY_MS: '3600000',
    CLUSTER_CONNECTION_RESERVE: '500',
  };
}
