// One measurement: a driver loads a server, and what /proc counts is read at the very edges of the measured time.
import type { Cleanup } from './cleanup.js';
import type { DriverMessage, LoadJob, VerifyJob } from './messages.js';
import { cpuTime, residentMemory, treeCpuTime } from './proc.js';
import { startProgram } from './program.js';

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
  | { readonly program: 'bench/load.js'; readonly job: LoadJob; readonly server: number }
  /** Is itself what is measured. */
  | { readonly program: 'bench/verifies.js'; readonly job: VerifyJob };

/** Longest time (ms) that a driver may take besides warm-up and measuring. */
const MARGIN = 60_000;

/** @throws Error where any answer was not a success, and where the driver ends early or not at all */
export async function measure(driver: Driver, postmaster: number, cleanup: Cleanup): Promise<Measurement> {
  const { child, pid, ended, stop } = await startProgram(driver.program, { cleanup, ipc: true });
  const server = 'server' in driver ? driver.server : pid;
  const look = (): { server: number; postgres: number; load: number } => ({
    server: cpuTime(server),
    postgres: treeCpuTime(postmaster),
    load: 'server' in driver ? cpuTime(pid) : 0,
  });
  const { warmup, seconds } = driver.job;
  let timer: NodeJS.Timeout | undefined;
  try {
    return await new Promise<Measurement>((resolve, reject) => {
      let before: ReturnType<typeof look> | undefined;
      let after: ReturnType<typeof look> | undefined;
      let memory = 0;
      child.on('message', (message: DriverMessage) => {
        try {
          if (message.kind === 'begin') before = look();
          else if (message.kind === 'end') {
            after = look();
            memory = residentMemory(server);
          } else if (message.failure !== undefined) reject(new Error(message.failure));
          else if (!before || !after || message.answers === 0) reject(new Error('nothing was answered'));
          else {
            const { answers, seconds: measured, p50, p99 } = message;
            resolve({
              requestsPerSecond: answers / measured,
              p50,
              p99,
              serverCpu: (after.server - before.server) / answers,
              postgresCpu: (after.postgres - before.postgres) / answers,
              memory,
              loadCpu: (after.load - before.load) / (measured * 1e6),
            });
          }
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)));
        }
      });
      void ended.then((how) => {
        reject(new Error(`${driver.program} ended with ${how}`));
      });
      timer = setTimeout(
        () => {
          reject(new Error(`${driver.program} did not come to an end`));
        },
        (warmup + seconds) * 1_000 + MARGIN,
      );
      child.send(driver.job);
    });
  } finally {
    clearTimeout(timer);
    await stop();
  }
}
