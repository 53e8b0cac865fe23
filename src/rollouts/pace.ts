// How fast a worker goes on a server. At the pace `gentle` it gives way while tenants are served there: one database at a time, with a
// rest after each. While no tenant is served, it goes as fast as at the pace `full`.
import { setTimeout as sleep } from 'node:timers/promises';
import type { PlaceToClaim } from '../../db/registry/rollouts/rollout-claims.js';
import { servesTenants } from '../../db/server/server-load.js';
import type { FleetServer } from './fleet-servers.js';

/** A server is busy while a tenant was served within this time (ms). */
const WITHIN = 1_000;

/** Longest wait (ms) for the first answer of a server. */
const FIRST_LOOK = 500;

/** The rest after a database is min(LONGEST_REST, REST × duration), in ms. Part of a long duration is a wait for locks. */
const REST = 3;
const LONGEST_REST = 250;

type Server = Pick<FleetServer, 'cluster' | 'atOnce'>;

export class Pace {
  isGentle = true;
  /** Places where no tenant is served. A place that is not known is busy. */
  readonly #idle = new Set<string>();
  /** Places whose answer is awaited. */
  readonly #looking = new Set<string>();
  /** How many databases of a place this worker is in. */
  readonly #inside = new Map<string, number>();

  /** Begins to look at the servers, and waits only for a server's first answer. @param servers by place */
  async look(servers: ReadonlyMap<string, Server>): Promise<void> {
    if (!this.isGentle) return;
    const first: Promise<void>[] = [];
    for (const [place, { cluster }] of servers) {
      // No answer since the look before.
      if (this.#looking.has(place)) this.#idle.delete(place);
      else {
        const isKnown = this.#inside.has(place);
        if (!isKnown) this.#inside.set(place, 0);
        this.#looking.add(place);
        const looking = this.#lookAt(place, cluster);
        if (!isKnown) first.push(looking);
      }
    }
    if (first.length > 0) await Promise.race([Promise.all(first), sleep(FIRST_LOOK, undefined, { ref: false })]);
  }

  async #lookAt(place: string, cluster: Server['cluster']): Promise<void> {
    const isBusy = await servesTenants(cluster, WITHIN).catch(() => true);
    if (isBusy) this.#idle.delete(place);
    else this.#idle.add(place);
    this.#looking.delete(place);
  }

  /** How many databases of each server are migrated at once, by all workers together. */
  placesOn(servers: ReadonlyMap<string, Server>): PlaceToClaim[] {
    return [...servers].map(([place, { atOnce }]) => ({
      place,
      atOnce: this.#slows(place) ? Math.min(1, atOnce) : atOnce,
    }));
  }

  /**
   * Works in a database, and then rests.
   *
   * @param work resolves with its duration (ms)
   * @returns undefined if the server is busy, and this worker is in another database of it
   */
  async run<T extends { readonly duration: number }>(
    place: string,
    signal: AbortSignal,
    work: () => Promise<T>,
  ): Promise<T | undefined> {
    const inside = this.#inside.get(place) ?? 0;
    if (inside > 0 && this.#slows(place)) return undefined;
    this.#inside.set(place, inside + 1);
    try {
      const done = await work();
      const rest = Math.min(LONGEST_REST, REST * done.duration);
      if (this.#slows(place)) await sleep(rest, undefined, { signal }).catch(() => undefined);
      return done;
    } finally {
      this.#inside.set(place, (this.#inside.get(place) ?? 1) - 1);
    }
  }

  #slows(place: string): boolean {
    return this.isGentle && !this.#idle.has(place);
  }
}
