// `npm run statements:record`: records the statements of this build, for the tests of the next builds.
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { format, resolveConfig } from 'prettier';
import { defineCommand, runCommand } from '../src/lib/command-line.js';
import { startCluster } from '../tests/support/cluster.js';
import { recordBuild } from '../tests/support/record-build.js';
import { FORMER_BUILD } from '../tests/support/recorded-statements.js';
import { say } from './command.js';

const recordCommand = defineCommand({
  start: 'npm run statements:record --',
  about: `
Starts a PostgreSQL server and the service, uses every route of a tenant and those that make, change and remove a tenant, and
writes the statements that the service sent to ${FORMER_BUILD}. From then on \`npm test\` runs
them against the newest schema. Run it in the source of a release, before the first migration of the next one.`,
  flags: {},
  exits: { 0: 'recorded' },
});

await runCommand(recordCommand, async () => {
  const { cluster, stop } = await startCluster();
  const recorded = await recordBuild(cluster).finally(stop);
  await mkdir(path.dirname(FORMER_BUILD), { recursive: true });
  const style = { ...(await resolveConfig(FORMER_BUILD)), filepath: FORMER_BUILD };
  await writeFile(FORMER_BUILD, await format(JSON.stringify(recorded), style));
  const { tenant, registry } = recorded;
  say(
    `${FORMER_BUILD}: ${tenant.statements.length} statements in a tenant's database, ` +
      `${registry.statements.length} in the registry`,
  );
  return 0;
});
