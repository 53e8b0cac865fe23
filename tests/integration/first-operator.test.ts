// The first operator, from the environment of the first start.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, inject, it } from 'vitest';
import type { Registry } from '../../db/registry/registry-schema.js';
import { countOperators, findOperatorByEmail } from '../../db/registry/operator-queries.js';
import { prepare } from '../../src/boot/index.js';
import { ConfigError, readSettings } from '../../src/config/index.js';
import { createLogger } from '../../src/observability/logger.js';
import { connectAs, createRegistry, OPERATOR, urlOf } from '../support/app.js';

let registry: string;
let dataDir: string;
beforeAll(async () => {
  [registry, dataDir] = await Promise.all([createRegistry(), mkdtemp(path.join(tmpdir(), 'tenantry-first-operator-'))]);
});
afterAll(() => rm(dataDir, { recursive: true }));

/** Does what a start does before the app is built. */
async function start(password: string): Promise<void> {
  const { registryService, provisioner } = inject('cluster');
  const settings = readSettings({
    NODE_ENV: 'test',
    DATA_DIR: dataDir,
    DATABASE_URL: urlOf({ ...provisioner, ...registryService, database: registry }),
    TENANT_DATABASE_URL: urlOf(provisioner),
    OPERATOR_EMAIL: OPERATOR.email,
    OPERATOR_PASSWORD: password,
  });
  await prepare(settings, createLogger({ level: 'silent', pretty: false }), () => undefined);
}

async function inRegistry<T>(work: (db: ReturnType<typeof connectAs<Registry>>['db']) => Promise<T>): Promise<T> {
  const handle = connectAs<Registry>(registry);
  try {
    return await work(handle.db);
  } finally {
    await handle.close(0);
  }
}

it.each([
  ['password1234', 'OPERATOR_PASSWORD is one of the most common passwords'],
  ['aaaaaaaaaaaa', 'OPERATOR_PASSWORD must not repeat the same few characters'],
  ['tenantry-2026', 'OPERATOR_PASSWORD must not be made of the names'],
])(
  'the first operator is not created with a password that a guesser tries first, and the start says why: %s',
  async (password, reason) => {
    const refusal = start(password);
    await expect(refusal).rejects.toThrow(ConfigError);
    await expect(refusal).rejects.toThrow(reason);
    expect(await inRegistry(countOperators)).toBe(0);
  },
);

it('the first operator is created with another password, and a later start does not look at the variable', async () => {
  await start(OPERATOR.password);
  await start('password1234');
  expect(await inRegistry(countOperators)).toBe(1);
  expect(await inRegistry((db) => findOperatorByEmail(db, OPERATOR.email))).toMatchObject({ active: true });
});

it('the first operator leaves one row in the audit, however often the service starts', async () => {
  await start(OPERATOR.password);
  await start(OPERATOR.password);
  const operator = await inRegistry((db) => findOperatorByEmail(db, OPERATOR.email));
  const rows = await inRegistry((db) =>
    db.selectFrom('audit').select(['actor_kind as actor', 'action', 'target_id as target']).execute(),
  );
  expect(rows).toEqual([{ actor: 'none', action: 'operator.created', target: operator?.id }]);
});
