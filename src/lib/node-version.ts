// Ends the process on a Node that is too old. Import this file before all others: it imports nothing that an old Node cannot load.
// scripts/before-start.cjs does the same before `npm start`.
import { readFileSync } from 'node:fs';

const { engines } = JSON.parse(read(new URL('.', import.meta.url))) as { engines: { node: string } };
const oldest = engines.node.replace('>=', '');

if (isOlder(process.versions.node, oldest)) {
  process.stderr.write(`Tenantry needs Node ${oldest} or later, and this is Node ${process.versions.node}.\n`);
  process.exit(1);
}

/** @example isOlder('20.9.0', '20.19') // true */
export function isOlder(version: string, than: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const [oldestMajor = 0, oldestMinor = 0] = than.split('.').map(Number);
  return major < oldestMajor || (major === oldestMajor && minor < oldestMinor);
}

/** The nearest package.json: compiled files are deeper in the tree than their sources. */
function read(folder: URL): string {
  try {
    return readFileSync(new URL('package.json', folder), 'utf8');
  } catch (error) {
    const parent = new URL('..', folder);
    if (parent.href === folder.href) throw error;
    return read(parent);
  }
}
