// `npm test`: runs the checks, all at the same time, and then the tests. They do not run together: on a busy processor, statements
// of the tests would exceed their deadlines.
import { spawn } from 'node:child_process';
import path from 'node:path';
import { defineCommand, runCommand } from '../src/lib/command-line.js';
import { exitCodes, say } from './command.js';

const VITEST = path.resolve(import.meta.dirname, '../node_modules/vitest/vitest.mjs');

const testCommand = defineCommand({
  start: 'npm test --',
  about: `
Runs the linter, the format check, the type check and the build, all at the same time. The tests follow if these pass.`,
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

function tests(args: readonly string[]): Promise<boolean> {
  const child = spawn(process.execPath, [VITEST, 'run', ...args], { stdio: 'inherit' });
  return new Promise((resolve) => {
    child.once('close', (code) => {
      resolve(code === 0);
    });
  });
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
