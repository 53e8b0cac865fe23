// src/lib/thread-priority.ts, in a separate process: a lowered priority stays low.
import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';

const root = path.resolve(import.meta.dirname, '../..');

const PROGRAM = `
import { readdirSync, readFileSync } from 'node:fs';
import { getPriority } from 'node:os';
import { hash } from 'argon2';
import { lowerPoolPriority } from './src/lib/thread-priority.ts';

const pool = await lowerPoolPriority(4);
const time = (thread) => Number(readFileSync('/proc/self/task/' + thread + '/schedstat', 'utf8').split(' ')[0]);
const threads = readdirSync('/proc/self/task').map(Number);
const before = new Map(threads.map((thread) => [thread, time(thread)]));
await Promise.all(Array.from({ length: 8 }, () => hash('a password', { memoryCost: 19456, timeCost: 2, parallelism: 1 })));
const hashed = threads.filter((thread) => thread !== process.pid && time(thread) - before.get(thread) > 10e6);
process.stdout.write(JSON.stringify({
  pool,
  hashed,
  main: getPriority(process.pid),
  lowered: threads.filter((thread) => getPriority(thread) === 19),
}));
`;

describe.skipIf(process.platform !== 'linux')('the priority of hashing', () => {
  it('is below that of everything else, for all threads that hash and no other', async () => {
    const { stdout } = await promisify(execFile)(
      process.execPath,
      ['--import', 'tsx', '--input-type=module', '-e', PROGRAM],
      { cwd: root },
    );
    const { pool, hashed, main, lowered } = JSON.parse(stdout) as Record<'pool' | 'hashed' | 'lowered', number[]> & {
      main: number;
    };
    const sorted = (threads: readonly number[]): number[] => [...threads].sort();
    expect(main).toBe(0);
    expect(pool).toHaveLength(4);
    expect(sorted(lowered)).toEqual(sorted(pool));
    expect(hashed.length).toBeGreaterThan(0);
    expect(pool).toEqual(expect.arrayContaining(hashed));
  });
});
