// `npm run test:node`: runs the whole suite on another version of Node, and tries that a version that is too old is refused in a
// sentence. Installs the binary of the version from npm into a temporary folder.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { arch, platform, tmpdir } from 'node:os';
import path from 'node:path';
import { defineCommand, runCommand, text, UsageError } from '../src/lib/command-line.js';
import { isOlder } from '../src/lib/node-version.js';
import { ROOT } from '../tests/support/docs.js';
import { outputOf, runVisibly, say } from './command.js';

/** The oldest that starts an ES module, the last that is too old, and those that people run besides the oldest supported one. */
const VERSIONS = ['18', '20.18', '24', '26'];

const testNode = defineCommand({
  start: 'npm run test:node --',
  about: `
Runs \`npm test\` on each of these versions of Node, or tries that it is refused if it is older than package.json allows. Installs
the binary from npm into a temporary folder, which is removed. Takes as long as \`npm test\` for each version.`,
  flags: {
    tests: text({ what: 'only the tests whose path contains this', placeholder: 'PATH', example: 'tests/unit/ids' }),
  },
  operands: {
    name: 'VERSION',
    what: `a version such as 24 or 20.18 (default: ${VERSIONS.join(', ')})`,
    min: 0,
    max: Infinity,
    example: '24',
  },
  exits: { 0: 'all passed', 1: 'some failed' },
});

await runCommand(testNode, async ({ operands, flags }) => {
  const wrong = operands.find((version) => !/^\d+(\.\d+){0,2}$/.test(version));
  if (wrong !== undefined) throw new UsageError(`${wrong} is no version of Node`);
  const failed: string[] = [];
  for (const version of operands.length > 0 ? operands : VERSIONS)
    if (!(await passesOn(version, flags.tests))) failed.push(version);
  say(failed.length === 0 ? '\nAll passed.' : `\nFailed on Node ${failed.join(', ')}.`);
  return failed.length === 0 ? 0 : 1;
});

async function passesOn(wanted: string, filter: string | undefined): Promise<boolean> {
  const folder = await mkdtemp(path.join(tmpdir(), 'tenantry-node-'));
  try {
    // The package "node" would fetch this one by an install script.
    const name = `node-${platform() === 'win32' ? 'win' : platform()}-${arch()}`;
    const manifest = { private: true, dependencies: { [name]: wanted } };
    await writeFile(path.join(folder, 'package.json'), JSON.stringify(manifest));
    const npm = ['install', '--no-audit', '--no-fund', '--no-package-lock', '--ignore-scripts', '--loglevel', 'error'];
    if ((await runVisibly('npm', npm, folder)) !== 0) return false;
    const bin = path.join(folder, 'node_modules', name, 'bin');
    const node = path.join(bin, 'node');
    const version = (await outputOf(node, ['--version'], ROOT)).stdout.trim().replace('v', '');
    say(`\nNode ${version}`);
    if (isOlder(version, await oldest())) return await isRefused(node, version);
    const PATH = `${bin}${path.delimiter}${process.env['PATH'] ?? ''}`;
    const args = filter === undefined ? [] : ['--', filter];
    return (await runVisibly('npm', ['test', ...args], ROOT, { PATH })) === 0;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Whether each way to start says in one sentence what is needed, and ends with 1. */
async function isRefused(node: string, version: string): Promise<boolean> {
  const sentence = `Tenantry needs Node ${await oldest()} or later, and this is Node ${version}.`;
  let refused = true;
  for (const script of ['scripts/before-start.cjs', 'dist/src/server.js']) {
    const { code, stderr } = await outputOf(node, [script], ROOT);
    const lines = stderr.trim().split('\n');
    const right = code === 1 && lines.length === 1 && stderr.startsWith(sentence);
    say(
      right ? `node ${script}: ${stderr.trim()}` : `node ${script}: exit code ${code ?? 'none'}, and wrote:\n${stderr}`,
    );
    refused &&= right;
  }
  return refused;
}

async function oldest(): Promise<string> {
  const manifest = JSON.parse(await readFile(path.join(ROOT, 'package.json'), 'utf8')) as { engines: { node: string } };
  return manifest.engines.node.replace('>=', '');
}
