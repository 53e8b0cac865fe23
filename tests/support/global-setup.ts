// Runs once a run: starts the server that all test files share, which they find with `inject('cluster')`.
import type { TestProject } from 'vitest/node';
import { startCluster, type TestCluster } from './cluster.js';

declare module 'vitest' {
  interface ProvidedContext {
    readonly cluster: TestCluster;
  }
}

/**
 * With `minimal`, a new database is not copied into the WAL too: a run makes more than a thousand. This server has no standby that
 * needs the WAL.
 */
const SETTINGS = { wal_level: 'minimal', max_wal_senders: '0' };

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const { cluster, stop } = await startCluster(SETTINGS);
  project.provide('cluster', cluster);
  return stop;
}
