// A reading that all requests share: however many ask, one question is under way, and its answer serves all for a moment.
import { inPlainWords } from '../jobs/plain-words.js';
import { within } from '../lib/deadline.js';
import { DatabaseFault } from '../../db/driver/database-fault.js';

/** The result of a reading: its value, or why it could not be read, in plain words. */
export type Part<T> =
  { readonly value: T; readonly unreadable?: never } | { readonly value?: never; readonly unreadable: string };

export interface ReadingLimits {
  /** How long (ms) a value serves further requests. */
  readonly lasts: number;
  /** The longest wait (ms) for a value. */
  readonly deadline: number;
}

/** How long (ms) a failure serves further requests. */
const FAILURE_LASTS = 1_000;

/**
 * Makes a function that reads at most once in `lasts`. It never rejects, and never waits longer than `deadline`. A question that
 * is late is not asked again until it has ended.
 */
export function shareReading<T>(read: () => Promise<T>, limits: ReadingLimits): () => Promise<Part<T>> {
  let last: { readonly part: Part<T>; readonly until: number } | undefined;
  let reading: Promise<Part<T>> | undefined;
  let asked: Promise<T> | undefined;

  async function readNow(): Promise<Part<T>> {
    try {
      if (asked) throw late(limits.deadline);
      asked = read().finally(() => {
        asked = undefined;
      });
      return { value: await within(asked, limits.deadline, () => late(limits.deadline)) };
    } catch (error) {
      return { unreadable: inPlainWords(error) };
    }
  }

  return async () => {
    if (last && performance.now() < last.until) return last.part;
    reading ??= readNow().then((part) => {
      const lasts = part.unreadable === undefined ? limits.lasts : FAILURE_LASTS;
      last = { part, until: performance.now() + lasts };
      reading = undefined;
      return part;
    });
    return reading;
  };
}

function late(deadline: number): DatabaseFault {
  return new DatabaseFault('timeout', `no answer within ${deadline} ms`);
}
