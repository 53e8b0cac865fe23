// What replicas of an older build make tenants from: its templates, and its standby databases. A migration takes both away before
// it migrates tenants. Otherwise such a replica would make tenants of the old schema during the migration and after it.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Kysely } from 'kysely';
import { insertOperation } from '../../db/registry/operations/operation-rows.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { olderBuildLives } from '../../db/registry/replica-rows.js';
import { countOlderInTheMaking, retireOlderStandby } from '../../db/registry/standby-rows.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { dropOutdatedTemplates, type TemplatesFound } from '../operations/template/outdated-templates.js';
import type { FleetServers } from './fleet-servers.js';

/** Longest wait (ms) for what an older build began to make before its templates were gone. */
const PATIENCE = 30_000;
const LOOK_EVERY = 250;

const latest = latestVersion(tenantMigrations);

/** @returns the number of standby databases that no build can claim any more. The replicas drop them */
export async function withdrawOlderStandby(registry: Kysely<Registry>, version = latest): Promise<number> {
  return registry.transaction().execute(async (trx) => {
    const retired = await retireOlderStandby(trx, version);
    for (const { id, clusterId } of retired) await insertOperation(trx, { kind: 'withdraw', subject: id, clusterId });
    return retired.length;
  });
}

/** Drops the templates of older builds, and finds those of newer ones. */
export async function dropOlderTemplates(
  registry: Kysely<Registry>,
  servers: Pick<FleetServers, 'onEach'>,
  installation: string,
): Promise<TemplatesFound> {
  const found = await servers.onEach((server) =>
    dropOutdatedTemplates(registry, server, tenantMigrations, installation),
  );
  return { newer: found.flatMap(({ newer }) => newer), left: found.flatMap(({ left }) => left) };
}

/**
 * Waits until live replicas of an older build have finished the tenants that they were making, and withdraws the standby databases
 * that they finish meanwhile.
 *
 * @returns the number of tenants of an older schema that are still being made
 */
export async function settleOlderMaking(
  registry: Kysely<Registry>,
  { version = latest, signal }: { readonly version?: string; readonly signal?: AbortSignal } = {},
): Promise<number> {
  const until = performance.now() + PATIENCE;
  for (;;) {
    const { tenants, standby } = await countOlderInTheMaking(registry, version);
    await withdrawOlderStandby(registry, version);
    const mayWait = performance.now() < until && signal?.aborted !== true;
    const waits = tenants + standby > 0 && mayWait && (await olderBuildLives(registry, version));
    if (!waits) return tenants;
    await sleep(LOOK_EVERY);
  }
}
