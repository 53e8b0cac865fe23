// A store in a real Redis. Its scripts read a clock that a test moves, instead of the clock of Redis.
import { randomUUID } from 'node:crypto';
import { parseRedisUrl } from '../../src/replicas/redis-settings.js';
import { openSharedStore, script, type SharedStore } from '../../src/replicas/shared-store.js';
import type { RedisServer } from './redis.js';

/** A separate, empty store, and its clock. */
export interface Alone {
  readonly store: SharedStore;
  readonly now: () => number;
  readonly pass: (ms: number) => void;
}

export interface TimedStore {
  /** A store with separate counts. */
  alone(): Alone;
  close(): Promise<void>;
}

/** Resolves when Redis can be used. Close it. */
export async function openTimedStore({ url }: Pick<RedisServer, 'url'>): Promise<TimedStore> {
  const settings = parseRedisUrl(url, { timeout: 10_000, production: false }, []);
  if (!settings) throw new Error(`${url} is not usable`);
  const installation = randomUUID();
  const store = openSharedStore(settings, { installation: async () => installation, onChange: () => undefined });
  while (!store.available) await new Promise((resolve) => setTimeout(resolve, 10));
  return {
    alone() {
      const prefix = randomUUID();
      let time = 1e6;
      const timed: SharedStore = {
        get available() {
          return store.available;
        },
        get state() {
          return store.state;
        },
        onChange: (listener) => {
          store.onChange(listener);
        },
        send: (command, keys, args) => store.send(command, keys, args),
        run: ({ text }, keys, args = []) => {
          const clocked = text.replace("redis.call('TIME')", 'cjson.decode(table.remove(ARGV))');
          const parts = JSON.stringify([Math.floor(time / 1_000), (time % 1_000) * 1_000]);
          return store.run(
            script(clocked),
            keys.map((key) => `${prefix}:${key}`),
            [...args, parts],
          );
        },
      };
      return { store: timed, now: () => time, pass: (ms) => (time += ms) };
    },
    close: () => store.close(),
  };
}
