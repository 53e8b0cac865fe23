// The trial of one breaker, from suspicion or opening to closing: when it probes, and what it concludes from a probe. The trial
// ends when the breaker closes (src/connections/breakers.ts).
//
// The probing of a trial, from here:
//
//     waiting ── the pause is over ──▶ probing
//     waiting ── the pause is over, and no request came for IDLE_AFTER ──▶ resting
//     resting ── a request is refused ──▶ probing
//     probing ── the server answered ──▶ ended
//     probing ── failed, or no answer for PROBE_PATIENCE ──▶ waiting, or resting
//     probing ── the same, and the suspicion is too old ──▶ ended
//     waiting, probing, resting ── the breaker closed ──▶ ended
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { answersProbe } from './breaker-blame.js';
import type { Evidence } from './breaker-evidence.js';
import type { BreakerDeps, BreakerScope, BreakerTenant } from './breaker-types.js';

/*
 * How soon a breaker closes after its server is back, in the worst case. Probes begin at most LONGEST_PAUSE apart, measured from
 * beginning to beginning. A probe that hangs delays nothing, because the trial gives it up earlier (PROBE_PATIENCE <
 * LONGEST_PAUSE). The last failed probe began before the server was back, so the next probe begins within 800 ms of that time. So
 * a server that answers within 200 ms is in use again within a second.
 */
/**
 * The pause (ms) before a probe is random: between SHORTEST_PAUSE and a ceiling that doubles from FIRST_PAUSE to LONGEST_PAUSE.
 */
const SHORTEST_PAUSE = 25;
const FIRST_PAUSE = 100;
export const LONGEST_PAUSE = 800;
/** After this long (ms) without an answer a probe no longer delays the next probe. A later answer still counts. */
const PROBE_PATIENCE = 500;

/** A breaker that has refused no request for this long (ms) is not probed. */
const IDLE_AFTER = 60_000;

/** The breaker that a trial belongs to, and what the trial reports. It reports nothing after its end. */
export interface TrialCase extends Required<Pick<BreakerDeps, 'probe' | 'now' | 'random'>> {
  readonly scope: BreakerScope;
  readonly key: string;
  readonly neighbour: BreakerDeps['neighbour'];
  readonly evidence: Pick<Evidence, 'isOld'>;
  /** The breaker should close: a probe succeeded, or the suspicion is too old. */
  readonly onOver: (reason: string) => void;
  /** A probe of a suspected cluster has waited too long for its answer. */
  readonly onSilence: () => void;
  /** A probe of a suspected cluster failed. */
  readonly onFailure: (tenant: BreakerTenant, fault: DatabaseFault) => void;
}

export class Trial {
  /** False while the cluster is suspected only. */
  isOpen = false;
  /** When the breaker opened; before that, when the cluster was suspected. */
  at: number;
  /** When a request was last refused, or counted towards the suspicion. */
  askedAt: number;
  probes = 0;
  /** Whether a probe was not answered within its patience. */
  probeWaits = false;
  /** When the last probe began while the cluster was suspected only. */
  suspectProbedAt: number | undefined;
  /** The number of the probe that is under way and not given up; 0 if there is none. */
  #probing = 0;
  /** When the probe under way began, or when the next probe begins; undefined while the trial rests. */
  #probeAt: number | undefined;
  /** Starts the next probe, or ends the patience with the probe under way. */
  #timer: NodeJS.Timeout | undefined;
  #ended = false;

  /**
   * @param tenant the tenant of the last request that failed or was refused
   * @param reason the fault that opened the breaker, or the last fault that made the cluster suspected
   */
  constructor(
    private readonly trialCase: TrialCase,
    public tenant: BreakerTenant,
    public reason: string,
  ) {
    this.at = this.askedAt = trialCase.now();
  }

  get isProbing(): boolean {
    return this.#probing > 0;
  }

  /** Milliseconds until the next probe; undefined while a probe is under way, and while the trial rests. */
  get nextProbeIn(): number | undefined {
    if (this.isProbing || this.#probeAt === undefined) return undefined;
    return Math.max(0, this.#probeAt - this.trialCase.now());
  }

  /** Begins to probe a suspected cluster after a pause (ms). */
  begin(pause: number): void {
    this.#probeAt = this.trialCase.now() + pause;
    if (pause === 0) void this.#probe();
    else this.#timer = setTimeout(() => void this.#probe(), pause).unref();
  }

  /** Records another fault, which becomes the reason of the suspicion. */
  suspect(tenant: BreakerTenant, reason: string): void {
    this.tenant = tenant;
    this.reason = reason;
    this.askedAt = this.trialCase.now();
  }

  /** The breaker opens. */
  open(tenant: BreakerTenant, reason: string): void {
    this.suspect(tenant, reason);
    this.isOpen = true;
    this.at = this.askedAt;
    if (this.isProbing) return;
    clearTimeout(this.#timer);
    this.#plan(this.at);
  }

  /** A request is refused. @returns milliseconds after which the outcome of a probe is known */
  refuse(tenant: BreakerTenant): number {
    const time = this.trialCase.now();
    this.tenant = tenant;
    this.askedAt = time;
    if (this.#probeAt === undefined) void this.#probe();
    return (this.#probeAt ?? time) + PROBE_PATIENCE - time;
  }

  /** The breaker closes. */
  end(): void {
    this.#ended = true;
    clearTimeout(this.#timer);
  }

  /** @param from when the pause begins: when the last probe began, not when it ended */
  #plan(from: number): void {
    const { now, random, evidence, onOver } = this.trialCase;
    const time = now();
    if (!this.isOpen && evidence.isOld(time)) {
      onOver('nothing to suspect');
      return;
    }
    if (time - this.askedAt > IDLE_AFTER) {
      this.#probeAt = undefined;
      this.#timer = undefined;
      return;
    }
    const ceiling = Math.min(FIRST_PAUSE * 2 ** this.probes, LONGEST_PAUSE);
    const pause = SHORTEST_PAUSE + random() * (ceiling - SHORTEST_PAUSE);
    this.#probeAt = Math.max(time, from + pause);
    this.#timer = setTimeout(() => void this.#probe(), this.#probeAt - time).unref();
  }

  async #probe(): Promise<void> {
    const { scope, key, probe, neighbour, now, onOver, onFailure, onSilence } = this.trialCase;
    const begun = now();
    this.probes += 1;
    const number = this.probes;
    this.#probing = number;
    this.#probeAt = begun;
    if (!this.isOpen) this.suspectProbedAt = begun;
    const goOn = (): void => {
      if (this.#ended || this.#probing !== number) return;
      clearTimeout(this.#timer);
      this.#probing = 0;
      this.#plan(begun);
    };
    const losePatience = (): void => {
      this.probeWaits = true;
      if (!this.#ended && !this.isOpen) onSilence();
      goOn();
    };
    this.#timer = setTimeout(losePatience, PROBE_PATIENCE).unref();
    const tenant = (this.isOpen ? undefined : neighbour?.(this.tenant)) ?? this.tenant;
    try {
      await probe({ scope, key, tenant });
    } catch (error) {
      if (!answersProbe(scope, error)) {
        if (!this.#ended && !this.isOpen && error instanceof DatabaseFault) onFailure(tenant, error);
        goOn();
        return;
      }
    }
    if (!this.#ended) onOver('a probe succeeded');
  }
}
