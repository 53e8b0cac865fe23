// Publishes and receives changes between replicas: a tenant, its roles, a user or an operator changed. Changes are rows in the
// registry, which every replica reads (src/replicas/feed.ts). Cached values of a process are valid while its feed is live.
import type { Kysely } from 'kysely';
import { insertChanges } from '../../db/registry/feed-rows.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import type { ChannelOptions } from '../../db/driver/channel.js';
import type { ConnectionSettings } from '../../db/driver/client.js';
import { within } from '../lib/deadline.js';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { CONNECT_TIMEOUT } from '../../db/driver/pool/pool-types.js';
import { isQueueFull } from '../../db/server/notify-queue.js';
import { LONGEST_SILENCE, openFeed, type Feed } from './feed.js';

/** A change of something that replicas cache. */
export type Change =
  | { readonly kind: 'tenant'; readonly tenantId: string }
  | { readonly kind: 'user'; readonly tenantId: string; readonly userId: string }
  /** The permissions of a tenant's roles changed. A replica of an older build does not know this kind, and caches no roles. */
  | { readonly kind: 'roles'; readonly tenantId: string }
  | { readonly kind: 'operator'; readonly operatorId: string }
  | { readonly kind: 'cluster'; readonly clusterId: string }
  /** A session has ended. `tenantId` is undefined for an operator's session. */
  | { readonly kind: 'session'; readonly sessionId: string; readonly tenantId: string | undefined }
  /** The fleet caches answers in another store (src/replicas/read-cache/fleet-store.ts). A trigger adds it. */
  | { readonly kind: 'cache-store' }
  /** The answers of a tenant are cached, or are not. A trigger adds it. */
  | { readonly kind: 'tenant-cache'; readonly tenantId: string }
  /** Another process of PostgreSQL answers at a place (src/replicas/read-cache/place-servers.ts). A trigger adds it. */
  | { readonly kind: 'cache-server' }
  /** Changes may have been missed: every cached value may be old. */
  | { readonly kind: 'any' };

export interface EventStats extends Pick<Feed, 'lag' | 'gaps'> {
  /** Changes that were read from the feed, by kind. */
  readonly changes: Readonly<Record<Change['kind'], number>>;
  /** Changes that wait to be published. */
  readonly unpublished: number;
}

/** The feed provides `live`, `caughtUp`, `clock`, `answering` and `queueUsage`. */
export interface Events extends Pick<Feed, 'live' | 'caughtUp' | 'clock' | 'answering' | 'queueUsage'> {
  /** Calls `listener` for each change, including changes that this process publishes. */
  subscribe(listener: (change: Change) => void): void;
  /**
   * Publishes a change to every replica; in this process it is effective at once. Await this before acknowledging the act that
   * made the change.
   *
   * @throws DatabaseFault `unavailable` if the change could not be published in time; it is published as soon as possible
   */
  publish(change: Change): Promise<void>;
  stats(): EventStats;
  close(): void;
}

/**
 * The longest (ms) that an act waits until its change is published: the publisher may have to open its connection, and then has
 * 1 s for its statement.
 */
const PUBLISH_DEADLINE = CONNECT_TIMEOUT + 1_000;

/** Time (ms) between two attempts to publish. */
const RETRY_EVERY = 100;

/** While the feed is not live, a cached value is valid for this long (ms). */
const BELIEVED_IN_SILENCE = 250;

/** The most changes that wait for the registry to come back. Beyond that, a single `any` replaces them all. */
const MAX_UNTOLD = 10_000;

/** The last word of a notification that repeats a row. Older builds read only the first three words. */
const IN_THE_FEED = 'feed';

/**
 * How long (ms) a cached value is valid without asking the database. It is half a minute while the feed is live, so that a change
 * that was not published is noticed too. Otherwise it is short: together with the silence before, a change is effective within a
 * second.
 */
export function believedFor({ live }: Pick<Events, 'live'>): number {
  return live ? LONGEST_SILENCE : BELIEVED_IN_SILENCE;
}

interface Untold {
  readonly text: string;
  readonly told: () => void;
}

/**
 * @param connection a direct connection to the registry, without a pooler, for the feed
 * @param publisher the registry with a connection of its own, because changes must not wait for requests
 */
export function openEvents(
  connection: ConnectionSettings,
  publisher: Kysely<Registry>,
  options: ChannelOptions = {},
): Events {
  const listeners: ((change: Change) => void)[] = [];
  let untold: Untold[] = [];
  /** The number of changes that are being written. */
  let inFlight = 0;
  const changes = {
    tenant: 0,
    user: 0,
    roles: 0,
    operator: 0,
    cluster: 0,
    session: 0,
    'cache-store': 0,
    'tenant-cache': 0,
    'cache-server': 0,
    any: 0,
  };
  let telling = false;
  let closed = false;

  const dispatch = (change: Change | undefined): void => {
    if (change) for (const listener of listeners) listener(change);
  };
  const listener = {
    change: (text: string): void => {
      const change = decode(text);
      if (change) changes[change.kind] += 1;
      dispatch(change);
    },
    notification: (text: string): void => {
      if (!text.endsWith(` ${IN_THE_FEED}`)) dispatch(decode(text));
    },
    gap: (): void => {
      dispatch({ kind: 'any' });
    },
  };
  const feed = openFeed(connection, listener, options);

  /** Publishes until no change waits. One loop serves all callers of `publish`. */
  async function tell(): Promise<void> {
    if (telling) return;
    telling = true;
    while (untold.length > 0 && !closed) {
      const batch = untold;
      untold = [];
      inFlight = batch.length;
      try {
        await insert(publisher, [...new Set(batch.map(({ text }) => text))]);
        for (const { told } of batch) told();
      } catch {
        untold = [...batch, ...untold];
        inFlight = 0;
        await new Promise((resolve) => setTimeout(resolve, RETRY_EVERY).unref());
      }
    }
    inFlight = 0;
    telling = false;
  }

  return {
    get live() {
      return feed.live;
    },
    get answering() {
      return feed.answering;
    },
    get queueUsage() {
      return feed.queueUsage;
    },
    caughtUp: () => feed.caughtUp(),
    clock: () => feed.clock(),
    subscribe: (listener) => void listeners.push(listener),

    async publish(change) {
      dispatch(change);
      const told = new Promise<void>((resolve) => {
        // The callers that published the replaced changes have already received their answer.
        if (untold.length >= MAX_UNTOLD) untold = [{ text: encode({ kind: 'any' }), told: () => undefined }];
        untold.push({ text: encode(change), told: resolve });
      });
      void tell();
      await within(
        told,
        PUBLISH_DEADLINE,
        () =>
          new DatabaseFault('unavailable', 'the change is stored, but the other replicas could not be notified yet'),
      );
    },

    stats: () => ({
      lag: feed.lag,
      gaps: feed.gaps,
      changes: { ...changes },
      unpublished: untold.length + inFlight,
    }),

    close() {
      closed = true;
      feed.close();
    },
  };
}

/** Inserts the rows, and notifies so that they are read at once. A full queue of notifications must not delay a change. */
async function insert(registry: Kysely<Registry>, texts: readonly string[]): Promise<void> {
  const messages = texts.map((row) => {
    const [kind = '', first = '', second = ''] = row.split(' ');
    return { row, notification: `${kind} ${first} ${second} ${IN_THE_FEED}` };
  });
  try {
    await insertChanges(registry, messages, true);
  } catch (error) {
    if (!isQueueFull(error)) throw error;
    await insertChanges(registry, messages, false);
  }
}

function encode(change: Change): string {
  const { kind, ...ids } = change;
  return [kind, ...Object.values(ids).filter((id) => id !== undefined)].join(' ');
}

/** Undefined for a change that this build does not know: a newer replica may publish other kinds. */
function decode(text: string): Change | undefined {
  const [kind, first = '', second = ''] = text.split(' ');
  if (kind === 'any') return { kind };
  if (kind === 'tenant') return { kind, tenantId: first };
  if (kind === 'user') return { kind, tenantId: first, userId: second };
  if (kind === 'roles') return { kind, tenantId: first };
  if (kind === 'operator') return { kind, operatorId: first };
  if (kind === 'cluster') return { kind, clusterId: first };
  if (kind === 'cache-store' || kind === 'cache-server') return { kind };
  if (kind === 'tenant-cache') return { kind, tenantId: first };
  if (kind === 'session') return { kind, sessionId: first, tenantId: second === '' ? undefined : second };
  return undefined;
}
