// Compares the connections to a server that the service counts with those that the server has. A replica's sessions are never more
// than the slots in use, and the slots in use never more than the budget.
import type { FastifyInstance } from 'fastify';
import { sql } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Governors } from '../../src/connections/governors.js';
import type { SecondCluster } from './second-cluster.js';

export interface Sampler {
  /** Describes each sample that was wrong. */
  readonly wrong: string[];
  /** Maximum of sessions on the server, and of unknown backends, in any sample. */
  readonly most: { sessions: number; unknown: number };
  readonly samples: number;
  stop(): Promise<void>;
}

type Place = Parameters<Governors['at']>[0];

/** Slots in use, those of provisioning included. */
export function usedSlots(app: FastifyInstance, place: Place): number {
  const { tenants, reserve } = app.engine.governors.at(place);
  return tenants.stats().used + reserve.stats().used;
}

/** Sessions of the replica on the server, as its superuser sees them. */
export async function sessionsOf(app: FastifyInstance, server: SecondCluster): Promise<number> {
  return server.asSuperuser('postgres', (db) => countSessions(app, db));
}

async function countSessions(
  app: FastifyInstance,
  db: Parameters<Parameters<SecondCluster['asSuperuser']>[1]>[0],
): Promise<number> {
  const { rows } = await sql<{ sessions: number }>`
    select count(*)::int as sessions from pg_stat_activity where application_name like ${`%${app.engine.replicaId}`}`.execute(
    db,
  );
  return rows[0]?.sessions ?? 0;
}

/** Starts a sampler; stop it. */
export function startSampler(app: FastifyInstance, place: Place, server: SecondCluster, budget: number): Sampler {
  const wrong: string[] = [];
  const most = { sessions: 0, unknown: 0 };
  let samples = 0;
  let stopped = false;
  const sampling = server.asSuperuser('postgres', async (db) => {
    while (!stopped) {
      const before = usedSlots(app, place);
      const sessions = await countSessions(app, db).catch(() => undefined);
      const after = usedSlots(app, place);
      if (sessions !== undefined) {
        samples += 1;
        most.sessions = Math.max(most.sessions, sessions);
        // Sessions that opened or closed during the query may be in its result or not.
        if (sessions > Math.max(before, after)) wrong.push(`${sessions} sessions, ${Math.max(before, after)} counted`);
      }
      if (after > budget) wrong.push(`${after} slots in use of ${budget}`);
      most.unknown = Math.max(most.unknown, app.engine.governors.at(place).tenants.stats().unknown);
      await sleep(20);
    }
  });
  return {
    wrong,
    most,
    get samples() {
      return samples;
    },
    async stop() {
      stopped = true;
      await sampling;
    },
  };
}
