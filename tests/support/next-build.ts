// A build with one more migration of tenants: workers of its rollouts, on the engines of a test.
import { sql, type Kysely } from 'kysely';
import type { Migrations } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import type { Engine } from '../../src/engine/index.js';
import type { FleetServer } from '../../src/rollouts/fleet-servers.js';
import { createRolloutActs, type RolloutActs, type RolloutItem } from '../../src/rollouts/rollout-acts.js';
import {
  createRolloutWorker,
  type RolloutWorker,
  type RolloutWorkerDeps,
  type WorkEnd,
} from '../../src/rollouts/rollout-worker.js';
import { createTenantLocks } from '../../src/tenants/tenant-locks.js';

/** The newest migration of the next build. */
export const NEXT = '9999_next';

/** Fails if it runs twice, or if the column is there already. */
export async function addColumn(db: Kysely<unknown>): Promise<void> {
  await sql`alter table products add column next integer`.execute(db);
}

/** @param up adds the column; may do more */
export function nextBuild(up: (db: Kysely<unknown>) => Promise<void> = addColumn): Migrations {
  return { ...tenantMigrations, [NEXT]: { up } };
}

export interface NextRollouts extends RolloutActs {
  readonly worker: RolloutWorker;
  /** Works until the rollout ends or waits for something else. */
  work(rollout: { readonly id: string }): Promise<WorkEnd>;
  allItems(rollout: { readonly id: string }): Promise<RolloutItem[]>;
}

export interface NextOptions extends Partial<RolloutWorkerDeps> {
  readonly up?: (db: Kysely<unknown>) => Promise<void>;
  /** Databases of a server at once; 3 if it is not given. */
  readonly atOnce?: number;
  /** Stands between the worker and the database of a tenant. */
  readonly inside?: ((database: string, work: () => Promise<unknown>) => Promise<unknown>) | undefined;
}

type NextEngine = Pick<Engine, 'registry' | 'lockSession' | 'replicaId' | 'installation' | 'provisioners'>;

/** The rollouts of the next build, as an engine of that build has them. */
export function nextRollouts(engine: NextEngine, options: NextOptions = {}): NextRollouts {
  const { up, atOnce = 3, inside, ...more } = options;
  const { registry, lockSession, replicaId, installation, provisioners } = engine;
  const acts = createRolloutActs({ registry, target: NEXT });
  const worker = createRolloutWorker({
    registry,
    lockSession,
    locks: createTenantLocks(lockSession),
    worker: replicaId,
    installation,
    migrations: nextBuild(up),
    prepare: () => Promise.resolve(),
    servers: {
      at: async (place): Promise<FleetServer> => {
        const provisioner = await provisioners.at(place);
        const through: FleetServer['inDatabase'] = (database, work) =>
          inside
            ? (inside(database, () => provisioner.inDatabase(database, work)) as ReturnType<typeof work>)
            : provisioner.inDatabase(database, work);
        return { ...provisioner, inDatabase: through, atOnce };
      },
    },
    ...more,
  });
  return {
    ...acts,
    worker,
    work: ({ id }) => worker.work({ id }, new AbortController().signal),
    allItems: ({ id }) => acts.items({ rolloutId: id, limit: 10_000 }),
  };
}
