// One measurement: a driver loads a server, and what /proc counts is read at the very edges of the measured time.
import type { Cleanup } from '../cleanup.js';
import { drive, type Job } from './drive.js';
import { cpuTime, residentMemory, treeCpuTime } from './proc.js';

export interface Measurement {
  readonly requestsPerSecond: number;
  /** Latencies in ms. */
  readonly p50: number;
  readonly p99: number;
  /** CPU µs a request of the server's process, user and system. */
  readonly serverCpu: number;
  /** CPU µs a request of all PostgreSQL processes together. */
  readonly postgresCpu: number;
  /** The server's resident memory in MiB when the time is up. */
  readonly memory: number;
  /** CPU of the load generator, in cores: near 1 it, and not the server, was the bound. 0 where there is none. */
  readonly loadCpu: number;
}

export type Driver =
  | { readonly name: 'load'; readonly job: Job<'load'>; readonly server: number }
  /** Is itself what is measured. */
  | { readonly name: 'verifies'; readonly job: Job<'verifies'> };

/**
 * @param edges told where the measured time begins and ends
 * @throws Error where any answer was not a success, and where the driver ends early or not at all
 */
export async function measure(
  driver: Driver,
  postmaster: number,
  cleanup: Cleanup,
  edges?: { readonly onBegin: () => void; readonly onEnd: () => void },
): Promise<Measurement> {
  const server = (pid: number): number => ('server' in driver ? driver.server : pid);
  const look = (pid: number): { server: number; postgres: number; load: number } => ({
    server: cpuTime(server(pid)),
    postgres: treeCpuTime(postmaster),
    load: 'server' in driver ? cpuTime(pid) : 0,
  });
  let before: ReturnType<typeof look> | undefined;
  let after: ReturnType<typeof look> | undefined;
  let memory = 0;
  const { answers, seconds, p50, p99 } = await drive(driver.name, driver.job, {
    cleanup,
    onBegin: (pid) => {
      before = look(pid);
      edges?.onBegin();
    },
    onEnd: (pid) => {
      after = look(pid);
      edges?.onEnd();
      memory = residentMemory(server(pid));
    },
  });
  if (!before || !after || answers === 0) throw new Error('nothing was answered');
  return {
    requestsPerSecond: answers / seconds,
    p50,
    p99,
    serverCpu: (after.server - before.server) / answers,
    postgresCpu: (after.postgres - before.postgres) / answers,
    memory,
    loadCpu: (after.load - before.load) / (seconds * 1e6),
  };
}
