// `npm test`: builds, and then checks and tests at the same time, because many tests wait and leave the processor idle. The
// files that begin first (vitest.config.ts) hold no clock against anything.
import { spawn } from 'node:child_process';
import path from 'node:path';
import { exitCodes, say } from './command.js';

const VITEST = path.resolve(import.meta.dirname, '../node_modules/vitest/vitest.mjs');

process.exitCode = (await passes('build')) && (await checksAndTests()) ? exitCodes.kept : exitCodes.broken;

async function checksAndTests(): Promise<boolean> {
  const outcomes = await Promise.all([tests(), passes('lint'), passes('typecheck')]);
  return !outcomes.includes(false);
}

/** What is on the command line is vitest's. */
function tests(): Promise<boolean> {
  const child = spawn(process.execPath, [VITEST, 'run', ...process.argv.slice(2)], { stdio: 'inherit' });
  return new Promise((resolve) => {
    child.once('close', (code) => {
      resolve(code === 0);
    });
  });
}

/** Runs a script of package.json. What it says is shown in one piece, where it fails. */
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
