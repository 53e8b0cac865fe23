// What one replica tells the others: that a tenant, its roles, a user or an operator changed, over the registry's
// LISTEN/NOTIFY. What a process remembers of them is right for as long as it hears; when it hears nothing, it must ask.
import { openChannel, SILENCE, type ChannelOptions } from '../db/channel.js';
import type { ConnectionSettings } from '../db/client.js';
import { within } from '../db/deadline.js';
import { DatabaseFault } from '../db/errors.js';
import { isQueueFull } from '../db/notify-queue.js';

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

export interface Events {
  /** Whether changes are heard and told: a heartbeat went the whole way within the last half second. */
  readonly live: boolean;
  /** Calls `listener` for each change, also for those that this process publishes. */
  subscribe(listener: (change: Change) => void): void;
  /**
   * Tells every replica; here it is effective at once. To be awaited before the act behind it is acknowledged. A full NOTIFY
   * queue delays this by a second at most: then every replica hears nothing and asks, see `REFUSED_FOR`.
   *
   * @throws DatabaseFault `unavailable` where it could not be told in time; it is told as soon as that is possible again
   */
  publish(change: Change): Promise<void>;
  close(): Promise<void>;
}

/** The channel's name; the registry's triggers NOTIFY it as well. */
const CHANNEL = 'tenantry';

/** Longest (ms) that an act waits for its invalidation to be told. */
const PUBLISH_DEADLINE = 2_000;

/** Between two attempts to tell (ms). */
const RETRY_EVERY = 100;

/** How long (ms) a value is believed without asking while changes are not heard. */
const BELIEVED_IN_SILENCE = 250;

/**
 * A change counts as told when a full NOTIFY queue (54000) refused it for this long (ms), at every attempt. Heartbeats are sent
 * only into a queue that is less than half full (db/channel.ts), and nobody fills half a queue, 4 GB, between two attempts. So no
 * replica has heard a heartbeat since the first refusal: each asks, and what it had loaded before is no longer believed.
 */
const REFUSED_FOR = SILENCE + BELIEVED_IN_SILENCE;

/** Changes that wait for the registry to come back; beyond them one `any` stands for all. */
const MAX_UNTOLD = 10_000;

/**
 * How long (ms) a value that changes are told of is believed without asking: while they are heard half a minute, so that
 * even a change that nobody told is noticed; otherwise so short that, with the silence before, it is within a second.
 */
export function believedFor({ live }: Pick<Events, 'live'>): number {
  return live ? 30_000 : BELIEVED_IN_SILENCE;
}

interface Untold {
  readonly text: string;
  readonly told: () => void;
  /** Since when (on `performance.now`) a full queue has refused it at every attempt. */
  refusedSince?: number | undefined;
}

/** @param connection to the registry, direct and not through a pooler */
export function openEvents(connection: ConnectionSettings, options: ChannelOptions = {}): Events {
  const listeners: ((change: Change) => void)[] = [];
  let untold: Untold[] = [];
  let telling = false;
  let closed = false;

  const dispatch = (change: Change): void => {
    for (const listener of listeners) listener(change);
  };
  const listener = {
    message: (text: string): void => {
      const change = decode(text);
      if (change) dispatch(change);
    },
    connected: (): void => {
      dispatch({ kind: 'any' });
    },
  };
  const channel = openChannel(connection, CHANNEL, listener, options);

  /** Goes on until nothing is untold; one loop, however many publish. */
  async function tell(): Promise<void> {
    if (telling) return;
    telling = true;
    while (untold.length > 0 && !closed) {
      const batch = untold;
      untold = [];
      try {
        await channel.publish([...new Set(batch.map(({ text }) => text))]);
        for (const { told } of batch) told();
      } catch (error) {
        noteRefusal(batch, isQueueFull(error));
        untold = [...batch, ...untold];
        await new Promise((resolve) => setTimeout(resolve, RETRY_EVERY).unref());
      }
    }
    telling = false;
  }

  return {
    get live() {
      return channel.live;
    },
    subscribe: (listener) => void listeners.push(listener),

    async publish(change) {
      dispatch(change);
      const told = new Promise<void>((resolve) => {
        // Whoever waited for the forgotten ones has long had its answer.
        if (untold.length >= MAX_UNTOLD) untold = [{ text: encode({ kind: 'any' }), told: () => undefined }];
        untold.push({ text: encode(change), told: resolve });
      });
      void tell();
      await within(
        told,
        PUBLISH_DEADLINE,
        () => new DatabaseFault('unavailable', 'the change is made, and the other replicas could not be told yet'),
      );
    },

    close() {
      closed = true;
      return channel.close();
    },
  };
}

/** Acknowledges what a full queue has refused for long enough. It is told all the same, as soon as that is possible. */
function noteRefusal(batch: readonly Untold[], queueFull: boolean): void {
  const now = performance.now();
  for (const item of batch) {
    item.refusedSince = queueFull ? (item.refusedSince ?? now) : undefined;
    if (now - (item.refusedSince ?? now) >= REFUSED_FOR) item.told();
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
