// The work between two waves of a rollout, which one worker does at a time, under the rollout's lock:
//
//     not prepared ── templates, standby databases, marks ──> prepared
//     wave has ended ── compare schemas with the template ── one differs, and there is a budget ──> stopped
//                                                    └── otherwise ──> next wave
//     last wave has ended ── tenants are behind that were made or restored meanwhile ──> they join the last wave
//                                      └── none ──> done
//
// The lock can be lost, so each change of the rollout's row looks again whether the row is as it was.
import type { Kysely, Transaction } from 'kysely';
import { addLateItems, listDoneTenants } from '../../db/registry/rollouts/rollout-item-rows.js';
import { listOpenPlaces } from '../../db/registry/rollouts/rollout-claims.js';
import { changeRollout, lockRollout, type RolloutRecord } from '../../db/registry/rollouts/rollout-rows.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { listProvisionedAmong } from '../../db/registry/tenant-queries.js';
import { PlainError } from '../jobs/plain-words.js';
import { settleOlderMaking } from './older-stock.js';
import { lastWave } from './rollout-plan.js';
import { MOST_COMPARED, type CompareTenants } from './wave-check.js';

export interface WaveEndDeps {
  readonly registry: Kysely<Registry>;
  /** The schema of the worker's build. */
  readonly target: string;
  /** Brings templates, standby databases and marks in order. */
  readonly prepare: () => Promise<unknown>;
  /** Drops templates of older builds again, at the end: a session may have used one. */
  readonly finish?: () => Promise<unknown>;
  /** Called at the end with the number of tenants of an older schema that an older build is still making. */
  readonly onUnfinished?: (tenants: number) => void;
  /** Compares the schemas of tenants with the template. */
  readonly checkWave?: CompareTenants | undefined;
  /** Called when a wave has ended, with the rollout as it is then. */
  readonly onWave?: (rollout: RolloutRecord) => void;
  /** Called when the schemas of some tenants of a wave could not be compared. The rollout goes on. */
  readonly onCheckFailed?: (error: unknown, rollout: RolloutRecord) => void;
}

export function createWaveEnds(deps: WaveEndDeps): {
  /** The rollout has no open item in its wave, or is not prepared. @throws DatabaseFault; errors of `prepare` */
  advance(rollout: RolloutRecord, signal: AbortSignal): Promise<void>;
} {
  const { registry, target, checkWave, onWave } = deps;

  /** Changes the rollout if it runs, and is in the same wave. @returns undefined otherwise */
  function change(
    { id, wave, prepared }: RolloutRecord,
    work: (trx: Transaction<Registry>) => Promise<RolloutRecord | undefined>,
  ): Promise<RolloutRecord | undefined> {
    return registry.transaction().execute(async (trx) => {
      const now = await lockRollout(trx, id);
      if (now?.state !== 'running' || now.wave !== wave || now.prepared !== prepared) return undefined;
      return work(trx);
    });
  }

  /** @returns whether the rollout may go on */
  async function check(rollout: RolloutRecord, signal: AbortSignal): Promise<boolean> {
    const { id, wave, checkedWave, plan } = rollout;
    if (!checkWave || checkedWave >= wave) return true;
    const ids = await listDoneTenants(registry, { rolloutId: id, wave, limit: MOST_COMPARED });
    // One that was restored from an older backup since is behind: it becomes an item again.
    const tenants = (await listProvisionedAmong(registry, ids)).filter(({ schemaVersion }) => schemaVersion >= target);
    const none = { compared: 0, differing: 0, failed: 0 };
    const found: Awaited<ReturnType<CompareTenants>> =
      tenants.length === 0
        ? none
        : await checkWave(tenants, { signal }).catch((error: unknown) => {
            deps.onCheckFailed?.(error, rollout);
            return none;
          });
    // A check that was cut short says nothing. The next worker does it again.
    if (signal.aborted) return false;
    const { compared, differing, first, failed, firstFailure } = found;
    if (failed > 0) deps.onCheckFailed?.(new PlainError(firstFailure ?? 'it is not known why'), rollout);
    // Without a budget nothing stops a rollout.
    const stops = differing > 0 && plan.budget !== null;
    const reason = `the schemas of ${differing} of ${compared} tenants of wave ${wave} differ from the template: ${first ?? 'unknown'}`;
    const changed = await change(rollout, (trx) =>
      changeRollout(trx, id, {
        checkedWave: wave,
        differences: differing,
        firstDifference: first,
        ...(stops && { state: 'stopped', reason }),
      }),
    );
    if (changed && stops) onWave?.(changed);
    return changed !== undefined && !stops;
  }

  return {
    async advance(rollout, signal) {
      const { id, wave, plan, prepared } = rollout;
      if (!prepared) {
        await deps.prepare();
        await change(rollout, (trx) => changeRollout(trx, id, { prepared: true }));
        return;
      }
      if (!(await check(rollout, signal))) return;
      const isLast = wave >= lastWave(plan);
      if (isLast) {
        deps.onUnfinished?.(await settleOlderMaking(registry, { version: target, signal }));
        await deps.finish?.();
      }
      const changed = await change(rollout, async (trx) => {
        if (isLast) await addLateItems(trx, { id, target, wave });
        if ((await listOpenPlaces(trx, id, wave)).length > 0) return undefined;
        return changeRollout(trx, id, isLast ? { state: 'done' } : { wave: wave + 1 });
      });
      if (changed) onWave?.(changed);
    },
  };
}
