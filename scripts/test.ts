// `npm test`: runs the checks, all at the same time, and then the tests. They do not run together: on a busy processor, statements
// of the tests would exceed their deadlines.
import { spawn } from 'node:child_process';
import { statfs } from 'node:fs/promises';
import { freemem } from 'node:os';
import path from 'node:path';
import { defineCommand, runCommand } from '../src/lib/command-line.js';
import { exitCodes, say } from './command.js';

const VITEST = path.resolve(import.meta.dirname, '../node_modules/vitest/vitest.mjs');

const MEMORY_FOLDER = '/dev/shm';

const GIB = 1024 ** 3;

/** Bytes that the data of one run take at most, and those of its processes. */
const ROOM = 12 * GIB;
const PROCESSES = 6 * GIB;

const testCommand = defineCommand({
  start: 'npm test --',
  about: `
Runs the linter, the format check, the type check and the build, all at the same time. The tests follow if these pass. Their
servers keep their data in /dev/shm if there is room, and in the temporary folder otherwise. TMPDIR names another folder.`,
  flags: {},
  passesTo: 'vitest run',
  notes: `
Example: npm test -- tests/unit
What vitest takes: npx vitest --help`,
  exits: { 0: 'all passed', 1: 'a check or a test failed' },
});

await runCommand(testCommand, async ({ operands }) => {
  const checks = await Promise.all(['lint', 'format:check', 'typecheck', 'build'].map(passes));
  return !checks.includes(false) && (await tests(operands)) ? exitCodes.kept : exitCodes.broken;
});

async function tests(args: readonly string[]): Promise<boolean> {
  const folder = await memoryFolder();
  const env = { ...process.env, ...(folder !== undefined && { TMPDIR: folder }) };
  const child = spawn(process.execPath, [VITEST, 'run', ...args], { stdio: 'inherit', env });
  return new Promise((resolve) => {
    child.once('close', (code) => {
      resolve(code === 0);
    });
  });
}

/**
 * The folder of Linux whose files are in memory: making and dropping databases there takes a quarter less of the processors. Undefined
 * if TMPDIR names a folder, or if memory is short.
 */
async function memoryFolder(): Promise<string | undefined> {
  if (process.env['TMPDIR'] !== undefined || freemem() < ROOM + PROCESSES) return undefined;
  const { bavail, bsize } = await statfs(MEMORY_FOLDER).catch(() => ({ bavail: 0, bsize: 0 }));
  return bavail * bsize < ROOM ? undefined : MEMORY_FOLDER;
}

/** Runs a script of package.json. Prints its whole output at once if it fails. */
async function passes(script: string): Promise<boolean> {
  const child = spawn('npm', ['run', '--silent', script], {
    stdio: ['ignore', 'pipe', 'pipe'],
    shell: process.platform === 'win32',
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => (output += text));
  const passed = await new Promise<boolean>((resolve) => {
    child.once('close', (code) => {
      resolve(code === 0);
    });
  });
  say(`npm run ${script}: ${passed ? 'passed' : `failed\n${output}`}`);
  return passed;
}
