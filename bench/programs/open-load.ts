// The open-loop generator, as its own process: sends at a constant rate, as many independent people do.
import { Agent } from 'node:http';
import { constantRate } from '../figures/schedule.js';
import { percentile } from '../figures/statistics.js';
import { AnswerCounter, ask, type Answer } from './ask.js';
import type { DriverMessage, OpenLoadJob, OpenLoadResult } from './messages.js';

process.once('message', (job: OpenLoadJob) => {
  run(job);
});
// Without the benchmark, the load has no purpose.
process.once('disconnect', () => process.exit(1));

/** Maximum of requests in flight. With more, the server does not keep up, and there is no steady state to measure. */
const MAX_IN_FLIGHT = 4_000;

function run({ url, rate, warmup, seconds, requests, successOnly }: OpenLoadJob): void {
  const agent = new Agent({ keepAlive: true, maxSockets: MAX_IN_FLIGHT });
  const target = new URL(url);
  const schedule = constantRate(rate, warmup, seconds);
  const latencies: number[] = [];
  const lateness: number[] = [];
  const counter = new AnswerCounter();
  let slowest = 0;
  let failure: string | undefined;
  let sent = 0;
  let inFlight = 0;
  let isOver = false;
  const begunAt = performance.now();
  tick();

  /** Sends all requests that are due. */
  function tick(): void {
    const due = schedule.dueBy(performance.now() - begunAt);
    while (sent < due && failure === undefined) {
      if (sent === schedule.firstMeasured) tell({ kind: 'begin' });
      send(sent);
      sent += 1;
    }
    if (failure === undefined && sent < schedule.total) {
      setTimeout(tick, 1);
      return;
    }
    isOver = true;
    tell({ kind: 'end' });
    if (inFlight === 0) finish();
  }

  function send(index: number): void {
    const request = requests[index % requests.length];
    if (!request || inFlight >= MAX_IN_FLIGHT) {
      failure ??= request ? `${inFlight} requests were under way: the server does not keep up` : 'nothing to ask';
      return;
    }
    const shouldStartAt = begunAt + schedule.startOf(index);
    const isMeasured = index >= schedule.firstMeasured;
    if (isMeasured) lateness.push(performance.now() - shouldStartAt);
    inFlight += 1;
    const settle = (answer: Answer | Error): void => {
      inFlight -= 1;
      const latency = performance.now() - shouldStartAt;
      if (isMeasured) latencies.push(latency);
      slowest = Math.max(slowest, latency);
      if (counter.count(answer) !== 'served' && successOnly)
        failure ??= answer instanceof Error ? answer.message : `status ${answer.status}`;
      if (inFlight === 0 && isOver) finish();
    };
    ask(agent, target, request).then(settle, settle);
  }

  function finish(): void {
    tell({
      kind: 'result',
      ...counter.counts(),
      p50: percentile(latencies, 0.5),
      p99: percentile(latencies, 0.99),
      slowest,
      lateness: percentile(lateness, 0.99),
      failure,
    });
    process.removeAllListeners('disconnect');
    process.disconnect();
    agent.destroy();
  }
}

function tell(message: DriverMessage<OpenLoadResult>): void {
  process.send?.(message);
}
