// One measurement: a driver loads a server, and the counters in /proc are read at the start and the end of the measured time.
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
  /** The server's resident memory in MiB at the end of the measured time. */
  readonly memory: number;
  /**
   * CPU of the load generator, in cores. Near 1, the generator was the bottleneck and not the server. 0 if there is no generator.
   */
  readonly loadCpu: number;
}

export type Driver =
  | { readonly name: 'load'; readonly job: Job<'load'>; readonly server: number }
  /** The driver itself is measured. */
  | { readonly name: 'verifies'; readonly job: Job<'verifies'> };

/**
 * @param edges called at the start and the end of the measured time
 * @throws Error if any answer was not a success, or if the driver ended early or did not start
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
