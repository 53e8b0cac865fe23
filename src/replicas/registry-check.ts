// Whether the registry answers and accepts writes, for probes of readiness. The feed asks the registry all the time, so a probe
// costs no query. While the feed has no answer, all probes share one query, which also says what is wrong.
import type { Feed } from './feed.js';

/** How long (ms) the answer to the query serves further probes: as often as the feed asks. */
const LASTS = 100;

/**
 * @param ask sends one query. Rejects if the registry does not answer it, or does not accept writes
 * @returns a function that rejects as `ask` does
 */
export function createRegistryCheck(feed: Pick<Feed, 'answering'>, ask: () => Promise<void>): () => Promise<void> {
  let asked: Promise<void> | undefined;
  return async () => {
    if (feed.answering) return;
    if (!asked) {
      asked = ask();
      const forget = (): void => {
        setTimeout(() => (asked = undefined), LASTS).unref();
      };
      asked.then(forget, forget);
    }
    await asked;
  };
}
