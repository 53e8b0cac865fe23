// The feed: what this replica knows of the changes in the registry, and whether it is up to date. It asks the registry ten times
// a second, and at once when a notification wakes it. One question covers all cached values, however many there are. If the
// registry is so far away that an answer takes longer than the time between two questions, up to MOST_UNDER_WAY are under way:
// otherwise the feed would be silent before each answer.
//
//     live ── no question of the last 500 ms was answered ──→ silent ── nor one within 250 ms of waiting ──→ deaf
//     silent, deaf ── a question is answered ──→ live
//
// While the feed is live, cached values are valid. While it is silent, requests wait together for the answer. While it is deaf,
// they query the databases. Notifications only wake the feed, and it does not listen while the server's notification queue is
// crowded. An older build publishes by notifications alone. So while an older build may run, a feed that does not listen is not
// live.
import { openChannel, type ChannelOptions } from '../../db/driver/channel.js';
import type { ConnectionSettings } from '../../db/driver/client.js';
import { CROWDED } from '../../db/server/notify-queue.js';
import { CHANNEL, MAX_NEW_ROWS, READ_FEED, type FeedReading } from '../../db/registry/feed-rows.js';

export interface Feed {
  /** Whether this replica knows every change that was committed more than half a second ago. */
  readonly live: boolean;
  /**
   * While the feed is silent, a promise that resolves when the feed is live again or deaf, within 250 ms. All callers share one
   * promise. Undefined while the feed is live or deaf: then there is nothing to wait for.
   */
  caughtUp(): Promise<void> | undefined;
  /** The registry's time now; undefined while the feed is not live. */
  clock(): RegistryClock | undefined;
  /** Whether the registry answers and accepts writes: its last answer said so, and is less than half a second old. */
  readonly answering: boolean;
  /** How full the registry's NOTIFY queue was at the last answer, from 0 to 1. */
  readonly queueUsage: number;
  /** Seconds since the newest answer; undefined before the first one. */
  readonly lag: number | undefined;
  /** How often changes may have been missed since the first answer. */
  readonly gaps: number;
  close(): void;
}

/** The registry's time, in ms since 1970: not before `earliest`, and not after `latest`. */
export interface RegistryClock {
  /** The server whose clock this is. Times of different servers must not be compared. */
  readonly source: string;
  readonly earliest: number;
  readonly latest: number;
}

export interface FeedListener {
  /** A change that was committed. */
  change(message: string): void;
  /** A notification. Its change comes by the feed too, unless an older build made the notification. */
  notification(message: string): void;
  /** Changes may have been missed. Also called when the feed begins. */
  gap(): void;
}

/** The feed begins to listen when less than this part (of 1) of the NOTIFY queue is used. It stops at CROWDED. */
const QUIET = 0.1;

/** After this much silence (ms) the feed is not live. */
export const SILENCE = 500;

/** Time (ms) between the beginnings of two questions. */
const ASK_EVERY = 100;

/** The same time when a notification wakes the feed, or a request waits for it, and no question is under way. */
const ASK_AGAIN_AFTER = 5;

/** The most questions under way, on the one connection: enough to be live if a round trip takes less than 400 ms. */
const MOST_UNDER_WAY = 4;

/** The longest (ms) that a request waits for a silent feed. */
const PATIENCE = 250;

/** A timer that fires this much (ms) too late shows that this process stood still. */
const PAUSED = 50;

/**
 * A replica that was silent for longer than this (ms, by the registry's clock) assumes a gap. Rows are deleted after twice this
 * time (src/replicas/feed-sweep.ts), and no cached value is valid for longer than this.
 */
export const LONGEST_SILENCE = 30_000;

/** If a registry's clock goes back by more than this (ms), it is another clock. */
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

/** @param connection a direct connection to the registry, without a pooler */
export function openFeed(connection: ConnectionSettings, listener: FeedListener, options: ChannelOptions = {}): Feed {
  let cursor: Cursor | undefined;
  let liveSince = -Infinity;
  let deaf = true;
  /** Whether notifications of an older build may have been missed, because the feed began to listen after the last reading. */
  let beganToListen = false;
  let queueUsage = 0;
  let answeredAt: number | undefined;
  let gaps = 0;
  let askedAt = -Infinity;
  let underWay = 0;
  /** How long (ms) the fastest answer on this connection took. A slow answer alone proves a busy registry, and not a far one. */
  let fastest = Infinity;
  /** Numbers of the rows that the newest readings found, oldest first: the next reading may begin before them. */
  let found: ReadonlySet<number>[] = [];
  let changingListen = false;
  let woken = false;
  let timer: NodeJS.Timeout | undefined;
  let wait: Wait | undefined;
  let closed = false;

  const hearing = {
    message: (text: string): void => {
      listener.notification(text);
      wake();
    },
    connected: (): void => {
      fastest = Infinity;
      wake();
    },
  };
  const channel = openChannel(connection, CHANNEL, hearing, options);
  const isLive = (): boolean => performance.now() - liveSince < SILENCE;

  /** A reading continues from the newest cursor, so questions overlap only after the first answer on a connection. */
  const isFar = (): boolean => fastest !== Infinity && fastest > ASK_EVERY;
  const mayAsk = (): boolean => underWay < (isFar() ? MOST_UNDER_WAY : 1);

  async function ask(): Promise<void> {
    if (!mayAsk() || closed) return;
    underWay += 1;
    woken = false;
    askedAt = performance.now();
    const since = askedAt;
    const base = cursor;
    if (isFar()) askLater();
    try {
      const reading = await channel.ask<FeedReading>(READ_FEED, [base?.snapshot ?? null]);
      if (!reading) return;
      fastest = Math.min(fastest, performance.now() - since);
      take(reading, since, base);
      await listenOrNot(reading);
    } catch {
      // A feed without an answer is no longer live, which its callers see. So no error is reported here.
    } finally {
      underWay -= 1;
      askLater();
    }
  }

  function askLater(): void {
    clearTimeout(timer);
    if (closed) return;
    const pause = (woken || wait) && underWay === 0 ? ASK_AGAIN_AFTER : ASK_EVERY;
    timer = setTimeout(() => void ask(), Math.max(0, askedAt + pause - performance.now()));
    timer.unref();
  }

  function wake(): void {
    woken = true;
    if (mayAsk()) askLater();
  }

  async function listenOrNot({ readOnly, queueUsage: usage }: FeedReading): Promise<void> {
    if (readOnly) channel.renew();
    // The answers to the questions under way come before the answer to LISTEN.
    if (readOnly || changingListen) return;
    changingListen = true;
    try {
      if (channel.listening && usage >= CROWDED) await channel.listen(false);
      else if (!channel.listening && usage < QUIET) {
        // Before and after: the answer to a question that was sent behind LISTEN may be read first.
        beganToListen = true;
        await channel.listen(true);
        beganToListen = true;
        wake();
      }
    } finally {
      changingListen = false;
    }
  }

  /** @param base the cursor from which the reading continues, which may be older than the newest one */
  function take(reading: FeedReading, since: number, base: Cursor | undefined): void {
    if (reading.readOnly || closed) return;
    const known = cursor;
    // If a listener fails, there must be no cursor: then the next reading is a gap.
    cursor = undefined;
    const gap = !known || !base || isGap(base, reading) || isGap(known, reading) || (beganToListen && reading.former);
    const { snapshot, clock, source, newest } = reading;
    answeredAt = performance.now();
    const next = { snapshot, clock, source, newest, askedAt: since, answeredAt };
    queueUsage = reading.queueUsage;
    beganToListen = false;
    if (gap && known) gaps += 1;
    const isNew = (seq: number): boolean => !found.some((seqs) => seqs.has(seq));
    const fresh = reading.messages.filter((_, index) => isNew(reading.seqs[index] ?? 0));
    // After a gap the numbers may begin again.
    found = [...(gap ? [] : found.slice(1 - MOST_UNDER_WAY)), new Set(reading.seqs)];
    if (gap) listener.gap();
    else for (const message of fresh) listener.change(message);
    cursor = next;
    if (reading.former && !channel.listening) return;
    liveSince = since;
    if (!isLive()) return;
    deaf = false;
    wait?.end();
  }

  /** Ends when the feed is live, or after PATIENCE. Time in which this process stood still does not count. */
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
        // Timers run before sockets are read, so the answer may already have arrived.
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
    get answering() {
      // A connection that becomes read-only is replaced, and a new one is used only if it accepts writes.
      return channel.connected && performance.now() - (answeredAt ?? -Infinity) < SILENCE;
    },
    get queueUsage() {
      return queueUsage;
    },
    get lag() {
      return answeredAt === undefined ? undefined : (performance.now() - answeredAt) / 1_000;
    },
    get gaps() {
      return gaps;
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
    // The registry went back to an earlier state.
    reading.newest < known.newest ||
    // The newest known row is gone, so newer rows may be gone too.
    (known.newest > 0 && reading.oldest > known.newest)
  );
}
