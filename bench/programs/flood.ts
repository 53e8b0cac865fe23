// The flood, as its own process: clients of one tenant that all wait for an answer, and send again after each answer.
import { setMaxListeners } from 'node:events';
import { Agent } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { median } from '../figures/statistics.js';
import { AnswerCounter, ask, type Answer } from './ask.js';
import type { DriverMessage, DriverOrder, FloodJob, FloodResult } from './messages.js';

process.once('message', (job: FloodJob) => {
  void run(job);
});
process.once('disconnect', () => process.exit(1));

/**
 * Pause (ms) of a client after a refusal: the shortest that Retry-After can express. Without it this would be a flood of refusals
 * and not of waiting queries.
 */
const PAUSE = 1_000;

async function run({ url, clients, request, longest }: FloodJob): Promise<void> {
  const agent = new Agent({ keepAlive: true, maxSockets: clients });
  const target = new URL(url);
  const over = new AbortController();
  // Each request in flight adds a listener.
  setMaxListeners(0, over.signal);
  const isOver = (): boolean => over.signal.aborted;
  const counter = new AnswerCounter();
  const untilRefused: number[] = [];
  let waiting = 0;

  async function askOnAndOn(): Promise<void> {
    while (!isOver()) {
      const askedAt = performance.now();
      waiting += 1;
      const answer: Answer | Error = await ask(agent, target, request, over.signal).catch(
        (error: unknown) => error as Error,
      );
      // The flood itself cut this request: it counts as waiting.
      if (isOver()) return;
      waiting -= 1;
      const kind = counter.count(answer);
      if (kind === 'refused') untilRefused.push(performance.now() - askedAt);
      if (kind !== 'served') await sleep(PAUSE, undefined, { signal: over.signal }).catch(() => undefined);
    }
  }

  const all = Array.from({ length: clients }, askOnAndOn);
  tell({ kind: 'begin' });
  await finished(longest);
  tell({ kind: 'end' });
  const stillWaiting = waiting;
  over.abort();
  await Promise.all(all);
  tell({
    kind: 'result',
    ...counter.counts(),
    waiting: stillWaiting,
    untilRefused: untilRefused.length === 0 ? 0 : median(untilRefused),
    failure: undefined,
  });
  process.removeAllListeners('disconnect');
  process.disconnect();
  agent.destroy();
}

/** Resolves on the benchmark's order, and after `longest` seconds at the latest. */
function finished(longest: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, longest * 1_000);
    process.once('message', (_order: DriverOrder) => {
      clearTimeout(timer);
      resolve();
    });
  });
}

function tell(message: DriverMessage<FloodResult>): void {
  process.send?.(message);
}
