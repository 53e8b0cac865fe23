// docs/reference/tenantry.md is what the command writes, and the commands of docs/guide/command.md, each.md and rollouts.md work.
import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { expect, inject, it, onTestFinished } from 'vitest';
import { insertOperation } from '../../db/registry/operations/operation-rows.js';
import { writeBeat } from '../../db/registry/replica-rows.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { connectAs, createRegistry } from '../support/app.js';
import { commandsIn, ROOT, shellBlocksOf } from '../support/docs.js';
import { makeDataDir } from '../support/service-process.js';
import { play, TENANTRY_PAGE, tenantryPage, type Scene } from '../support/tenantry-page.js';
import { environmentFor } from '../support/tenantry.js';

it('docs/reference/tenantry.md is what the commands write; --update writes it', { timeout: 300_000 }, async () => {
  const data = await makeDataDir();
  onTestFinished(() => data.remove());
  const registry = await createRegistry();
  const env = environmentFor(registry, data.dir);
  const handle = connectAs<Registry>(registry);
  onTestFinished(() => handle.close(0));
  const scenes: Scene[] = [];
  const plays = async (line: string, code = 0, more: Readonly<Record<string, string>> = {}): Promise<void> => {
    const scene = await play(line, { ...env, ...more });
    expect({ line, code: scene.code, problem: code === 0 ? scene.stderr : '' }).toEqual({
      line,
      code,
      problem: expect.not.stringContaining('Help:') as string,
    });
    scenes.push(scene);
  };

  const guide = shellBlocksOf('docs/guide/command.md').flatMap(commandsIn);
  expect(guide.length).toBeGreaterThan(4);
  for (const command of guide) {
    expect(command).toMatch(/^npx tenantry /);
    await plays(command.replace(/^npx tenantry /, ''));
  }
  for (const line of ['show wayne', 'resume wayne']) await plays(`tenants ${line}`);
  const written = path.join(ROOT, 'each-wayne.jsonl');
  await rm(written, { force: true });
  onTestFinished(() => rm(written, { force: true }));
  for (const command of shellBlocksOf('docs/guide/each.md').flatMap(commandsIn)) {
    expect(command).toMatch(/^npx tenantry each /);
    await plays(command.replace(/^npx tenantry /, ''));
  }
  await plays('each -- "select 1; drop table products"', 2);
  // A rollout has something to do if a tenant is behind. No replica takes it, so it stays as it was recorded.
  const schema = (schema_version: string): Promise<unknown> =>
    handle.db.updateTable('tenants').set({ schema_version }).where('slug', '=', 'wayne').execute();
  await plays('rollouts start', 4);
  await schema('0001_identity');
  const rollouts = shellBlocksOf('docs/guide/rollouts.md').flatMap(commandsIn);
  for (const command of rollouts.filter((line) => line.startsWith('npx tenantry '))) {
    const line = command.replace(/^npx tenantry /, '');
    await plays(line);
    if (line === 'rollouts pause') await plays('rollouts show --wait --json', 3);
  }
  await plays('rollouts list');
  await plays('rollouts retry', 4);
  await schema(latestVersion(tenantMigrations));
  for (const line of ['delete wayne', 'delete wayne --yes', 'restore wayne --json'])
    await plays(`tenants ${line}`, line === 'delete wayne' ? 2 : 0);
  await plays('tenants delete wayne --yes');
  await plays('tenants purge wayne --yes');

  const name = `${inject('cluster').provisioner.host}:${inject('cluster').provisioner.port}`;
  await plays('clusters list');
  await plays(`clusters check ${name}`);
  await plays(
    'clusters add frankfurt-1 --host frankfurt-1.db.example --provisioner-user tenantry_provisioner --connection-budget 90',
    4,
    { TENANTRY_PASSWORD: 'the password of that role' },
  );
  await plays(`clusters drain ${name}`);

  // No replica takes an operation of a build that is newer than itself.
  const details = { version: '9999_newer' };
  const operation = await insertOperation(handle.db, {
    kind: 'close',
    subject: '01900000-0000-7000-8000-0000000000ff',
    details,
  });
  const id = operation?.id ?? '';
  await plays('operations list --state waiting');
  await plays(`operations show ${id}`);
  await plays(`operations retry ${id}`);
  await plays(`operations abandon ${id} --yes`);

  await plays('operators list');
  await plays('operators reset-password ada@example.com --make-password');
  await plays('operators create grace@example.com --make-password --json');
  await plays('operators deactivate ada@example.com --yes --as grace@example.com');

  const keys = { ENCRYPTION_KEYS: `k2:${randomBytes(32).toString('base64')},${env['ENCRYPTION_KEYS'] ?? ''}` };
  await plays('keys status', 0, keys);
  await plays('keys rotate --yes', 0, keys);

  await writeBeat(handle.db, {
    ...{ id: 'c0ffee000001', version: '0.1.0', schemaVersion: '0001_identity', node: '24.0.0', host: 'replica-1' },
    ...{ servingFor: 60_000, clockSkew: 0, notReady: undefined, slotsUsed: {}, actsFor: 15_000, reports: [] },
  });
  await plays('pools');
  await plays('doctor --only grants-missing,owners-wrong');

  await expect(await tenantryPage(scenes)).toMatchFileSnapshot(TENANTRY_PAGE);
});
