// `npm run statements:record`: records the statements of this build, for the test of the next builds.
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { format, resolveConfig } from 'prettier';
import { registryMigrations } from '../db/registry/migrations/index.js';
import { latestVersion } from '../db/shared/migrator.js';
import { tenantMigrations } from '../db/tenant/migrations/index.js';
import { defineCommand, runCommand } from '../src/lib/command-line.js';
import { startCluster } from '../tests/support/cluster.js';
import { FORMER_BUILD, recordStatements, type RecordedBuild } from '../tests/support/recorded-statements.js';
import { startServiceIn } from '../tests/support/service.js';
import { walkTenant } from '../tests/support/tenant-walk.js';
import { say } from './command.js';

const recordBuild = defineCommand({
  start: 'npm run statements:record --',
  about: `
Starts a PostgreSQL server and the service, uses every route of a tenant and those that make, change and remove a tenant, and
writes the statements that the service sent to ${FORMER_BUILD}. From then on \`npm test\` runs these statements against the
schema of later builds. Run it in the source of a release, before the first migration of the next one is written.`,
  flags: {},
  exits: { 0: 'recorded' },
});

await runCommand(recordBuild, async () => {
  const recorder = recordStatements();
  const { cluster, stop } = await startCluster();
  try {
    const service = await startServiceIn(cluster);
    try {
      const { id, slug } = await service.createTenant();
      await walkTenant(service.send, { id, slug });
      const operator = { token: service.operatorToken };
      await service.send('GET', '/tenants', operator);
      for (const act of ['rotate-password', 'sign-out', 'suspend', 'resume'])
        await service.send('POST', `/tenants/${id}/${act}`, operator);
      await service.send('GET', `/tenants/${id}/audit`, operator);
      await service.send('DELETE', `/tenants/${id}`, operator);
      await service.send('POST', `/tenants/${id}/purge`, operator);
    } finally {
      await service.close();
    }
  } finally {
    await stop();
    recorder.stop();
  }
  const registryUser = cluster.registryService.user;
  const others = [registryUser, cluster.registryOwner.user, cluster.provisioner.user, cluster.superuser.user];
  const recorded: RecordedBuild = {
    tenant: { schema: latestVersion(tenantMigrations), statements: recorder.sentBy((user) => !others.includes(user)) },
    registry: {
      schema: latestVersion(registryMigrations),
      statements: recorder.sentBy((user) => user === registryUser),
    },
  };
  await mkdir(path.dirname(FORMER_BUILD), { recursive: true });
  const style = { ...(await resolveConfig(FORMER_BUILD)), filepath: FORMER_BUILD };
  await writeFile(FORMER_BUILD, await format(JSON.stringify(recorded), style));
  const counts = [recorded.tenant, recorded.registry].map(({ statements }) => statements.length);
  say(`${FORMER_BUILD}: ${counts[0]} statements in a tenant's database, ${counts[1]} in the registry`);
  return 0;
});
