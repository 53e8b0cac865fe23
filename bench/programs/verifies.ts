// The floor of sign-in, as its own process: only argon2 verifies, on libuv's default number of threads. As many are in flight as
// the load generator has connections.
import { verify } from 'argon2';
import type { DriverMessage, LoadResult, VerifyJob } from './messages.js';
import { percentile } from '../figures/statistics.js';

process.once('message', (job: VerifyJob) => {
  void run(job);
});
process.once('disconnect', () => process.exit(1));

async function run({ passwordHash, password, concurrency, warmup, seconds }: VerifyJob): Promise<void> {
  const latencies: number[] = [];
  let phase: 'warm-up' | 'measuring' | 'over' = 'warm-up';
  let failure: string | undefined;
  const isOver = (): boolean => phase === 'over';

  async function verifyOnAndOn(): Promise<void> {
    while (!isOver()) {
      const begunAt = performance.now();
      if (!(await verify(passwordHash, password))) failure = 'the password is not the one behind the hash';
      if (phase === 'measuring') latencies.push(performance.now() - begunAt);
    }
  }

  const workers = Array.from({ length: concurrency }, verifyOnAndOn);
  await pause(warmup);
  const begunAt = performance.now();
  phase = 'measuring';
  tell({ kind: 'begin' });
  await pause(seconds);
  phase = 'over';
  const measured = (performance.now() - begunAt) / 1_000;
  tell({ kind: 'end' });
  await Promise.all(workers);
  tell({
    kind: 'result',
    answers: latencies.length,
    seconds: measured,
    p50: percentile(latencies, 0.5),
    p99: percentile(latencies, 0.99),
    failure,
  });
  process.removeAllListeners('disconnect');
  process.disconnect();
}

function pause(seconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, seconds * 1_000));
}

function tell(message: DriverMessage<LoadResult>): void {
  process.send?.(message);
}
