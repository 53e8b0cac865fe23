// Which servers a worker of rollouts leaves alone for now. A server that does not answer is asked again after a pause, which doubles:
//
//     usable ── does not answer ──> away ── the pause is over ──> asked ── answers ──> usable
//                                                                   └── does not ──> away, for longer
//     usable ── its reserve is in use ──> busy ── a short pause ──> usable
import { pingServer } from '../../db/server/cluster-inspection.js';
import type { Place } from '../clusters/provisioners.js';
import { placeOf } from '../clusters/server-looks.js';
import type { FleetServer } from './fleet-servers.js';

export interface PauseTimes {
  /** The pause (ms) doubles from the first to the longest. */
  readonly first: number;
  readonly longest: number;
  /** Pause (ms) of a server whose reserve is in use. */
  readonly busy: number;
}

export const PAUSE_TIMES: PauseTimes = { first: 1_000, longest: 30_000, busy: 500 };

interface Paused {
  /** On `performance.now`. */
  until: number;
  pause: number;
  /** When it was found to be away; undefined if it is only busy. */
  readonly awaySince: number | undefined;
}

export interface RolloutServers {
  /** Enters the server at a place. @throws why it cannot be entered */
  at(place: Place): Promise<FleetServer> | FleetServer;
}

export class ServerPauses {
  readonly #paused = new Map<string, Paused>();

  /** @param onAway called with the error each time that a server is found to be away */
  constructor(
    private readonly servers: RolloutServers,
    private readonly times: PauseTimes,
    private readonly onAway: (place: Place, error: unknown) => void,
  ) {}

  /** The server at a place, `host:port`, if it can be used now. */
  async usable(name: string): Promise<FleetServer | undefined> {
    const paused = this.#paused.get(name);
    if (paused && performance.now() < paused.until) return undefined;
    try {
      const server = await this.servers.at(placeOf(name));
      if (paused?.awaySince !== undefined) await pingServer(server.cluster);
      this.#paused.delete(name);
      return server;
    } catch (error) {
      this.setAway(name, error);
      return undefined;
    }
  }

  /** A server does not answer. */
  setAway(name: string, error: unknown): void {
    const before = this.#paused.get(name);
    const now = performance.now();
    const pause = Math.min(this.times.longest, before?.awaySince === undefined ? this.times.first : before.pause * 2);
    const until = now + pause * (0.8 + 0.2 * Math.random());
    this.#paused.set(name, { until, pause, awaySince: before?.awaySince ?? now });
    this.onAway(placeOf(name), error);
  }

  /** A server answers, and gives no connection. */
  busy(name: string): void {
    if (this.#paused.has(name)) return;
    this.#paused.set(name, { until: performance.now() + this.times.busy, pause: 0, awaySince: undefined });
  }

  /** The servers that are away. */
  away(): string[] {
    return [...this.#paused].filter(([, { awaySince }]) => awaySince !== undefined).map(([name]) => name);
  }

  isPaused(name: string): boolean {
    return performance.now() < (this.#paused.get(name)?.until ?? -Infinity);
  }

  /** For how long (ms) a server has been away; 0 if it is not. */
  awayFor(name: string): number {
    const since = this.#paused.get(name)?.awaySince;
    return since === undefined ? 0 : performance.now() - since;
  }
}
