// The presence of this replica in the registry: a row that says who serves, whether it is ready, and what it holds. GET /status
// of every replica reads it.
//
//     absent ── begin ──▶ present, written every BEAT_EVERY ── close ──▶ absent
//     present ── the process is gone, or cannot reach the registry ──▶ silent ── an hour ──▶ swept by another replica
//
// A beat that fails harms nobody: the next one writes the same again.
import { hostname } from 'node:os';
import type { Kysely } from 'kysely';
import { removeReplica, sweepReplicas, writeBeat, type Beat } from '../../db/registry/replica-rows.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { packageVersion } from '../lib/package-version.js';
import { within } from '../lib/deadline.js';
import type { ReplicaClock } from './replica-clock.js';

export interface Presence {
  /** True from the moment when the process begins to stop. */
  draining: boolean;
  /** What other replicas read of this one. */
  self(): Pick<Beat, 'id' | 'version' | 'schemaVersion' | 'node' | 'host' | 'servingFor' | 'clockSkew' | 'notReady'>;
  /** Writes the row now, and then every few seconds. A process that only runs a command does not call this. */
  begin(): void;
  /** Writes the row as soon as possible, because what it says has changed. */
  beat(): void;
  /** Removes the row. Never rejects. */
  close(): Promise<void>;
}

/** Time (ms) between the beginnings of two beats: 12 writes a minute. */
const BEAT_EVERY = 5_000;

/** Beats between two sweeps. */
const BEATS_PER_SWEEP = 12;

/** How long (ms) the end of the process waits until the row is gone. */
const CLOSE_DEADLINE = 1_000;

/** The longest name that DNS allows. */
const MAX_HOST = 253;

export function createPresence(deps: {
  /** A pool that is free while requests use all other connections. */
  readonly registry: Kysely<Registry>;
  readonly replicaId: string;
  readonly clock: Pick<ReplicaClock, 'compare' | 'problem'>;
  /** Why this replica should get no requests, besides that it is stopping; undefined if it is ready. */
  readonly notReady: () => string | undefined;
  readonly slotsUsed: () => Beat['slotsUsed'];
  /** The schema of tenants that this build makes. */
  readonly schemaVersion: string;
  /** The reports of the next beat. If it fails, `failed` is called, and they come again. */
  readonly reports: () => { readonly reports: Beat['reports']; readonly failed: () => void };
  /** The store of cached answers that this replica knows (src/replicas/read-cache/fleet-store.ts). */
  readonly cacheId?: () => string | undefined;
  /** How long (ms) this replica may acknowledge writes after its last beat, if no other beat succeeds. */
  readonly actsFor: number;
  /** The same of a replica of a former build, which does not say. */
  readonly formerActsFor: number;
  /** Called after each beat, with the time of performance.now() before it was sent. */
  readonly onBeat?: (sentAt: number) => void;
  /** Called before the row is removed: from then on no other replica waits for this one. */
  readonly onClose?: () => void;
  /** Called with the first of several failures in a row. */
  readonly onError: (error: unknown) => void;
}): Presence {
  const { registry, replicaId, clock } = deps;
  const version = packageVersion();
  const host = safeHost(hostname());
  let servingSince: number | undefined;
  let timer: NodeJS.Timeout | undefined;
  let beating: Promise<void> | undefined;
  let beats = 0;
  let failing = false;
  let draining = false;
  let closed = false;

  function self(): ReturnType<Presence['self']> {
    const clockSkew = clock.compare();
    return {
      id: replicaId,
      version,
      schemaVersion: deps.schemaVersion,
      node: process.versions.node,
      host,
      servingFor: servingSince === undefined ? 0 : performance.now() - servingSince,
      clockSkew,
      notReady: draining ? 'it is shutting down' : (deps.notReady() ?? clock.problem),
    };
  }

  async function write(): Promise<void> {
    const { reports, failed } = deps.reports();
    const sentAt = performance.now();
    try {
      await writeBeat(registry, {
        ...self(),
        slotsUsed: deps.slotsUsed(),
        cacheId: deps.cacheId?.(),
        actsFor: deps.actsFor,
        reports,
      });
      if (!closed) deps.onBeat?.(sentAt);
      if (beats % BEATS_PER_SWEEP === 0) await sweepReplicas(registry, replicaId, deps.formerActsFor);
      beats += 1;
      failing = false;
    } catch (error) {
      failed();
      if (!failing && !closed) deps.onError(error);
      failing = true;
    }
  }

  /** One beat at a time. Each ends, because the pool has a deadline for every wait. */
  function beat(): void {
    if (closed) return;
    clearTimeout(timer);
    timer = setTimeout(beat, BEAT_EVERY).unref();
    beating ??= write().finally(() => {
      beating = undefined;
    });
  }

  /** Others should know at once, and a beat that is under way does not say it. */
  function beatAgain(): void {
    if (servingSince !== undefined) void (beating ?? Promise.resolve()).then(beat);
  }

  return {
    get draining() {
      return draining;
    },
    set draining(value) {
      draining = value;
      beatAgain();
    },
    self,
    beat: beatAgain,

    begin() {
      servingSince ??= performance.now();
      beat();
    },

    async close() {
      closed = true;
      deps.onClose?.();
      clearTimeout(timer);
      if (servingSince === undefined) return;
      const removed = (async () => {
        // A beat that is under way would write the row again.
        await beating;
        await removeReplica(registry, replicaId);
      })();
      await within(removed, CLOSE_DEADLINE, () => new Error('late')).catch(() => undefined);
    },
  };
}

/** A host name that any page can show: letters, digits, dots, dashes and underscores. */
export function safeHost(name: string): string {
  return name.slice(0, MAX_HOST).replaceAll(/[^\w.-]/g, '_') || 'unknown';
}
