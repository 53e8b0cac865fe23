// What people do with rollouts: start, pause, resume, retry, abort, and look. Each act is one transaction, audited with its operator.
//
//     (start) ──> running ── every tenant is done, failed or skipped ──> done
//     running ── pause ──> paused ── resume ──> running
//     running ── more failures than the budget, or a schema that differs ──> stopped ── resume ──> running
//     running, paused, stopped, done ── retry, if tenants have failed ──> running
//     running, paused, stopped ── abort ──> aborted
//
// Nothing is undone: a tenant that was migrated stays migrated, and a later rollout goes on from there. Items that run when a rollout
// is paused, stopped or aborted come to their end.
import type { Kysely, Transaction } from 'kysely';
import {
  listRolloutItems,
  insertItems,
  retryFailedItems,
  skipPendingItems,
  type RolloutItem,
} from '../../db/registry/rollouts/rollout-item-rows.js';
import {
  changeRollout,
  countBehind,
  countItems,
  findRollout,
  insertRollout,
  listRollouts,
  lockRollout,
  UNDER_WAY_CONSTRAINT,
  type RolloutRecord,
} from '../../db/registry/rollouts/rollout-rows.js';
import type { RolloutState } from '../../db/registry/rollouts/rollouts-table.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { violatedUniqueConstraint } from '../../db/driver/database-fault.js';
import type { AuditAction, AuditOrigin } from '../../db/shared/audit-rows.js';
import type { Versioned } from '../../db/shared/row-version.js';
import { auditAct, operatorIdOf } from '../audit/operator-act.js';
import { AppError } from '../errors.js';
import { firstWave, lastWave, planOf, type RolloutWish } from './rollout-plan.js';
import { progressOf, type RolloutProgress } from './rollout-progress.js';

export type { RolloutItem, RolloutRecord };

export interface RolloutActs {
  /**
   * Records a rollout of this build's schema, with an item for each tenant that is behind. Any replica of the build begins it.
   *
   * @param prepared whether templates and marks are in order already
   * @throws AppError `rollout-under-way`; `nothing-behind`
   */
  start(wish: RolloutWish, origin: AuditOrigin, prepared?: boolean): Promise<RolloutRecord>;
  /**
   * No item is claimed any more; workers give back within a second what they have not begun.
   *
   * @throws AppError `not-found`; `rollout-state` unless it runs
   */
  pause(id: string, origin: AuditOrigin): Promise<RolloutRecord>;
  /**
   * Goes on with a paused or stopped rollout. If more tenants have failed than the budget allows, the next failure stops it again.
   *
   * @param wish.budget replaces the budget of the plan
   * @param wish.pace replaces its pace
   * @throws AppError `not-found`; `rollout-state`
   */
  resume(id: string, origin: AuditOrigin, wish?: Pick<RolloutWish, 'budget' | 'pace'>): Promise<RolloutRecord>;
  /**
   * Tries the failed tenants again, and goes on with the rollout.
   *
   * @throws AppError `not-found`; `rollout-state` if none has failed, or it was aborted; `rollout-under-way` if it has ended and
   *   another one is under way
   */
  retry(id: string, origin: AuditOrigin): Promise<RolloutRecord>;
  /** Ends it. Tenants that have not begun are skipped. @throws AppError `not-found`; `rollout-state` if it has ended */
  abort(id: string, origin: AuditOrigin): Promise<RolloutRecord>;
  find(id: string): Promise<(RolloutRecord & Versioned & { readonly progress: RolloutProgress }) | undefined>;
  /** One page, by time of creation. Ask for one row more than the page shows. */
  list(page: Parameters<typeof listRollouts>[1]): Promise<RolloutRecord[]>;
  /** One page of a rollout's items, by wave and id of the tenant. */
  items(page: Parameters<typeof listRolloutItems>[1]): Promise<RolloutItem[]>;
}

/**
 * @param deps.target the newest tenant migration of this build
 * @param deps.onChange called after each act that lets items begin: workers of this process look at once
 */
export function createRolloutActs(deps: {
  readonly registry: Kysely<Registry>;
  readonly target: string;
  readonly onChange?: () => void;
}): RolloutActs {
  const { registry, target, onChange = () => undefined } = deps;

  /** Runs an act in a transaction that has locked the rollout. */
  async function act(
    id: string,
    from: readonly RolloutState[],
    origin: AuditOrigin,
    work: (
      trx: Transaction<Registry>,
      rollout: RolloutRecord,
    ) => Promise<{ action: AuditAction; details?: Readonly<Record<string, string | number>>; after: RolloutRecord }>,
  ): Promise<RolloutRecord> {
    const changed = await refuseSecond(() =>
      registry.transaction().execute(async (trx) => {
        const rollout = await lockRollout(trx, id);
        if (!rollout) throw new AppError('not-found');
        if (!from.includes(rollout.state)) throw notPossible(rollout);
        const { action, details, after } = await work(trx, rollout);
        const entry = { ...origin, action, target: { kind: 'rollout', id } as const };
        await auditAct(trx, { ...entry, details: { state: rollout.state, ...details } });
        return after;
      }),
    );
    onChange();
    return changed;
  }

  return {
    async start(wish, origin, prepared = false) {
      const plan = planOf(wish);
      const started = await refuseSecond(() =>
        registry.transaction().execute(async (trx) => {
          const { current } = await countBehind(trx, target);
          const values = { target, plan, wave: firstWave(plan), prepared, tenantsCurrent: current };
          const rollout = await insertRollout(trx, { ...values, requestedBy: operatorIdOf(origin) ?? null });
          const behind = await insertItems(trx, rollout);
          if (behind === 0) throw new AppError('nothing-behind');
          const { canary, waves, budget } = plan;
          await auditAct(trx, {
            ...origin,
            action: 'rollout.started',
            target: { kind: 'rollout', id: rollout.id },
            details: {
              target,
              behind,
              waves: waves.join(', '),
              ...(canary && { canary: 'tenants' in canary ? `${canary.tenants.length} named` : canaryText(canary) }),
              ...(budget !== null && { budget }),
              ...(plan.pace === 'full' && { pace: 'full' }),
            },
          });
          return rollout;
        }),
      );
      onChange();
      return started;
    },

    pause: (id, origin) =>
      act(id, ['running'], origin, async (trx) => ({
        action: 'rollout.paused',
        after: await changeRollout(trx, id, { state: 'paused' }),
      })),

    resume: (id, origin, { budget, pace } = {}) =>
      act(id, ['paused', 'stopped'], origin, async (trx, { plan }) => ({
        action: 'rollout.resumed',
        details: { ...(budget !== undefined && { budget: budget ?? 'any' }), ...(pace !== undefined && { pace }) },
        after: await changeRollout(trx, id, {
          state: 'running',
          reason: null,
          plan: { ...plan, ...(budget !== undefined && { budget }), ...(pace !== undefined && { pace }) },
        }),
      })),

    retry: (id, origin) =>
      act(id, ['running', 'paused', 'stopped', 'done'], origin, async (trx, rollout) => {
        const retried = await retryFailedItems(trx, id, Math.min(rollout.wave, lastWave(rollout.plan)));
        if (retried === 0) throw new AppError('rollout-state', { detail: 'No tenant of the rollout has failed.' });
        const after = await changeRollout(trx, id, { state: 'running', reason: null });
        return { action: 'rollout.retried', details: { retried }, after };
      }),

    abort: (id, origin) =>
      act(id, ['running', 'paused', 'stopped'], origin, async (trx) => {
        const skipped = await skipPendingItems(trx, id, 'the rollout was aborted');
        return {
          action: 'rollout.aborted',
          details: { skipped },
          after: await changeRollout(trx, id, { state: 'aborted' }),
        };
      }),

    async find(id) {
      const rollout = await findRollout(registry, id);
      return rollout && { ...rollout, progress: progressOf(rollout, await countItems(registry, id)) };
    },

    list: (page) => listRollouts(registry, page),
    items: (page) => listRolloutItems(registry, page),
  };
}

/** @throws AppError `rollout-under-way` instead of a violation of the index that allows one */
async function refuseSecond<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (violatedUniqueConstraint(error) === UNDER_WAY_CONSTRAINT) throw new AppError('rollout-under-way');
    throw error;
  }
}

function notPossible({ state }: RolloutRecord): AppError {
  return new AppError('rollout-state', { detail: `The rollout is in the state "${state}".` });
}

function canaryText(canary: { readonly count: number } | { readonly percent: number }): string {
  return 'count' in canary ? String(canary.count) : `${canary.percent} %`;
}
