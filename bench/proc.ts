// CPU time and memory of processes, from /proc: what the kernel counted, whatever the process itself would say.
import { existsSync, readdirSync, readFileSync } from 'node:fs';

export function isProcReadable(): boolean {
  return existsSync('/proc/self/stat');
}

/** CPU time (µs, user and system) that a process has used so far, all its threads together. */
export function cpuTime(pid: number): number {
  const { own } = readStat(pid);
  return own;
}

/**
 * CPU time (µs) that a process and its children have used so far. Children that ended are counted by the kernel in their
 * parent, so that the sum never shrinks.
 */
export function treeCpuTime(pid: number): number {
  const { own, endedChildren } = readStat(pid);
  let sum = own + endedChildren;
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const child = readStat(Number(name));
      if (child.parent === pid) sum += child.own;
    } catch {
      // It ended between the listing and the look at it.
    }
  }
  return sum;
}

/** Resident memory in MiB. */
export function residentMemory(pid: number): number {
  const [, kilobytes] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  if (kilobytes === undefined) throw new Error(`/proc/${pid}/status has no VmRSS`);
  return Number(kilobytes) / 1_024;
}

/** USER_HZ is 100 on every platform that Node runs on. */
const MICROSECONDS_PER_TICK = 10_000;

function readStat(pid: number): { parent: number; own: number; endedChildren: number } {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch (error) {
    throw new Error(`the process ${pid} has ended`, { cause: error });
  }
  // The name in parentheses may itself hold spaces and parentheses; numbered as in proc(5), "state" behind it is field 3.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const field = (number: number): number => Number(fields[number - 3]);
  const ticks = (first: number): number => (field(first) + field(first + 1)) * MICROSECONDS_PER_TICK;
  return { parent: field(4), own: ticks(14), endedChildren: ticks(16) };
}
