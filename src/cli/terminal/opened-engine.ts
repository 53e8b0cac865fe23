// The engine for one command: it serves nothing, runs no jobs, leases no slots of tenants and is no replica. A PostgreSQL that starts by
// itself is entered if a service runs it, and started and stopped otherwise.
import { prepareCommand } from '../../boot/index.js';
import { readSettings, type Settings } from '../../config/index.js';
import type { EmbeddedCluster } from '../../embedded/embedded-cluster.js';
import { createEngine, type Engine } from '../../engine/index.js';
import { createLogger } from '../../observability/logger.js';

/** @throws ConfigError, StartProblem and the errors of `work` */
export async function withEngine<T>(
  environment: NodeJS.ProcessEnv,
  work: (engine: Engine, settings: Settings) => Promise<T>,
): Promise<T> {
  const settings = readSettings(environment);
  const { log: options } = settings;
  // The lines of the rooms are no answer to the person who types this. Standard output has the result only.
  const level = ['debug', 'trace'].includes(options.level) ? options.level : 'silent';
  const log = createLogger({ level, pretty: false }, { write: (line) => void process.stderr.write(line) });
  let embedded: EmbeddedCluster | undefined;
  let engine: Engine | undefined;
  try {
    const config = await prepareCommand(settings, log, (cluster) => {
      embedded = cluster;
    });
    engine = await createEngine(config, log);
    return await work(engine, settings);
  } finally {
    await engine?.close();
    await embedded?.stop();
  }
}
