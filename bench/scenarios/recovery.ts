// Between rounds: what was in trouble must be well again, or the next round would measure the last one's trouble.
import { Agent } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { ask } from '../programs/ask.js';
import type { LoadRequest } from '../programs/messages.js';
import type { Service } from '../stage/installation.js';

/** Longest wait (ms): longer than any deadline that the service has by default. */
const DEADLINE = 60_000;
const PAUSE = 100;

/** What else was under way has come to its end by then (ms). */
const SETTLING = 1_000;

/** Asks until the answer is a success. Returns how long that took, in ms. @throws Error where it is none within a minute */
export async function untilServed({ url }: Service, request: LoadRequest): Promise<number> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const begunAt = performance.now();
  try {
    for (;;) {
      const status = await ask(agent, new URL(url), request).then(
        (answer) => answer.status,
        () => 0,
      );
      const waited = performance.now() - begunAt;
      if (status === 200) {
        await sleep(SETTLING);
        return waited;
      }
      if (waited > DEADLINE) throw new Error(`${request.path} is still not served: status ${status}`);
      await sleep(PAUSE);
    }
  } finally {
    agent.destroy();
  }
}
