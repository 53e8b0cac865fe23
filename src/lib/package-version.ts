// The version of this build, from its package.json.
import { readFileSync } from 'node:fs';
import path from 'node:path';

let known: string | undefined;

/** @throws Error if no package.json is in this file's folder or above it */
export function packageVersion(): string {
  return (known ??= read(import.meta.dirname));
}

/** Compiled files are deeper in the tree than their sources. */
function read(folder: string): string {
  try {
    return (JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8')) as { version: string }).version;
  } catch (error) {
    const parent = path.dirname(folder);
    if (parent === folder) throw new Error('there is no package.json', { cause: error });
    return read(parent);
  }
}
