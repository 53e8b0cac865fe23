// The keys of a cache by group, in the order in which their values were loaded.

/** What to do with a key: take it, leave it, forget it until it is added again, or leave it and all keys after it. */
export type Choice = 'take' | 'skip' | 'forget' | 'stop';

/** Keys of one group that are looked at, at most. A tenant may have many users that are not active any more. */
const LOOKED_AT = 200;

export class ValueGroups {
  readonly #groups = new Map<string, Set<string>>();

  constructor(readonly groupOf: (key: string) => string | undefined) {}

  /** Adds a key behind all others of its group. */
  add(key: string): void {
    const group = this.groupOf(key);
    if (group === undefined) return;
    const keys = this.#groups.get(group);
    if (!keys) {
      this.#groups.set(group, new Set([key]));
      return;
    }
    keys.delete(key);
    keys.add(key);
  }

  remove(key: string): void {
    const group = this.groupOf(key);
    const keys = group === undefined ? undefined : this.#groups.get(group);
    if (group === undefined || !keys?.delete(key)) return;
    if (keys.size === 0) this.#groups.delete(group);
  }

  /** At most `most` keys of the group, from the one that was added longest ago. */
  choose(group: string, most: number, decide: (key: string) => Choice): string[] {
    const chosen: string[] = [];
    let looked = 0;
    for (const key of this.#groups.get(group) ?? []) {
      const choice = decide(key);
      if (choice === 'stop') break;
      if (choice === 'take') chosen.push(key);
      else if (choice === 'forget') this.remove(key);
      looked += 1;
      if (chosen.length === most || looked === LOOKED_AT) break;
    }
    return chosen;
  }
}
