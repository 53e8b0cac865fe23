// Runs once a run: starts the server that all test files share, which they find with `inject('cluster')`.
import type { TestProject } from 'vitest/node';
import { startCluster, type TestCluster } from './cluster.js';

declare module 'vitest' {
  interface ProvidedContext {
    readonly cluster: TestCluster;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const { cluster, stop } = await startCluster();
  project.provide('cluster', cluster);
  return stop;
}
