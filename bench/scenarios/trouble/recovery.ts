// Waits for recovery between rounds: otherwise the next round would measure the trouble of the last one.
import { Agent } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { ask } from '../../programs/ask.js';
import type { LoadRequest } from '../../programs/messages.js';
import type { Service } from '../../stage/installation.js';

/** Maximum wait (ms): longer than any default deadline of the service. */
const DEADLINE = 60_000;
const PAUSE = 100;

/** After this time (ms) all other requests have ended. */
const SETTLING = 1_000;

/** Sends the request until the answer is a success. Returns the duration in ms. @throws Error if there is none within a minute */
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
