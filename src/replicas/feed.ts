// The feed: what this replica knows of the changes in the registry, and whether it is up to date. It asks ten times a second,
// and at once when a notification wakes it; one question for all that is remembered, however much that is.
//
//     live ── no question of the last 500 ms was answered ──→ silent ── nor one within 250 ms of waiting ──→ deaf
//     silent, deaf ── a question is answered ──→ live
//
// While it is live, what is remembered is believed. While it is silent, requests wait for the answer together. While it is deaf,
// they ask the databases. Notifications only wake it, and it does not listen while the server's queue of them is crowded. As long
// as a former build may run, which publishes by notifications alone, a feed that does not listen is not live.
import { openChannel, type ChannelOptions } from '../../db/driver/channel.js';
import type { ConnectionSettings } from '../../db/driver/client.js';
import { CROWDED } from '../../db/server/notify-queue.js';
import { CHANNEL, MAX_NEW_ROWS, READ_FEED, type FeedReading } from '../../db/registry/feed-rows.js';

export interface Feed {
  /** Whether every change is known that was committed more than half a second ago. */
  readonly live: boolean;
  /**
   * While the feed is silent, resolves when it is live again, or deaf: within 250 ms. All callers share one promise. Undefined
   * while it is live or deaf: then there is nothing to wait for.
   */
  caughtUp(): Promise<void> | undefined;
  /** The registry's time now; undefined while the feed is not live. */
  clock(): RegistryClock | undefined;
  /** How full the registry's NOTIFY queue was when it was asked last, from 0 to 1. */
  readonly queueUsage: number;
  close(): void;
}

/** The registry's time, in ms since 1970: not before `earliest`, and not after `latest`. */
export interface RegistryClock {
  /** Which server the clock is of. Times of another one are not compared with it. */
  readonly source: string;
  readonly earliest: number;
  readonly latest: number;
}

export interface FeedListener {
  /** A change that was committed. */
  change(message: string): void;
  /** A notification: of a change that comes by the feed too, unless a former build made it. */
  notification(message: string): void;
  /** Changes may have been missed. Also called when the feed begins. */
  gap(): void;
}

/** The feed listens from this usage (of 1) of the NOTIFY queue on downwards, and no longer from CROWDED on upwards. */
const QUIET = 0.1;

/** After this much silence (ms) the feed is not live. */
export const SILENCE = 500;

/** Between the beginnings of two questions (ms). */
const ASK_EVERY = 100;

/** The same when a notification wakes the feed, or a request waits for it. */
const ASK_AGAIN_AFTER = 5;

/** Longest wait (ms) of a request for a feed that is silent. */
const PATIENCE = 250;

/** A timer that fires this much (ms) too late says that this process stood still. */
const PAUSED = 50;

/**
 * A replica that was silent for longer (ms, by the registry's clock) takes it for a gap. Rows are deleted after twice this time
 * (src/replicas/feed-sweep.ts), and nothing is believed for longer than this without being loaded again.
 */
export const LONGEST_SILENCE = 30_000;

/** A registry's clock that goes back by more than this (ms) is another one. */
const CLOCK_TOLERANCE = 1_000;

interface Cursor extends Pick<FeedReading, 'snapshot' | 'clock' | 'source' | 'newest'> {
  /** When the question was asked and answered, on `performance.now`. */
  readonly askedAt: number;
  readonly answeredAt: number;
}

interface Wait {
  readonly over: Promise<void>;
  end(): void;
}

/** @param connection to the registry, direct and not through a pooler */
export function openFeed(connection: ConnectionSettings, listener: FeedListener, options: ChannelOptions = {}): Feed {
  let cursor: Cursor | undefined;
  let liveSince = -Infinity;
  let deaf = true;
  /** Whether notifications of a former build may have been missed: it listens since the last reading. */
  let beganToListen = false;
  let queueUsage = 0;
  let askedAt = -Infinity;
  let asking = false;
  let woken = false;
  let timer: NodeJS.Timeout | undefined;
  let wait: Wait | undefined;
  let closed = false;

  const hearing = {
    message: (text: string): void => {
      listener.notification(text);
      wake();
    },
    connected: wake,
  };
  const channel = openChannel(connection, CHANNEL, hearing, options);
  const isLive = (): boolean => performance.now() - liveSince < SILENCE;

  async function ask(): Promise<void> {
    if (asking || closed) return;
    asking = true;
    woken = false;
    askedAt = performance.now();
    const since = askedAt;
    try {
      const reading = await channel.ask<FeedReading>(READ_FEED, [cursor?.snapshot ?? null]);
      if (!reading) return;
      take(reading, since);
      await listenOrNot(reading);
    } catch {
      // Not heard, and so noticed where it matters.
    } finally {
      asking = false;
      askLater();
    }
  }

  function askLater(): void {
    clearTimeout(timer);
    if (closed) return;
    const pause = woken || wait ? ASK_AGAIN_AFTER : ASK_EVERY;
    timer = setTimeout(() => void ask(), Math.max(0, askedAt + pause - performance.now()));
    timer.unref();
  }

  function wake(): void {
    woken = true;
    if (!asking) askLater();
  }

  async function listenOrNot({ readOnly, queueUsage: usage }: FeedReading): Promise<void> {
    if (readOnly) channel.renew();
    else if (channel.listening && usage >= CROWDED) await channel.listen(false);
    else if (!channel.listening && usage < QUIET) {
      await channel.listen(true);
      beganToListen = true;
      wake();
    }
  }

  function take(reading: FeedReading, since: number): void {
    if (reading.readOnly || closed) return;
    const known = cursor;
    // Without a cursor, should a listener fail: then the next reading is a gap.
    cursor = undefined;
    const gap = known === undefined || isGap(known, reading) || (beganToListen && reading.former);
    const { snapshot, clock, source, newest } = reading;
    const next = { snapshot, clock, source, newest, askedAt: since, answeredAt: performance.now() };
    queueUsage = reading.queueUsage;
    beganToListen = false;
    if (gap) listener.gap();
    else for (const message of reading.messages) listener.change(message);
    cursor = next;
    if (reading.former && !channel.listening) return;
    liveSince = since;
    if (!isLive()) return;
    deaf = false;
    wait?.end();
  }

  /** Ends when the feed is live, or when the time is up; time in which this process stood still does not count. */
  function beginWait(): Wait {
    let end: () => void = () => undefined;
    const over = new Promise<void>((resolve) => (end = resolve));
    let deadline: NodeJS.Timeout | undefined;
    const begun: Wait = {
      over,
      end() {
        clearTimeout(deadline);
        wait = undefined;
        end();
      },
    };
    const expectEnd = (): void => {
      const due = performance.now() + PATIENCE;
      deadline = setTimeout(() => {
        if (performance.now() > due + PAUSED) {
          expectEnd();
          return;
        }
        // Timers run before sockets are read: the answer may be there.
        setImmediate(() => {
          if (wait !== begun) return;
          deaf = true;
          begun.end();
        });
      }, PATIENCE);
    };
    expectEnd();
    return begun;
  }

  void ask();
  return {
    get live() {
      return isLive();
    },
    caughtUp() {
      if (deaf || isLive()) return undefined;
      wake();
      return (wait ??= beginWait()).over;
    },
    clock() {
      if (!cursor || !isLive()) return undefined;
      const now = performance.now();
      const { source, clock } = cursor;
      return { source, earliest: clock + now - cursor.answeredAt, latest: clock + now - cursor.askedAt };
    },
    get queueUsage() {
      return queueUsage;
    },
    close() {
      closed = true;
      clearTimeout(timer);
      wait?.end();
      channel.close();
    },
  };
}

/** Whether rows between two readings may have been missed. */
function isGap(known: Cursor, reading: FeedReading): boolean {
  return (
    reading.source !== known.source ||
    reading.messages.length > MAX_NEW_ROWS ||
    reading.clock - known.clock > LONGEST_SILENCE ||
    reading.clock < known.clock - CLOCK_TOLERANCE ||
    // The registry went back to an earlier moment.
    reading.newest < known.newest ||
    // The row that was the newest is gone, and newer ones may be too.
    (known.newest > 0 && reading.oldest > known.newest)
  );
}
