// An engine that serves until it is killed, as a process of its own. It prints the id of its replica as soon as it serves.
// Usage: node --import tsx tests/support/serving-child.ts <TestCluster as JSON> <registry database>
import { createEngine } from '../../src/engine/index.js';
import { createLogger } from '../../src/observability/logger.js';
import type { TestCluster } from './cluster.js';
import { configFor } from './service.js';

const [cluster = '', registry = ''] = process.argv.slice(2);
const config = configFor(JSON.parse(cluster) as TestCluster, registry);
const engine = await createEngine(config, createLogger(config.log));
await engine.serve();
process.stdout.write(`${engine.replicaId}\n`);
// The engine's own timers keep no process alive.
setInterval(() => undefined, 60_000);
process.on('SIGTERM', () => {
  void engine.close().then(() => process.exit(0));
});
