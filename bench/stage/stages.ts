// The stages, each opened when a scenario first needs it. Only one is open at a time: another stage's processes would disturb the
// measurement.
import { Cleanup } from '../cleanup.js';
import type { Flags } from '../flags.js';
import type { PreparedServer } from './cluster.js';
import { openFailover, type Failover } from './failover.js';
import { openFleet, openWholeFleet, type Fleet } from './fleet.js';
import { openPair, type Pair } from './pair.js';

export interface Stages {
  pair(): Promise<Pair>;
  fleet(): Promise<Fleet>;
  /** A fleet whose databases the scenario changes: no other scenario gets it. PostgreSQL waits for the disk. */
  wholeFleet(): Promise<Fleet>;
  failover(): Promise<Failover>;
  /** PostgreSQL's version on the last opened stage. */
  readonly postgres: string;
  /** The last complaints of the open stage's service. */
  complaints(): Promise<string>;
}

interface Stage {
  readonly cluster: Pick<PreparedServer, 'version'>;
  complaints(): Promise<string>;
}

export function createStages(flags: Flags, cleanup: Cleanup): Stages {
  let current: Stage | undefined;
  let close: (() => Promise<void>) | undefined;
  let postgres = 'unknown';

  /** A stage that opens once, and again if another stage was opened meanwhile. */
  function stage<T extends Stage>(open: (flags: Flags, cleanup: Cleanup) => Promise<T>): () => Promise<T> {
    let own: T | undefined;
    return async () => {
      if (own && own === current) return own;
      await close?.();
      const nested = await cleanup.start(
        () => new Cleanup(),
        (started) => started.run(),
      );
      close = () => nested.run();
      own = await open(flags, nested);
      current = own;
      postgres = own.cluster.version;
      return own;
    };
  }

  return {
    pair: stage(openPair),
    fleet: stage(openFleet),
    wholeFleet: stage(openWholeFleet),
    failover: stage(openFailover),
    get postgres() {
      return postgres;
    },
    complaints: async () => current?.complaints() ?? '',
  };
}
