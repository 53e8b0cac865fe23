// The README's walk, as a newcomer types it: every `sh` block under its heading, in one shell.
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';

const HEADING = '## A walk with curl';

/** Runs the walk against a service and returns everything it printed. @throws where a command fails */
export async function walkReadme(url: string, operatorPassword: string): Promise<string> {
  const readme = await readFile(path.resolve(import.meta.dirname, '../../README.md'), 'utf8');
  const [, section = ''] = readme.split(HEADING);
  const [walk = ''] = section.split('\n## ');
  const blocks = [...walk.matchAll(/```sh\n([\s\S]*?)```/g)].map(([, block = '']) => block);
  const script = blocks
    .join('\n')
    .replaceAll('http://127.0.0.1:3000', url)
    // What only the person at the terminal knows.
    .replace(/^OPERATOR_PASSWORD=.*$/m, `OPERATOR_PASSWORD='${operatorPassword}'`);
  if (blocks.length === 0) throw new Error(`README.md has no commands under "${HEADING}"`);
  const { stdout } = await promisify(execFile)('bash', ['-euo', 'pipefail', '-c', script]);
  return stdout;
}
