// The open-loop generator, as its own process: sends at a constant rate, as many independent people do.
import { constantRate } from '../figures/schedule.js';
import { percentile } from '../figures/statistics.js';
import { AnswerCounter } from './ask.js';
import { Connections } from './connections.js';
import type { DriverMessage, OpenLoadJob, OpenLoadResult } from './messages.js';

process.once('message', (job: OpenLoadJob) => {
  void run(job);
});
// Without the benchmark, the load has no purpose.
process.once('disconnect', () => process.exit(1));

/** Maximum of requests in flight. With more, the server does not keep up, and there is no steady state to measure. */
const MAX_IN_FLIGHT = 4_000;

async function run({ url, rate, warmup, seconds, requests, successOnly, connections }: OpenLoadJob): Promise<void> {
  const lines = new Connections(url, connections);
  const schedule = constantRate(rate, warmup, seconds);
  const latencies: number[] = [];
  const servedIn: number[] = [];
  const refusedIn: number[] = [];
  const lateness: number[] = [];
  const counter = new AnswerCounter();
  let slowest = 0;
  let failure: string | undefined;
  let sent = 0;
  let inFlight = 0;
  let isOver = false;
  /** Successes within the measured time. */
  let inTime = 0;
  let measuredSince = Infinity;
  let measuredFor = seconds;
  try {
    await lines.open();
  } catch (error) {
    failure = `the connections could not be opened: ${String(error)}`;
  }
  const begunAt = performance.now();
  tick();

  /** Sends all requests that are due. */
  function tick(): void {
    const due = schedule.dueBy(performance.now() - begunAt);
    while (sent < due && failure === undefined) {
      if (sent === schedule.firstMeasured) {
        measuredSince = performance.now();
        tell({ kind: 'begin' });
      }
      send(sent);
      sent += 1;
    }
    if (failure === undefined && sent < schedule.total) {
      setTimeout(tick, 1);
      return;
    }
    isOver = true;
    measuredFor = (performance.now() - measuredSince) / 1_000;
    tell({ kind: 'end' });
    inFlight -= lines.forgetWaiting();
    if (inFlight === 0) finish();
  }

  function send(index: number): void {
    const request = requests[index % requests.length];
    if (!request || (connections === undefined && inFlight >= MAX_IN_FLIGHT)) {
      failure ??= request ? `${inFlight} requests were under way: the server does not keep up` : 'nothing to ask';
      return;
    }
    const shouldStartAt = begunAt + schedule.startOf(index);
    const isMeasured = index >= schedule.firstMeasured;
    if (isMeasured) lateness.push(performance.now() - shouldStartAt);
    inFlight += 1;
    lines.send(request, (answer) => {
      inFlight -= 1;
      const latency = performance.now() - shouldStartAt;
      if (isMeasured) latencies.push(latency);
      slowest = Math.max(slowest, latency);
      const kind = counter.count(answer);
      if (kind === 'served' && !isOver && performance.now() >= measuredSince) inTime += 1;
      if (isMeasured && kind === 'served') servedIn.push(latency);
      if (isMeasured && kind === 'refused') refusedIn.push(latency);
      if (kind !== 'served' && successOnly)
        failure ??= answer instanceof Error ? answer.message : `status ${answer.status}`;
      if (inFlight === 0 && isOver) finish();
    });
  }

  function finish(): void {
    tell({
      kind: 'result',
      ...counter.counts(),
      p50: percentile(latencies, 0.5),
      p99: percentile(latencies, 0.99),
      slowest,
      goodput: inTime / measuredFor,
      servedP99: percentile(servedIn, 0.99),
      refusedP99: percentile(refusedIn, 0.99),
      lateness: percentile(lateness, 0.99),
      failure,
    });
    process.removeAllListeners('disconnect');
    process.disconnect();
    lines.close();
  }
}

function tell(message: DriverMessage<OpenLoadResult>): void {
  process.send?.(message);
}
