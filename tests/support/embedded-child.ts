// A minimal service, for tests that kill it: starts the embedded cluster in the given home, prints its address, and keeps running.
// Usage: node --import tsx tests/support/embedded-child.ts <home> <superuser password>
import { startEmbeddedCluster } from '../../src/embedded/embedded-cluster.js';

const [home = '', superuserPassword = ''] = process.argv.slice(2);
const ignore = (): void => undefined;
const { pid, port } = await startEmbeddedCluster({
  home,
  superuserPassword,
  log: { info: ignore, warn: ignore, error: ignore },
});
process.stdout.write(`${JSON.stringify({ pid, port })}\n`);
setInterval(ignore, 60_000);
