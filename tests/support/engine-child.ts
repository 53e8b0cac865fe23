// A script that opens an engine, makes a tenant and closes. It must end by itself.
// Usage: node --import tsx tests/support/engine-child.ts <TestCluster as JSON> <registry database>
import { createEngine } from '../../src/engine/index.js';
import { createLogger } from '../../src/observability/logger.js';
import type { TestCluster } from './cluster.js';
import { ADMIN, configFor } from './service.js';

const [cluster = '', registry = ''] = process.argv.slice(2);
const config = configFor(JSON.parse(cluster) as TestCluster, registry);
const engine = await createEngine(config, createLogger(config.log));
try {
  const { password, ...admin } = ADMIN;
  const passwordHash = await engine.passwords.hash(password, 'operators');
  const tenant = await engine.provisioning.create(
    { name: 'By a script', slug: 'by-a-script', poolOptions: {}, admin: { ...admin, passwordHash } },
    { actor: { kind: 'none' } },
  );
  const { replicaId, registryPool } = engine;
  process.stdout.write(JSON.stringify({ id: tenant.id, replicaId, sessions: registryPool.stats().total }));
} finally {
  await engine.close();
}
