// `npm run profile:jobs`: what a replica without requests costs, by its jobs, when the registry has many tenants.
import { setTimeout as sleep } from 'node:timers/promises';
import { createEngine } from '../src/engine/index.js';
import { defineCommand, runCommand, wholeNumber, type CommandLine } from '../src/lib/command-line.js';
import { createLogger } from '../src/observability/logger.js';
import { startCluster, type TestCluster } from '../tests/support/cluster.js';
import { fillFleet } from '../tests/support/large-fleet.js';
import { startRedis } from '../tests/support/redis.js';
import { startSecondCluster } from '../tests/support/second-cluster.js';
import { configFor, connectTo, createRegistryIn } from '../tests/support/service.js';
import { IdleMeter, STATEMENT_SETTINGS, type IdleCosts } from '../tests/support/idle-meter.js';
import { say } from './command.js';

/** What POST /clusters adds to its body. */
const DEFAULTS = { region: null, weight: 100, accepting: true, tlsCa: null, standbyTarget: 0 };

const profileJobs = defineCommand({
  start: 'npm run profile:jobs --',
  about: `
Starts two PostgreSQL servers and Redis, fills the registry with tenants, and lets one replica serve without a request. Shows
what its jobs cost: statements, rows read, processor time, delays of the event loop and transaction ids.`,
  flags: {
    tenants: wholeNumber({
      what: 'rows of tenants, spread over two servers',
      min: 1_000,
      max: 200_000,
      default: 10_000,
    }),
    databases: wholeNumber({ what: 'how many of them have a real database', min: 0, max: 1_000, default: 200 }),
    seconds: wholeNumber({ what: 'how long to measure', min: 5, max: 3_600, default: 60 }),
    'settle-for': wholeNumber({
      what: 'seconds before, in which the first runs of the jobs end',
      min: 1,
      max: 600,
      default: 20,
    }),
  },
  exits: { 0: 'shown' },
});

await runCommand(profileJobs, async ({ flags }: CommandLine<typeof profileJobs.flags>) => {
  const { cluster, stop } = await startCluster(STATEMENT_SETTINGS);
  const second = await startSecondCluster();
  const redis = await startRedis();
  try {
    say(await profile(cluster, second, redis.url, flags));
  } finally {
    await Promise.allSettled([stop(), second.stop(), redis.close()]);
  }
  return 0;
});

async function profile(
  cluster: TestCluster,
  second: Awaited<ReturnType<typeof startSecondCluster>>,
  redisUrl: string,
  flags: {
    readonly tenants: number;
    readonly databases: number;
    readonly seconds: number;
    readonly 'settle-for': number;
  },
): Promise<string> {
  const database = await createRegistryIn(cluster);
  const config = configFor(cluster, database, { LOG_LEVEL: 'error', REDIS_URL: redisUrl });
  const engine = await createEngine(config, createLogger(config.log));
  const admin = connectTo<unknown>(cluster, database);
  try {
    await engine.defaultCluster.ensure();
    await engine.clusterRegistration.register({ ...second.body, ...DEFAULTS }, { actor: { kind: 'none' } });
    const places = [
      { connection: cluster.superuser, provisioner: cluster.provisioner.user },
      { connection: second.superuser, provisioner: second.provisioner.user },
    ];
    await fillFleet(admin.db, places, flags);
    await engine.serve();
    await sleep(flags['settle-for'] * 1_000);
    const meter = await IdleMeter.begin(admin.db, cluster.logFile);
    await sleep(flags.seconds * 1_000);
    return table(await meter.end(), flags.seconds, flags.tenants);
  } finally {
    await engine.close();
    await admin.close(0);
  }
}

function table(costs: IdleCosts, seconds: number, tenants: number): string {
  const aMinute = (count: number): string => ((count * 60) / seconds).toFixed(0);
  const lines = [
    `${tenants} tenants, measured for ${seconds} s; counts are for a minute`,
    '',
    '| what | figure |',
    '| --- | ---: |',
    `| processor time of the process, ms | ${aMinute(costs.cpuMs)} |`,
    `| longest delay of the event loop, ms | ${costs.delayMax.toFixed(1)} |`,
    `| 99th percentile of the delay, ms | ${costs.delayP99.toFixed(1)} |`,
    `| transaction ids | ${aMinute(costs.transactionIds)} |`,
    `| sequential scans of tenants | ${aMinute(costs.tenants.seqScans)} |`,
    `| rows of tenants read by them | ${aMinute(costs.tenants.seqRows)} |`,
    `| rows of tenants read by index | ${aMinute(costs.tenants.indexRows)} |`,
    `| time of PostgreSQL's statements, ms | ${aMinute(costs.statementMs)} |`,
    '',
    '| connections named | statements |',
    '| --- | ---: |',
    ...costs.byApplication.map(([name, count]) => `| ${name} | ${aMinute(count)} |`),
    '',
    '| statement | calls | rows | ms |',
    '| --- | ---: | ---: | ---: |',
    ...costs.top.map(
      ({ text, calls, rows, ms }) =>
        `| ${text} | ${aMinute(calls)} | ${aMinute(rows)} | ${((ms * 60) / seconds).toFixed(1)} |`,
    ),
  ];
  return lines.join('\n');
}
