// The engine without HTTP: a script opens it, makes a tenant and closes it.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { expect, inject, it, onTestFinished } from 'vitest';
import { createEngine } from '../../src/engine/index.js';
import { createLogger } from '../../src/observability/logger.js';
import { setStandbyTarget } from '../../db/registry/standby-rows.js';
import type { Engine, EngineOptions } from '../../src/engine/index.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import { ADMIN, asSuperuser, createRegistry, testConfig } from '../support/app.js';

const root = path.resolve(import.meta.dirname, '../..');

/** Sessions of one engine: those in its registry, and those on clusters with its replica's id in their name. */
const sessionsOf = (registry: string, replicaId: string): Promise<string[]> =>
  asSuperuser('postgres', async (db) => {
    const { rows } = await sql<{ name: string }>`
      select application_name as name from pg_stat_activity
        where application_name like 'tenantry%'
          and (datname = ${registry} or application_name like ${`%${replicaId}`})`.execute(db);
    return rows.map(({ name }) => name);
  });

it('a script that closes its engine ends by itself, has created its tenant, and leaves no session on any server', async () => {
  const registry = await createRegistry();
  const arguments_ = ['--import', 'tsx', 'tests/support/engine-child.ts', JSON.stringify(inject('cluster')), registry];
  const child = spawn(process.execPath, arguments_, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] });
  onTestFinished(() => {
    child.kill('SIGKILL');
  });
  const [output, ending] = await Promise.all([text(child.stdout), once(child, 'exit')]);
  expect(ending[0]).toBe(0);
  const { id, replicaId, sessions } = JSON.parse(output) as { id: string; replicaId: string; sessions: number };
  expect(sessions).toBeGreaterThan(0);
  const statuses = await asSuperuser(registry, async (db) => {
    const { rows } = await sql<{ status: string }>`select status from tenants where id = ${id}`.execute(db);
    return rows;
  });
  expect(statuses).toEqual([{ status: 'active' }]);
  expect(await sessionsOf(registry, replicaId)).toEqual([]);
  // It leased no slots that another replica would miss, and was no replica.
  const leases = await asSuperuser(registry, async (db) => {
    const { rows } = await sql<{ count: string }>`select count(*) from slot_leases`.execute(db);
    return rows[0]?.count;
  });
  expect(leases).toBe('0');
}, 60_000);

it('the engine can be closed twice while its registry is away', async () => {
  const config = testConfig('no_such_registry');
  const engine = await createEngine(config, createLogger(config.log));
  await engine.close();
  await engine.close();
  await expect(engine.installation()).rejects.toThrow();
});

/** Opened as a command does: it does not serve. */
async function openEngine(options?: EngineOptions): Promise<Engine> {
  const config = testConfig(await createRegistry());
  const engine = await createEngine(config, createLogger(config.log), options);
  onTestFinished(() => engine.close());
  return engine;
}

async function makeTenant(engine: Engine): Promise<TenantRecord> {
  const { password, ...admin } = ADMIN;
  const passwordHash = await engine.passwords.hash(password, 'operators');
  return engine.provisioning.create(
    { name: 'By a command', slug: 'by-a-command', poolOptions: {}, admin: { ...admin, passwordHash } },
    { actor: { kind: 'none' } },
  );
}

it('the engine completes a tenant that is being created before it closes', async () => {
  let closed: Promise<void> | undefined;
  const engine: Engine = await openEngine({
    afterOperationStep: async (_kind, step) => {
      if (step !== 'role') return;
      closed = engine.close();
      await sleep(500);
    },
  });
  expect(await makeTenant(engine)).toMatchObject({ status: 'active' });
  await closed;
});

it('an engine that does not serve creates a tenant from a standby database, without a job that refills them', async () => {
  const engine = await openEngine();
  await setStandbyTarget(engine.registry, await engine.defaultCluster.ensure(), 1);
  await engine.standby.refill(new AbortController().signal);
  const unhandled: unknown[] = [];
  const note = (error: unknown): void => void unhandled.push(error);
  process.on('unhandledRejection', note);
  onTestFinished(() => void process.off('unhandledRejection', note));
  expect(await makeTenant(engine)).toMatchObject({ status: 'active' });
  expect(unhandled).toEqual([]);
});
