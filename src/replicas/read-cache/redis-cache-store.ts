// Cached answers in the Redis that replicas share.
import { randomUUID } from 'node:crypto';
import { script, type OpenedStore } from '../shared-store.js';
import {
  CacheStoreError,
  isDirtyVersion,
  MARK_LASTS,
  VERSION_LASTS,
  type CacheStore,
  type Found,
} from './cache-store.js';
import { watchRedisServer, type ConnectedServer, type RedisConnection } from './redis-server.js';

/** Milliseconds by the clock of Redis. */
const NOW = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)`;

/** Keys: version, marks. Arguments: a version for a scope that has none, its time to live (ms). Answer: the version, or ''. */
const BEGIN = script(`${NOW}
local version = redis.call('GET', KEYS[1])
if version then return string.sub(version, 1, 1) == '!' and '' or version end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
if redis.call('ZCARD', KEYS[2]) > 0 then return '' end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
`);

/** Keys: version, entry. Arguments: the expected version, the value, its time to live (ms). Answer: 1 if it was stored. */
const FILL = script(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[3])
return 1
`);

/**
 * Keys: version and marks of each scope. Arguments: the token, how long (ms) it lasts. A full Redis refuses the first command of
 * a script that writes, if it needs memory, and no later one. So the script deletes first: the write goes on.
 */
const MARK = script(`${NOW}
for i = 1, #KEYS, 2 do
  redis.call('DEL', KEYS[i])
  redis.call('SET', KEYS[i], '!' .. ARGV[1], 'PX', ARGV[2])
  redis.call('ZADD', KEYS[i + 1], now + ARGV[2], ARGV[1])
  redis.call('PEXPIRE', KEYS[i + 1], ARGV[2])
end
return 1
`);

/** Keys: version and marks of each scope. Arguments: the token. It only deletes, which a full Redis allows too. */
const RELEASE = script(`
for i = 1, #KEYS, 2 do
  redis.call('DEL', KEYS[i])
  redis.call('ZREM', KEYS[i + 1], ARGV[1])
end
return 1
`);

/**
 * Keys: version and marks of each scope, and an entry of the first. Arguments: the token, a version, the value, its time to live
 * (ms), and the version's. Answer: 1 if the entry may be stored. A full Redis releases all the same.
 */
const RELEASE_AND_FILL = script(`
local isLast = redis.call('GET', KEYS[1]) == '!' .. ARGV[1]
for i = 1, #KEYS - 1, 2 do
  redis.call('DEL', KEYS[i])
  redis.call('ZREM', KEYS[i + 1], ARGV[1])
end
if not isLast or redis.call('ZCARD', KEYS[2]) > 0 then return 0 end
redis.pcall('SET', KEYS[1], ARGV[2], 'PX', ARGV[5])
redis.pcall('SET', KEYS[#KEYS], ARGV[2] .. ' ' .. ARGV[3], 'PX', ARGV[4])
return 1
`);

/** The most look-ups in one command: 16 of the longest entries are 1 MiB, which must arrive within REDIS_TIMEOUT_MS. */
export const MOST_AT_ONCE = 16;

/** Commands with look-ups that wait for their answer, at most. Further look-ups wait for one of them. */
export const MOST_UNDER_WAY = 2;

/** Look-ups that wait for a command, at most. Further ones ask the database. */
const MOST_WAITING = 1_000;

export interface RedisCacheOptions {
  /** The number of the database that the connection uses. */
  readonly database: number;
  /** Time to live (ms) of an entry. */
  readonly ttl: number;
  /** While Redis uses more bytes than this, nothing is filled: counts and sessions need their room. */
  readonly bytes: number;
  readonly onError: (error: unknown) => void;
}

export function createRedisCacheStore(
  store: OpenedStore,
  { database, ttl, bytes, onError }: RedisCacheOptions,
): CacheStore {
  const client: RedisConnection = {
    get status() {
      return store.client.status;
    },
    info: (section) => store.client.info(section),
    on: (event, listener) => store.client.on(event, listener),
  };
  const server = watchRedisServer(client, database, onError);

  /** Runs a command on the connection whose server is known. A command that may have been sent on another one has failed. */
  async function on<T>(identity: string, work: (server: ConnectedServer) => Promise<T>): Promise<T> {
    const known = server.current;
    if (known?.identity !== identity) throw new CacheStoreError('the server is another one');
    const answer = await work(known);
    if (server.current !== known) throw new CacheStoreError('the connection is another one');
    return answer;
  }
  const waiting: Lookup[] = [];
  let underWay = 0;
  let flushing = false;
  const keysOf = (scopes: readonly string[]): string[] =>
    scopes.flatMap((scope) => [versionKey(scope), markKey(scope)]);

  /** Asks for what waits, in few commands: one turn of the event loop reads many requests. */
  function flush(): void {
    flushing = false;
    while (waiting.length > 0 && underWay < MOST_UNDER_WAY) {
      const identity = waiting[0]?.identity ?? '';
      const end = waiting.slice(0, MOST_AT_ONCE).findIndex((each) => each.identity !== identity);
      ask(identity, waiting.splice(0, end === -1 ? MOST_AT_ONCE : end));
    }
  }

  function ask(identity: string, asked: readonly Lookup[]): void {
    underWay += 1;
    const keys = asked.flatMap((each) => each.keys);
    on(identity, () => store.send<(string | null)[]>('MGET', keys))
      .then(
        (found) => {
          for (const [index, { resolve }] of asked.entries()) resolve(foundIn(found[2 * index], found[2 * index + 1]));
        },
        (error: unknown) => {
          for (const { reject } of asked) reject(error);
        },
      )
      .finally(() => {
        underWay -= 1;
        flush();
      });
  }

  return {
    get identity() {
      return store.available ? server.current?.identity : undefined;
    },

    lookup: (identity, scope, key) =>
      new Promise((resolve, reject) => {
        if (waiting.length >= MOST_WAITING) {
          reject(new CacheStoreError('too many look-ups wait'));
          return;
        }
        waiting.push({ identity, keys: [versionKey(scope), entryKey(key)], resolve, reject });
        if (flushing || underWay >= MOST_UNDER_WAY) return;
        flushing = true;
        setImmediate(flush);
      }),

    begin: (identity, scope) =>
      on(identity, async ({ usedMemory }) => {
        // A version is kept for each row that was asked for, also if there is no such row.
        if (usedMemory > bytes) return undefined;
        const keys = [versionKey(scope), markKey(scope)];
        const version = await store.run<string>(BEGIN, keys, [randomUUID(), ttl + VERSION_LASTS]);
        return version === '' ? undefined : version;
      }),

    fill: (identity, scope, version, key, value, age) =>
      on(identity, async ({ usedMemory }) => {
        const left = Math.floor(ttl - age);
        if (usedMemory > bytes || left <= 0) return false;
        const keys = [versionKey(scope), entryKey(key)];
        return (await store.run<number>(FILL, keys, [version, value, left])) === 1;
      }),

    mark: (identity, scopes, token) =>
      on(identity, async () => {
        await store.run(MARK, keysOf(scopes), [token, MARK_LASTS]);
      }),

    release: (identity, scopes, token, written) =>
      on(identity, async ({ usedMemory }) => {
        const keys = keysOf(scopes);
        const left = written ? Math.floor(ttl - written.age) : 0;
        if (!written || usedMemory > bytes || left <= 0) {
          await store.run(RELEASE, keys, [token]);
          return false;
        }
        const given = [token, randomUUID(), written.value, left, ttl + VERSION_LASTS];
        return (await store.run<number>(RELEASE_AND_FILL, [...keys, entryKey(written.entry)], given)) === 1;
      }),

    close() {
      server.close();
    },
  };
}

interface Lookup {
  readonly identity: string;
  readonly keys: readonly string[];
  readonly resolve: (found: Found) => void;
  readonly reject: (error: unknown) => void;
}

/** @param entry its version, a space, and its value */
function foundIn(version: string | null | undefined, entry: string | null | undefined): Found {
  if (version === null || version === undefined || isDirtyVersion(version))
    return { version: undefined, value: undefined };
  return { version, value: entry?.startsWith(`${version} `) ? entry.slice(version.length + 1) : undefined };
}

function versionKey(scope: string): string {
  return `cache:version:${scope}`;
}

function markKey(scope: string): string {
  return `cache:marks:${scope}`;
}

function entryKey(key: string): string {
  return `cache:entry:${key}`;
}
