// The common part of the scripts.
import { spawn } from 'node:child_process';

/** Exit codes of a run that checks promises. 2 is a wrong command line (src/lib/command-line.ts). */
export const exitCodes = { kept: 0, broken: 1, failed: 3 } as const;

export function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** Runs a program with its output visible. Returns the exit code. */
export function runVisibly(
  program: string,
  args: readonly string[],
  cwd: string,
  env: Readonly<Record<string, string>> = {},
): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { cwd, env: { ...process.env, ...env }, stdio: 'inherit' });
    child.once('error', reject);
    child.once('exit', (code) => {
      resolve(code ?? 1);
    });
  });
}

/** Runs a program to its end. `code` is null if a signal ended it. */
export function outputOf(
  program: string,
  args: readonly string[],
  cwd: string,
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
    const output = { stdout: '', stderr: '' };
    child.stdout.setEncoding('utf8').on('data', (text: string) => (output.stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (output.stderr += text));
    child.once('error', reject);
    child.once('close', (code) => {
      resolve({ code, ...output });
    });
  });
}
