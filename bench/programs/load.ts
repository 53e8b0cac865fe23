// The load generator, as its own process: inside the server or the benchmark, its cost would be measured with theirs.
import autocannon from 'autocannon';
import type { DriverMessage, LoadJob, LoadResult } from './messages.js';
import { percentile } from '../figures/statistics.js';

process.once('message', (job: LoadJob) => {
  run(job);
});
// Without the benchmark, the load has no purpose.
process.once('disconnect', () => process.exit(1));

/** Maximum seconds for one request. */
const REQUEST_TIMEOUT = 20;

function run({ url, connections, warmup, seconds, requests }: LoadJob): void {
  // autocannon's own histogram counts whole milliseconds, and starts with the first connection. These latencies are exact, and
  // only of a warm server.
  const latencies: number[] = [];
  let measuring = false;
  let begunAt = 0;
  let measured = 0;
  let firstError: string | undefined;

  let client = 0;
  const cannon = autocannon(
    {
      url,
      connections,
      pipelining: 1,
      timeout: REQUEST_TIMEOUT,
      // The code below ends the load at the right time; this is the upper bound.
      duration: warmup + seconds + REQUEST_TIMEOUT,
      sampleInt: 100,
      setupClient: (each) => {
        const own = requests.filter((_, index) => index % connections === client);
        client += 1;
        each.setRequests(own.map((request) => ({ ...request, headers: { ...request.headers } })));
      },
    },
    (error: unknown, result: autocannon.Result | undefined) => {
      tell({
        kind: 'result',
        answers: latencies.length,
        seconds: measured,
        p50: percentile(latencies, 0.5),
        p99: percentile(latencies, 0.99),
        failure: failureOf(error, result, firstError),
      });
      process.removeAllListeners('disconnect');
      process.disconnect();
    },
  );
  cannon.on('response', (_client, _status, _bytes, milliseconds) => {
    if (measuring) latencies.push(milliseconds);
  });
  cannon.on('reqError', (error: unknown) => {
    firstError ??= String(error);
  });

  setTimeout(() => {
    measuring = true;
    begunAt = performance.now();
    tell({ kind: 'begin' });
    setTimeout(() => {
      measuring = false;
      measured = (performance.now() - begunAt) / 1_000;
      tell({ kind: 'end' });
      cannon.stop();
    }, seconds * 1_000);
  }, warmup * 1_000);
}

/** Every answer, warm-up included, must be a success: a refusal is quick and would look like speed. */
function failureOf(
  error: unknown,
  result: autocannon.Result | undefined,
  firstError: string | undefined,
): string | undefined {
  if (!result) return `autocannon: ${String(error)}`;
  const statuses = Object.entries(result.statusCodeStats ?? {})
    .filter(([status]) => !status.startsWith('2'))
    .map(([status, stats]) => `${String(stats.count)} × status ${status}`);
  if (statuses.length > 0) return statuses.join(', ');
  if (result.errors > 0)
    return `${result.errors} connection errors, ${result.timeouts} of them timeouts (${firstError ?? ''})`;
  return undefined;
}

function tell(message: DriverMessage<LoadResult>): void {
  process.send?.(message);
}
