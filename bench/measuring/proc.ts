// CPU time and memory of processes, from /proc: as the kernel counts them, independent of the process itself.
import { existsSync, readdirSync, readFileSync } from 'node:fs';

export function isProcReadable(): boolean {
  return existsSync('/proc/self/schedstat') && existsSync('/proc/self/task');
}

/**
 * CPU time (µs, user and system) that a process has used so far, all its threads together. The source counts nanoseconds.
 * /proc/PID/stat counts hundredths of a second, in which one request to a PostgreSQL backend would not show.
 */
export function cpuTime(pid: number): number {
  try {
    return readdirSync(`/proc/${pid}/task`)
      .map((thread) => Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]) / 1_000)
      .reduce((sum, time) => sum + time, 0);
  } catch (error) {
    throw new Error(`the process ${pid} has ended`, { cause: error });
  }
}

/**
 * CPU time (µs) that a process and its children have used so far. The kernel adds the time of ended children to their parent, so
 * the sum never shrinks.
 */
export function treeCpuTime(pid: number): number {
  let sum = cpuTime(pid) + endedChildrenTime(pid);
  for (const child of childrenOf(pid)) {
    try {
      sum += cpuTime(child);
    } catch {
      // The process ended after it was listed.
    }
  }
  return sum;
}

/** The children that the first thread of a process has started: all of those of Node and of PostgreSQL's first process. */
export function childrenOf(pid: number): number[] {
  const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
  return (text.match(/\d+/g) ?? []).map(Number);
}

/** Resident memory in MiB. */
export function residentMemory(pid: number): number {
  const [, kilobytes] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  if (kilobytes === undefined) throw new Error(`/proc/${pid}/status has no VmRSS`);
  return Number(kilobytes) / 1_024;
}

/** USER_HZ is 100 on every platform that Node runs on. */
const MICROSECONDS_PER_TICK = 10_000;

function endedChildrenTime(pid: number): number {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // The name in parentheses may itself contain spaces and parentheses. Numbers as in proc(5): "state", after the name, is field 3.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const field = (number: number): number => Number(fields[number - 3]);
  return (field(16) + field(17)) * MICROSECONDS_PER_TICK;
}
