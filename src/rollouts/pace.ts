// How fast a rollout goes on a server. At the pace `gentle` it gives way while tenants are served there: one database at a time, with a
// rest after each, so that requests hardly become slower. While nobody is served, it goes as fast as at the pace `full`.
import { setTimeout as sleep } from 'node:timers/promises';
import type { PlaceToClaim } from '../../db/registry/rollouts/rollout-claims.js';
import { countBusySessions } from '../../db/server/server-load.js';
import type { FleetServer } from './fleet-servers.js';

/** So many sessions of tenants that ran a statement within the last second (ms) are busy ones. */
const BUSY_FROM = 3;
const WITHIN = 1_000;

/** The rest after a database is so many times as long as the work in it, and at most so long (ms): work may be a wait for locks. */
const REST = 3;
const LONGEST_REST = 250;

export class Pace {
  /** Places. */
  #busy = new Set<string>();
  isGentle = true;

  /** Looks how busy the servers are. One that gives no answer keeps its pace. @param servers by place */
  async look(servers: ReadonlyMap<string, Pick<FleetServer, 'cluster'>>): Promise<void> {
    await Promise.all(
      (this.isGentle ? [...servers] : []).map(async ([place, { cluster }]) => {
        const sessions = await countBusySessions(cluster, WITHIN).catch(() => undefined);
        if (sessions === undefined) return;
        if (sessions >= BUSY_FROM) this.#busy.add(place);
        else this.#busy.delete(place);
      }),
    );
  }

  /** How many databases of each server are migrated at once, by all workers together. */
  placesOn(servers: ReadonlyMap<string, Pick<FleetServer, 'atOnce'>>): PlaceToClaim[] {
    return [...servers].map(([place, { atOnce }]) => ({
      place,
      atOnce: this.#slows(place) ? Math.min(1, atOnce) : atOnce,
    }));
  }

  /** Rests after a database. @param worked ms */
  async rest(place: string, worked: number, signal: AbortSignal): Promise<void> {
    if (!this.#slows(place)) return;
    await sleep(Math.min(LONGEST_REST, worked * REST), undefined, { signal }).catch(() => undefined);
  }

  #slows(place: string): boolean {
    return this.isGentle && this.#busy.has(place);
  }
}
