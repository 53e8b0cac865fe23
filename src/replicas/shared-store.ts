// Redis, which replicas share and which may be away at any time. There is one connection in the background and a deadline on
// every command. No caller waits for a server that does not answer.
import { createHash } from 'node:crypto';
import type { Redis } from 'ioredis';
import { createClient } from './redis-client.js';
import {
  failureKind,
  failureKinds,
  isAway,
  isReply,
  LateError,
  reasonOf,
  wasNotSent,
  type FailureKind,
} from './redis-reasons.js';
import type { RedisSettings } from './redis-settings.js';

/** A Lua script, which is sent by its hash. Make it once, at the top of a file. */
export interface Script {
  readonly text: string;
  readonly sha: string;
}

/** Commands whose keys come right after the name, and that Redis 6.2 to 8 and Valkey have. */
export type Command = 'GET' | 'MGET' | 'SET' | 'UNLINK';

/**
 * What replicas share. A store is away at first, and becomes available when Redis answers a probe:
 *
 *     away ── a probe is answered ──────────────────────────────────→ available
 *     available ── no answer in time, connection lost, OOM, READONLY … ──→ away
 *
 * While the store is away, commands are refused at once, and a probe asks about every 250 ms. A command is never sent twice.
 */
export interface SharedStore {
  /** Whether the store would send a command instead of refusing it at once. */
  readonly available: boolean;
  /** The state of the store, for operators. */
  readonly state: SharedStoreState;
  /**
   * Runs a script. Keys get the installation's prefix.
   *
   * @throws SharedStoreError within the deadline, REDIS_TIMEOUT_MS
   */
  run<T>(script: Script, keys: readonly string[], args?: readonly (string | number)[]): Promise<T>;
  /**
   * Sends one command: its name, its keys, and its other arguments. Keys get the installation's prefix.
   *
   * @throws SharedStoreError within the deadline, REDIS_TIMEOUT_MS
   */
  send<T>(command: Command, keys: readonly string[], args?: readonly (string | number)[]): Promise<T>;
  /** Calls `listener` after each change of `available`. */
  onChange(listener: (available: boolean) => void): void;
}

export interface SharedStoreState {
  readonly available: boolean;
  /** Why the store is away. */
  readonly reason: string | undefined;
  /** How long (ms) the store has been available, or away. */
  readonly since: number;
}

/** A command failed. The message never contains the command, which may contain a secret. */
export class SharedStoreError extends Error {
  /** @param mayHaveActed whether Redis may have executed the command; false only if it was never sent */
  constructor(
    readonly reason: string,
    readonly mayHaveActed: boolean,
  ) {
    super(`Redis cannot be used: ${reason}`);
    this.name = 'SharedStoreError';
  }
}

export interface OpenedStore extends SharedStore {
  /** The connection, for @fastify/redis. */
  readonly client: Redis;
  /** Commands and connections that failed, by kind. Commands that were refused at once are not counted. */
  readonly failures: Readonly<Record<FailureKind, number>>;
  /** Resolves as soon as it is known whether Redis can be used. Never rejects. */
  readonly settled: Promise<void>;
  /** Ends the connection at once. Never rejects; commands in flight end with SharedStoreError. */
  close(): Promise<void>;
}

/** Time (ms) between a failure and the next probe, on average. */
const PROBE_AFTER = 250;

/** After this long (ms) without an answer the connection is opened again: its host may be gone for good. */
const REPLACE_AFTER = 2_000;

/** The most commands that wait for an answer; further commands are refused at once. */
const MAX_IN_FLIGHT = 10_000;

/** The probe writes: a full Redis and a Redis replica still answer reads. */
const PROBE = script("return redis.call('SET', KEYS[1], '1', 'PX', 1000)");

/** Makes a script with its hash. */
export function script(text: string): Script {
  return { text, sha: createHash('sha1').update(text).digest('hex') };
}

/**
 * Opens the store, which connects in the background until it is closed.
 *
 * @param options.installation the registry's id, in the prefix of all keys: two installations can share one Redis
 * @param options.onChange called after each change, with the reason if Redis is away, and again for each new reason
 */
export function openSharedStore(
  settings: RedisSettings,
  options: {
    installation: () => Promise<string>;
    onChange: (available: boolean, reason: string | undefined) => void;
  },
): OpenedStore {
  const { timeout } = settings;
  const client = createClient(settings);
  const listeners: ((available: boolean) => void)[] = [];
  let available = false;
  let reason: string | undefined;
  let since = performance.now();
  let prefix: string | undefined;
  let probe: NodeJS.Timeout | undefined;
  let asking = false;
  /** When Redis last sent an answer. */
  let answered = performance.now();
  let inFlight = 0;
  const failures = Object.fromEntries(failureKinds.map((kind) => [kind, 0])) as Record<FailureKind, number>;
  let closed = false;
  /** The reasons of the current absence that were already reported. */
  let reported = new Set<string>();
  let settle: () => void;
  const settled = new Promise<void>((resolve) => (settle = resolve));

  const change = (to: boolean): void => {
    if (available === to) return;
    available = to;
    since = performance.now();
    for (const listener of listeners) listener(to);
  };
  const away = (why: string): void => {
    if (closed) return;
    reason = why;
    change(false);
    settle();
    if (!reported.has(why)) {
      reported.add(why);
      options.onChange(false, why);
    }
    probe ??= setTimeout(() => void ask(), PROBE_AFTER * (0.5 + Math.random())).unref();
  };
  const back = (): void => {
    if (closed || available) return;
    reason = undefined;
    reported = new Set();
    change(true);
    settle();
    options.onChange(true, undefined);
  };

  /** Runs one probe at a time. A connection that is not ready asks as soon as it is ready. */
  const ask = async (): Promise<void> => {
    clearTimeout(probe);
    probe = undefined;
    if (asking || client.status !== 'ready') return;
    asking = true;
    try {
      prefix ??= `tenantry:${await options.installation()}:`;
      await exchange((isLate) => evaluate(PROBE, ['probe'], [], isLate));
      asking = false;
      back();
    } catch (error) {
      asking = false;
      away(error instanceof SharedStoreError ? error.reason : 'the registry does not say which installation this is');
      if (performance.now() - answered > REPLACE_AFTER) client.stream.destroy();
    }
  };

  client.on('ready', () => {
    answered = performance.now();
    void ask();
  });
  client.on('error', (error: unknown) => {
    failures[failureKind(error)] += 1;
    away(reasonOf(error, settings));
  });
  client.on('close', () => {
    away(reason ?? 'the connection was closed');
  });

  const keyOf = (key: string): string => `${prefix ?? ''}${key}`;

  /**
   * Sends the script by its hash, and with its text if Redis does not know the hash. In that case the first attempt did nothing.
   */
  const evaluate = (
    { text, sha }: Script,
    keys: readonly string[],
    args: readonly (string | number)[],
    isLate: () => boolean,
  ): Promise<unknown> => {
    const rest = [keys.length, ...keys.map(keyOf), ...args] as const;
    return client.call('EVALSHA', sha, ...rest).catch((error: unknown) => {
      if (isReply(error, 'NOSCRIPT') && !isLate()) return client.call('EVAL', text, ...rest);
      throw error;
    });
  };

  /** @throws SharedStoreError; if the failure shows that Redis is away, the store is away from then on */
  const exchange = async (work: Work): Promise<unknown> => {
    inFlight += 1;
    try {
      const answer = await answeredWithin(work, timeout);
      answered = performance.now();
      return answer;
    } catch (error) {
      failures[failureKind(error)] += 1;
      const why = reasonOf(error, settings);
      if (isReply(error)) answered = performance.now();
      if (isAway(error)) away(why);
      // After a failover this server is a replica, and its name leads to another server. So connect again.
      if (isReply(error, 'READONLY')) client.stream.destroy();
      throw new SharedStoreError(why, !wasNotSent(error));
    } finally {
      inFlight -= 1;
    }
  };
  const request = async <T>(work: Work): Promise<T> => {
    if (!available) throw new SharedStoreError(reason ?? 'it has not answered yet', false);
    if (inFlight >= MAX_IN_FLIGHT) throw new SharedStoreError('too many commands wait for an answer', false);
    return (await exchange(work)) as T;
  };

  return {
    client,
    settled,
    get available() {
      return available;
    },
    failures,
    get state() {
      return { available, reason, since: performance.now() - since };
    },
    run: <T>(given: Script, keys: readonly string[], args: readonly (string | number)[] = []) =>
      request<T>((isLate) => evaluate(given, keys, args, isLate)),
    send: <T>(command: Command, keys: readonly string[], args: readonly (string | number)[] = []) =>
      request<T>(() => client.call(command, ...keys.map(keyOf), ...args)),
    onChange(listener) {
      listeners.push(listener);
    },
    async close() {
      closed = true;
      available = false;
      reason = 'this process is closing';
      clearTimeout(probe);
      settle();
      client.disconnect();
      // A server that does not answer would keep the connection open.
      (client.stream as Redis['stream'] | undefined)?.destroy();
    },
  };
}

/** Sends something; `isLate` says whether the caller has stopped waiting for the answer. */
type Work = (isLate: () => boolean) => Promise<unknown>;

/** @throws LateError after `timeout` ms; the time in which this process stood still does not count against the server */
async function answeredWithin(work: Work, timeout: number): Promise<unknown> {
  let late = false;
  let timer: NodeJS.Timeout | undefined;
  const deadline = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      // After a pause of this process, timers run before sockets are read: the answer may already have arrived.
      setImmediate(() => {
        late = true;
        reject(new LateError());
      });
    }, timeout);
  });
  try {
    return await Promise.race([work(() => late), deadline]);
  } finally {
    clearTimeout(timer);
  }
}
