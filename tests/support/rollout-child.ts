// A worker of a rollout of the next build, as a process of its own, until it is killed or the rollout ends. It prints the id of each
// tenant that is done.
// Usage: node --import tsx tests/support/rollout-child.ts <TestCluster as JSON> <registry database> <rollout id> <ms for a migration>
import { sql } from 'kysely';
import { createEngine } from '../../src/engine/index.js';
import { createLogger } from '../../src/observability/logger.js';
import type { TestCluster } from './cluster.js';
import { addColumn, nextRollouts } from './next-build.js';
import { configFor } from './service.js';

const [cluster = '', registry = '', id = '', slow = '0'] = process.argv.slice(2);
const config = configFor(JSON.parse(cluster) as TestCluster, registry);
const engine = await createEngine(config, createLogger(config.log));
const rollouts = nextRollouts(engine, {
  up: async (db) => {
    await addColumn(db);
    await sql`select pg_sleep(${Number(slow) / 1_000}::float8)`.execute(db);
  },
  onItem: ({ tenantId, outcome }) => {
    if (outcome === 'done') process.stdout.write(`${tenantId}\n`);
  },
});
await rollouts.work({ id });
await engine.close();
