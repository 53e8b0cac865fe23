// `npm run profile:memory`: the memory that a tenant takes in a replica, in use and at rest.
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { defineCommand, runCommand, wholeNumber, type CommandLine } from '../src/lib/command-line.js';
import { startCluster, type TestCluster } from '../tests/support/cluster.js';
import { createRegistryIn, startServiceIn, type TestService, type TestTenant } from '../tests/support/service.js';
import { say } from './command.js';

/** Tenants that are used first: what the first ones need, such as compiled code, is no memory of a tenant. */
const FIRST = 40;

/** Time (ms) after which an unused connection is closed, for the tenants at rest. */
const IDLE = 2_000;

const profileMemory = defineCommand({
  start: 'npm run profile:memory --',
  about: `
Starts PostgreSQL, creates tenants, and lets a replica that has just started serve one user of each. Shows the memory that the
process holds for a tenant: with its connection open, and after the connection has closed.`,
  flags: {
    tenants: wholeNumber({ what: 'tenants in use', min: 50, max: 2_000, default: 240 }),
  },
  exits: { 0: 'shown' },
});

await runCommand(profileMemory, async ({ flags }: CommandLine<typeof profileMemory.flags>) => {
  const { cluster, stop } = await startCluster({ max_connections: String(flags.tenants + 100), fsync: 'off' });
  try {
    say(await profile(cluster, flags.tenants));
  } finally {
    await stop();
  }
  return 0;
});

async function profile(cluster: TestCluster, count: number): Promise<string> {
  const registry = await createRegistryIn(cluster);
  const env = {
    CLUSTER_CONNECTION_BUDGET: String(count + 50),
    USER_RATE_LIMIT_MAX: '1000000',
    POOL_IDLE_TIMEOUT_MS: '600000',
  };
  const tenants: TestTenant[] = [];
  const maker = await startServiceIn(cluster, { registry, env });
  while (tenants.length < count) tenants.push(await maker.createTenant());
  await maker.close();
  const first = tenants.slice(0, FIRST);
  const others = tenants.slice(FIRST);

  const inUse = await perTenant(await startServiceIn(cluster, { registry, env, operator: false }), first, others, 0);
  const atRest = await perTenant(
    await startServiceIn(cluster, {
      registry,
      env: { ...env, POOL_IDLE_TIMEOUT_MS: String(IDLE) },
      operator: false,
    }),
    first,
    others,
    IDLE + 3_000,
  );
  return [
    `${others.length} tenants with one user each, who reads products; memory of the JavaScript heap and of buffers`,
    '',
    '| tenants | KiB for one | MiB for 1,000 |',
    '| --- | ---: | ---: |',
    `| in use: one connection each | ${figures(inUse)} |`,
    `| at rest: known, without a connection | ${figures(atRest)} |`,
  ].join('\n');
}

function figures(bytes: number): string {
  return `${(bytes / 1_024).toFixed(1)} | ${((bytes * 1_000) / 2 ** 20).toFixed(1)}`;
}

/** The bytes for each of `others`. Closes the service. */
async function perTenant(
  service: TestService,
  first: readonly TestTenant[],
  others: readonly TestTenant[],
  restFor: number,
): Promise<number> {
  try {
    for (let round = 0; round < 20; round += 1) await useAll(service, first);
    await sleep(restFor);
    const before = await held();
    for (let round = 0; round < 3; round += 1) await useAll(service, others);
    await sleep(restFor);
    return ((await held()) - before) / others.length;
  } finally {
    await service.close();
  }
}

async function useAll({ send }: TestService, tenants: readonly TestTenant[]): Promise<void> {
  for (const { adminToken: token, slug } of tenants) {
    const { status, text } = await send('GET', '/products?limit=5', { token });
    if (status !== 200) throw new Error(`${slug}: ${status} ${text}`);
  }
}

/** The bytes that are in use after everything unused was collected. */
async function held(): Promise<number> {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  for (let round = 0; round < 5; round += 1) {
    collect();
    await sleep(200);
  }
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}
