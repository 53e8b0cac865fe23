// Runs once a run: starts the server that all test files share, which they find with `inject('cluster')`.
import type { TestProject } from 'vitest/node';
import { startCluster, type TestCluster } from './cluster.js';

declare module 'vitest' {
  interface ProvidedContext {
    readonly cluster: TestCluster;
  }
}

/** No standby follows this server. So a new database need not be copied into the log as well: a run makes more than a thousand. */
const SETTINGS = { wal_level: 'minimal', max_wal_senders: '0' };

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const { cluster, stop } = await startCluster(SETTINGS);
  project.provide('cluster', cluster);
  return stop;
}
