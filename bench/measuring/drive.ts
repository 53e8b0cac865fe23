// Runs a driver: a process that loads a server, reports the start and the end of the measured time, and then the figures.
import type { Cleanup } from '../cleanup.js';
import type {
  DriverMessage,
  DriverOrder,
  FloodJob,
  FloodResult,
  LoadJob,
  LoadResult,
  NewerBuildJob,
  OpenLoadJob,
  OpenLoadResult,
  PlainLoopJob,
  RolledOut,
  VerifyJob,
} from '../programs/messages.js';
import { startProgram } from './program.js';

/** The job that each driver gets, and the result that it sends. */
interface Drivers {
  readonly load: { readonly job: LoadJob; readonly result: LoadResult };
  readonly verifies: { readonly job: VerifyJob; readonly result: LoadResult };
  readonly 'open-load': { readonly job: OpenLoadJob; readonly result: OpenLoadResult };
  readonly 'plain-loop': { readonly job: PlainLoopJob; readonly result: RolledOut };
  readonly 'newer-build': { readonly job: NewerBuildJob; readonly result: RolledOut };
  readonly flood: { readonly job: FloodJob; readonly result: FloodResult };
}

export type DriverName = keyof Drivers;
export type Job<Name extends DriverName> = Drivers[Name]['job'];
export type Result<Name extends DriverName> = Drivers[Name]['result'];

export interface DriveOptions {
  readonly cleanup: Cleanup;
  /**
   * Called at the start and the end of the measured time, with the driver's process id. An error of the callback ends the drive.
   */
  readonly onBegin?: (pid: number) => void;
  readonly onEnd?: (pid: number) => void;
}

export interface Drive<Name extends DriverName> {
  /** Resolves when the measured time begins. */
  readonly begun: Promise<void>;
  /** @throws Error if the driver saw a failure, ended early, or did not start */
  readonly result: Promise<Result<Name>>;
  /** Sends the order `finish` to a driver that runs until it gets this order. */
  finish(): void;
  /** Ends the driver without its figures. Safe to call again, and after the driver has ended. */
  stop(): Promise<void>;
}

/** Maximum time (ms) of a driver besides warm-up and measuring. */
const MARGIN = 60_000;

/** Starts a driver and resolves when it has its job. */
export async function startDrive<Name extends DriverName>(
  name: Name,
  job: Job<Name>,
  { cleanup, onBegin, onEnd }: DriveOptions,
): Promise<Drive<Name>> {
  const { child, pid, ended, stop } = await startProgram(`bench/programs/${name}.js`, { cleanup, ipc: true });
  let begin!: () => void;
  const beginning = new Promise<void>((resolve) => (begin = resolve));
  let timer: NodeJS.Timeout | undefined;
  const result = new Promise<Result<Name>>((resolve, reject) => {
    child.on('message', (message: DriverMessage<Result<Name>>) => {
      try {
        if (message.kind === 'begin') {
          onBegin?.(pid);
          begin();
        } else if (message.kind === 'end') onEnd?.(pid);
        else if (message.failure !== undefined) reject(new Error(message.failure));
        else resolve(message);
      } catch (error) {
        reject(error instanceof Error ? error : new Error(String(error)));
      }
    });
    void ended.then((how) => {
      reject(new Error(`${name} ended with ${how}`));
    });
    const longest = 'longest' in job ? job.longest : job.warmup + job.seconds;
    timer = setTimeout(
      () => {
        reject(new Error(`${name} did not come to an end`));
      },
      longest * 1_000 + MARGIN,
    );
    child.send(job);
  }).finally(() => {
    clearTimeout(timer);
    return stop();
  });
  const begun = Promise.race([beginning, result.then(() => undefined)]);
  // A caller may await another drive first. Without this, the rejection would end the process before the caller sees the error.
  for (const promise of [begun, result]) promise.catch(() => undefined);
  const order: DriverOrder = 'finish';
  return { begun, result, finish: () => void child.send(order), stop };
}

/** Runs a driver to its end. @throws Error as its result does */
export async function drive<Name extends DriverName>(
  name: Name,
  job: Job<Name>,
  options: DriveOptions,
): Promise<Result<Name>> {
  const { result } = await startDrive(name, job, options);
  return result;
}
