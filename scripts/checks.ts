// The checks of `npm test` before the tests, at the same time: each keeps one processor busy.
import { spawn } from 'node:child_process';
import { say } from './command.js';

/** Scripts of package.json; the longest first. */
const CHECKS = ['lint', 'typecheck', 'build'];

const results = await Promise.all(CHECKS.map(run));
if (results.includes(false)) process.exitCode = 1;

/** Whether it passed. What it said is shown in one piece. */
async function run(script: string): Promise<boolean> {
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
  if (!passed) say(`npm run ${script} failed:\n${output}`);
  return passed;
}
