// What replicas tell each other: that a tenant, its roles, a user or an operator changed. Changes are rows in the registry, which
// every replica reads (src/replicas/feed.ts). What a process remembers is valid while its feed is live.
import type { Kysely } from 'kysely';
import { insertChanges } from '../../db/registry/feed-rows.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import type { ChannelOptions } from '../../db/driver/channel.js';
import type { ConnectionSettings } from '../../db/driver/client.js';
import { within } from '../lib/deadline.js';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { isQueueFull } from '../../db/server/notify-queue.js';
import { LONGEST_SILENCE, openFeed, type Feed } from './feed.js';

/** Something that replicas remember has changed. */
export type Change =
  | { readonly kind: 'tenant'; readonly tenantId: string }
  | { readonly kind: 'user'; readonly tenantId: string; readonly userId: string }
  /** What the roles of a tenant permit. A replica of a build that does not know this kind remembers nothing of it either. */
  | { readonly kind: 'roles'; readonly tenantId: string }
  | { readonly kind: 'operator'; readonly operatorId: string }
  | { readonly kind: 'cluster'; readonly clusterId: string }
  /** A session has ended: a user's, or an operator's where there is no tenant. */
  | { readonly kind: 'session'; readonly sessionId: string; readonly tenantId: string | undefined }
  /** Changes may have been missed: whatever is remembered may be old. */
  | { readonly kind: 'any' };

/** `live`, `caughtUp`, `clock` and `queueUsage` are the feed's. */
export interface Events extends Pick<Feed, 'live' | 'caughtUp' | 'clock' | 'queueUsage'> {
  /** Calls `listener` for each change, also for those that this process publishes. */
  subscribe(listener: (change: Change) => void): void;
  /**
   * Publishes a change to every replica; here it is effective at once. To be awaited before the act behind it is acknowledged.
   *
   * @throws DatabaseFault `unavailable` if it could not be published in time; it is published as soon as that is possible again
   */
  publish(change: Change): Promise<void>;
  close(): void;
}

/** Longest (ms) that an act waits for its change to be published. */
const PUBLISH_DEADLINE = 2_000;

/** Between two attempts to publish (ms). */
const RETRY_EVERY = 100;

/** How long (ms) a value is believed without asking while the feed is not live. */
const BELIEVED_IN_SILENCE = 250;

/** Changes that wait for the registry to come back; beyond them one `any` stands for all. */
const MAX_UNTOLD = 10_000;

/** The last word of a notification that repeats a row. Former builds read no further than the third. */
const IN_THE_FEED = 'feed';

/**
 * How long (ms) a value that is told of changes is believed without asking: half a minute while the feed is live, so that even a
 * change that nothing published is noticed; otherwise so short that, with the silence before, a change is effective within a
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
 * @param connection to the registry, direct and not through a pooler: for the feed
 * @param publisher the registry, with a connection of its own: changes must not wait for requests
 */
export function openEvents(
  connection: ConnectionSettings,
  publisher: Kysely<Registry>,
  options: ChannelOptions = {},
): Events {
  const listeners: ((change: Change) => void)[] = [];
  let untold: Untold[] = [];
  let telling = false;
  let closed = false;

  const dispatch = (change: Change | undefined): void => {
    if (change) for (const listener of listeners) listener(change);
  };
  const listener = {
    change: (text: string): void => {
      dispatch(decode(text));
    },
    notification: (text: string): void => {
      if (!text.endsWith(` ${IN_THE_FEED}`)) dispatch(decode(text));
    },
    gap: (): void => {
      dispatch({ kind: 'any' });
    },
  };
  const feed = openFeed(connection, listener, options);

  /** Goes on until nothing is untold; one loop, however many publish. */
  async function tell(): Promise<void> {
    if (telling) return;
    telling = true;
    while (untold.length > 0 && !closed) {
      const batch = untold;
      untold = [];
      try {
        await insert(publisher, [...new Set(batch.map(({ text }) => text))]);
        for (const { told } of batch) told();
      } catch {
        untold = [...batch, ...untold];
        await new Promise((resolve) => setTimeout(resolve, RETRY_EVERY).unref());
      }
    }
    telling = false;
  }

  return {
    get live() {
      return feed.live;
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
        // The callers behind the forgotten ones have had their answer long ago.
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

    close() {
      closed = true;
      feed.close();
    },
  };
}

/** Adds the rows, and notifies so that they are read at once. A full queue of notifications holds up no change. */
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

/** Undefined for what this build does not know: a newer replica may tell more. */
function decode(text: string): Change | undefined {
  const [kind, first = '', second = ''] = text.split(' ');
  if (kind === 'any') return { kind };
  if (kind === 'tenant') return { kind, tenantId: first };
  if (kind === 'user') return { kind, tenantId: first, userId: second };
  if (kind === 'roles') return { kind, tenantId: first };
  if (kind === 'operator') return { kind, operatorId: first };
  if (kind === 'cluster') return { kind, clusterId: first };
  if (kind === 'session') return { kind, sessionId: first, tenantId: second === '' ? undefined : second };
  return undefined;
}
