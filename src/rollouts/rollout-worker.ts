// A worker of rollouts: claims items, migrates their tenants, and records the ends. Any number of workers share a rollout: replicas
// of the rollout's build, and the command. src/rollouts/rollout-acts.ts has the states of a rollout; those of an item are:
//
//     pending ── claimed ──> running ── migrated ──> done
//                              ├── purged, or migrated by a newer build ──> skipped
//                              ├── failed for the first time, or the server is away ──> pending
//                              ├── failed for the second time, or another history ──> failed ── retry ──> pending
//                              └── its worker is dead ──> pending
//     pending ── the rollout is aborted ──> skipped
//     done ── the database was restored from an older backup, before the rollout has ended ──> pending
//
// All of a worker's items have its name, which is also the name of an advisory lock that the worker holds. When the process dies, or
// its connection is lost, the lock is free, and any worker makes the items pending. Another attempt at a database that is migrated
// finds that in the database's own record, changes nothing, and the item is done.
//
// What a worker keeps in memory is bounded by the places on the servers: a claim takes a few items for each. The items of a place run
// one after the other. Those that have not begun are given back when the rollout halts.
import { setTimeout as sleep } from 'node:timers/promises';
import type { HeldLock, LockSession } from '../../db/registry/lock-session.js';
import {
  claimItems,
  countFailedItems,
  deferItems,
  freeDeadItems,
  listOpenPlaces,
  rolloutLock,
  rolloutWorkerLock,
  settleItems,
  withoutWaitForDisk,
  type ClaimedItem,
} from '../../db/registry/rollouts/rollout-claims.js';
import { followMovedTenants } from '../../db/registry/rollouts/rollout-item-rows.js';
import { changeRollout, lockRollout, type RolloutRecord } from '../../db/registry/rollouts/rollout-rows.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { attemptItem, type Attempted } from './item-attempt.js';
import type { FleetServer } from './fleet-servers.js';
import type { MigratingDeps } from './migrate-tenant.js';
import { Pace } from './pace.js';
import { lastWave } from './rollout-plan.js';
import { PAUSE_TIMES, ServerPauses, type PauseTimes, type RolloutServers } from './server-pauses.js';
import { createWaveEnds, type WaveEndDeps } from './wave-ends.js';

/**
 * Why a worker stopped:
 *
 * - `halted`: the rollout does not run any more: it was paused, stopped or aborted, or is done.
 * - `unreached`: only items on servers that are away are left.
 * - `closed`: the signal was given.
 * - `lost`: the worker's lock is lost, or could not be taken.
 */
export type WorkEnd = 'halted' | 'unreached' | 'closed' | 'lost';

export interface RolloutWorker {
  /**
   * Works on a rollout until it ends, or this worker can do nothing more. Running items come to their end.
   *
   * @throws DatabaseFault if the registry does not answer for long
   */
  work(rollout: Pick<RolloutRecord, 'id'>, signal: AbortSignal): Promise<WorkEnd>;
}

export interface RolloutWorkerDeps extends Omit<MigratingDeps, 'installation'>, Omit<WaveEndDeps, 'target'> {
  readonly lockSession: LockSession;
  /** The replica's id, or the name of the command. */
  readonly worker: string;
  readonly servers: RolloutServers;
  readonly installation: () => Promise<string>;
  /**
   * Whether the worker stops when only items on servers that are away are left. Otherwise it asks these servers again and again.
   * An item of such a server waits in the last wave.
   */
  readonly givesUp?: boolean;
  /** Called when an attempt at an item has ended, after it is recorded; if it failed, before. Not if the item was released. */
  readonly onItem?: (attempted: Attempted) => void;
  /** Called each time that a server is found to be away. */
  readonly onAway?: (place: { readonly host: string; readonly port: number }, error: unknown) => void;
  /** Called when this worker has stopped a rollout, because too many tenants have failed. */
  readonly onStopped?: (rollout: RolloutRecord) => void;
  /** Called after each error of the registry, or of the work between two waves. The worker tries again. */
  readonly onError?: (error: unknown, context: { readonly rolloutId: string }) => void;
  readonly pauseTimes?: PauseTimes;
}

/** Time (ms) between two looks at the registry while items run, or run elsewhere. */
const LOOK_EVERY = 1_000;

/** Items of a server that has been away for so long (ms) are put off until the last wave. */
const PUT_OFF_AFTER = 10_000;

/** The registry may be away for so long (ms), or the worker gives up. */
const REGISTRY_PATIENCE = 60_000;

/** After an error, the pause (ms) doubles from LOOK_EVERY to this. */
const LONGEST_PAUSE = 30_000;

/** What one transaction found. */
interface Turn {
  /** Undefined if the rollout was removed. */
  readonly rollout: RolloutRecord | undefined;
  readonly claimed: readonly ClaimedItem[];
}

let workers = 0;

export function createRolloutWorker(deps: RolloutWorkerDeps): RolloutWorker {
  const { registry, lockSession, onItem, onStopped, onError, onAway = () => undefined, givesUp = false } = deps;
  const target = latestVersion(deps.migrations);
  const waveEnds = createWaveEnds({ ...deps, target });

  async function underLock(id: string, worker: string, held: HeldLock, signal: AbortSignal): Promise<WorkEnd> {
    const migrating: MigratingDeps = { ...deps, installation: await deps.installation() };
    const pauses = new ServerPauses(deps.servers, deps.pauseTimes ?? PAUSE_TIMES, onAway);
    const pace = new Pace();
    /** The items that run. */
    const running = new Map<string, Promise<void>>();
    /** Items that have ended, and are not recorded yet. */
    let ended: Attempted[] = [];
    /** How often an item was released. */
    const releases = new Map<string, number>();
    let ring = (): void => undefined;
    /** Whether what has ended is to be recorded now, and not only with the next look. */
    let due = false;
    /** Items that have not begun are given back. */
    let halted = false;
    /** The number of the next slot. */
    let nextSlot = 0;
    let lookedAt = -Infinity;
    let answeredAt = performance.now();

    /** Runs the items of a slot, one after the other. */
    function start(items: readonly ClaimedItem[], server: FleetServer): void {
      let before = Promise.resolve();
      for (const [index, item] of items.entries()) {
        before = before.then(() => runOne(item, server, index === items.length - 1));
        running.set(item.tenantId, before);
      }
    }

    async function runOne(item: ClaimedItem, server: FleetServer, isLast: boolean): Promise<void> {
      const { tenantId, place, tenant } = item;
      const begins = !halted && !signal.aborted && !held.lost && !pauses.isPaused(place);
      const attempt = (): Promise<Attempted> => attemptItem(migrating, server, item, releases.get(tenantId) ?? 0);
      const released = { tenantId, tenant, outcome: 'released', error: null, renews: false, duration: 0 } as const;
      const attempted: Attempted = (begins ? await pace.run(place, signal, attempt) : undefined) ?? released;
      if (attempted.outcome !== 'released') releases.delete(tenantId);
      else if (attempted.server?.is === 'busy') {
        releases.set(tenantId, (releases.get(tenantId) ?? 0) + 1);
        pauses.busy(place);
      } else if (attempted.server?.is === 'away') pauses.setAway(place, attempted.server.error);
      if (attempted.outcome === 'again' || attempted.outcome === 'failed') onItem?.(attempted);
      running.delete(tenantId);
      ended.push(attempted);
      // A failure may stop the rollout.
      if (!isLast && attempted.outcome === 'done') return;
      due = true;
      ring();
    }

    /** Records what has ended, and claims what may run. */
    async function turn(servers: ReadonlyMap<string, FleetServer>, frees: boolean): Promise<Turn> {
      const settled = [...ended];
      due = false;
      const { stopped, ...found } = await registry.transaction().execute(async (trx) => {
        const rollout = await lockRollout(trx, id);
        if (!rollout) return { rollout, claimed: [] };
        const failed = await settleItems(trx, { id, worker, version: target }, settled);
        if (failed > 0 && rollout.state === 'running' && rollout.plan.budget !== null) {
          const all = await countFailedItems(trx, id);
          if (all > rollout.plan.budget) {
            const reason = `${all} of its tenants have failed, which is more than its budget of ${rollout.plan.budget}`;
            const stopped = await changeRollout(trx, id, { state: 'stopped', reason });
            return { rollout: stopped, claimed: [], stopped };
          }
        }
        // One that has ended meanwhile is recorded in the next turn.
        const mine = [...running.keys(), ...ended.map(({ tenantId }) => tenantId)];
        if (frees) await freeDeadItems(trx, worker, mine);
        const away = frees ? pauses.away() : [];
        if (away.length > 0) await followMovedTenants(trx, id, away);
        const claims = rollout.state === 'running' && rollout.prepared && rollout.target === target;
        if (!settled.some(({ renews }) => renews)) await withoutWaitForDisk(trx);
        const asked = { id, wave: rollout.wave, worker, from: nextSlot };
        return { rollout, claimed: claims ? await claimItems(trx, asked, pace.placesOn(servers)) : [] };
      });
      // Without an answer they are recorded again, which changes nothing.
      ended = ended.filter((each) => !settled.includes(each));
      answeredAt = performance.now();
      for (const each of settled) if (each.outcome === 'done' || each.outcome === 'skipped') onItem?.(each);
      halted = found.rollout?.state !== 'running';
      nextSlot = Math.max(nextSlot, ...found.claimed.map(({ slot }) => slot + 1));
      for (const [place, server] of servers) {
        const here = found.claimed.filter((item) => item.place === place);
        for (const slot of new Set(here.map((item) => item.slot)))
          start(
            here.filter((item) => item.slot === slot),
            server,
          );
      }
      if (stopped) onStopped?.(stopped);
      return found;
    }

    /** Waits until an item has ended, or for so long (ms). */
    async function pause(ms: number): Promise<void> {
      if (due) return;
      const timer = new AbortController();
      const rung = new Promise<void>((resolve) => (ring = resolve));
      const late = sleep(ms, undefined, { signal: AbortSignal.any([timer.signal, signal]) }).catch(() => undefined);
      // When the signal was given, only running items are waited for.
      await (signal.aborted && running.size > 0 ? rung : Promise.race([rung, late]));
      timer.abort();
    }

    /** The servers with open items that can be used now. `open`: places with open items. */
    async function usable(wave: number): Promise<{ open: readonly string[]; servers: Map<string, FleetServer> }> {
      const open = await listOpenPlaces(registry, id, wave);
      const found = await Promise.all(open.map(async (place) => [place, await pauses.usable(place)] as const));
      const servers = new Map(found.flatMap(([place, server]) => (server ? [[place, server] as const] : [])));
      await pace.look(servers);
      return { open, servers };
    }

    /** Nothing of the wave can be claimed now. @returns why the worker ends, if it does */
    async function idle(rollout: RolloutRecord): Promise<WorkEnd | undefined> {
      const { open, servers } = rollout.prepared ? await usable(rollout.wave) : { open: [], servers: new Map() };
      if (open.length === 0) {
        const ran = await lockSession.attempt(rolloutLock(id), () => waveEnds.advance(rollout, signal));
        if (!ran) await pause(LOOK_EVERY);
        return undefined;
      }
      if (servers.size === 0 && open.every((place) => pauses.awayFor(place) > 0)) {
        const last = lastWave(rollout.plan);
        const putOff = open.filter((place) => givesUp || pauses.awayFor(place) > PUT_OFF_AFTER);
        if (rollout.wave < last && putOff.length > 0) {
          const { wave } = rollout;
          await registry.transaction().execute(async (trx) => {
            const now = await lockRollout(trx, id);
            if (now?.state === 'running' && now.wave === wave) await deferItems(trx, { id, wave, last }, putOff);
          });
          return undefined;
        }
        if (givesUp) return 'unreached';
      }
      await pause(LOOK_EVERY);
      return undefined;
    }

    let servers = new Map<string, FleetServer>();
    let wave = -1;
    let errors = 0;
    for (;;) {
      const stops = signal.aborted || held.lost;
      try {
        const frees = performance.now() - lookedAt >= LOOK_EVERY;
        if (frees && wave >= 0 && !stops) ({ servers } = await usable(wave));
        if (frees) lookedAt = performance.now();
        // A server that failed since is not claimed for.
        const now = new Map([...servers].filter(([place]) => !pauses.isPaused(place)));
        const { rollout, claimed } = await turn(stops ? new Map<string, FleetServer>() : now, frees && !stops);
        pace.isGentle = rollout?.plan.pace !== 'full';
        if (rollout?.prepared && rollout.wave !== wave && !stops) {
          wave = rollout.wave;
          lookedAt = -Infinity;
          continue;
        }
        if (running.size === 0 && ended.length === 0 && claimed.length === 0) {
          if (held.lost) return 'lost';
          if (stops) return 'closed';
          if (rollout?.state !== 'running' || rollout.target !== target) return 'halted';
          const end = await idle(rollout);
          if (end) return end;
          lookedAt = -Infinity;
        } else await pause(LOOK_EVERY);
        errors = 0;
      } catch (error) {
        onError?.(error, { rolloutId: id });
        if (held.lost && running.size === 0) return 'lost';
        if (performance.now() - answeredAt > REGISTRY_PATIENCE && running.size === 0) throw error;
        await sleep(Math.min(LONGEST_PAUSE, LOOK_EVERY * 2 ** errors), undefined, { signal }).catch(() => undefined);
        errors += 1;
        if (signal.aborted && running.size === 0) return 'closed';
      }
    }
  }

  return {
    async work({ id }, signal) {
      // A lock that was lost may still be held, by a session that is not gone yet. So each name is used once.
      const worker = `${deps.worker}.${(workers += 1)}`;
      const ran = await lockSession.attempt(rolloutWorkerLock(worker), (held) => underLock(id, worker, held, signal));
      return ran?.result ?? 'lost';
    },
  };
}
