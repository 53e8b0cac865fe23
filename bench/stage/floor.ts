// Starts the floor as its own process: bench/programs/floor.ts.
import type { Cleanup } from '../cleanup.js';
import { startProgram, within } from '../measuring/program.js';
import type { FloorJob, FloorReady } from '../programs/messages.js';

export interface Floor {
  readonly url: string;
  readonly pid: number;
  /** As that of a program. */
  readonly stop: () => Promise<void>;
}

/** Resolves when the floor listens. @throws Error if it does not */
export async function startFloor(job: FloorJob, cleanup: Cleanup): Promise<Floor> {
  const options = { cleanup, env: { NODE_ENV: 'production' }, ipc: true };
  const program = await startProgram('bench/programs/floor.js', options);
  const ready = new Promise<FloorReady>((resolve) => {
    program.child.once('message', resolve as (message: unknown) => void);
  });
  program.child.send(job);
  const { port } = await within(program, 'the floor', () => ready);
  return { url: `http://127.0.0.1:${port}`, pid: program.pid, stop: program.stop };
}
